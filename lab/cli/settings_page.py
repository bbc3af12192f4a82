"""The page docs/settings.md, made from the config fields: `python -m lab.cli.settings_page` writes it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lab.config import PRESET_HINTS, PRESETS, FineTuneConfig, Leaf, PretrainConfig, flat, leaves
from lab.files import write_bytes
from lab.paths import REPOSITORY

PATH = REPOSITORY / "docs" / "settings.md"

INTRODUCTION = """# Settings

Made from the config fields by `python -m lab.cli.settings_page`; a test keeps it current. The form in the app,
the flags of `lab train` and `lab fork`, and `config.json` in a run's folder all come from the same fields.

Values are laid over each other: defaults, then the preset, then `--like RUN`, then the flags you type.
`none` empties a setting that may be empty. One of `--max-steps`, `--max-epochs`, `--max-minutes` is the budget:
giving one clears the others.
"""


FINE_TUNING = """
# Fine-tuning

The settings of `lab finetune` that pretraining does not have, or that mean something else or start elsewhere here. All
others are those above.
"""


def page() -> str:
    """The whole page as Markdown."""
    presets = {name: flat(preset) for name, preset in PRESETS.items()}
    parts = [INTRODUCTION, "## Presets\n", *(f"- `{name}`: {hint}" for name, hint in PRESET_HINTS.items())]
    parts += _tables(leaves(PretrainConfig), presets)
    above = {replace(leaf, section="") for leaf in leaves(PretrainConfig)}
    parts += [FINE_TUNING.rstrip("\n")]
    parts += _tables([leaf for leaf in leaves(FineTuneConfig) if replace(leaf, section="") not in above], {})
    return "\n".join(parts) + "\n"


def _tables(shown: Sequence[Leaf], presets: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A heading and a table for each group."""
    groups: dict[str, list[Leaf]] = {}
    for leaf in shown:
        groups.setdefault(leaf.group, []).append(leaf)
    parts = []
    for group, members in groups.items():
        parts += [f"\n## {group}\n", "| setting | flag | values | default | what it does |", "|---|---|---|---|---|"]
        parts += [_row(leaf, presets) for leaf in members]
    return parts


def _row(leaf: Leaf, presets: Mapping[str, Mapping[str, Any]]) -> str:
    flag = "set by the lab" if leaf.level == "derived" else f"`{leaf.flag}`"
    if leaf.type is bool:
        flag += f" `--no-{leaf.flag[2:]}`"
    cells = (leaf.title, flag, _values(leaf), _defaults(leaf, presets), leaf.hint)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _values(leaf: Leaf) -> str:
    if leaf.choices:
        return ", ".join(f"`{choice}`" for choice in leaf.choices)
    if leaf.type is bool:
        return "on, off"
    if leaf.type is str:
        return "texts" if leaf.many else "text"
    assert leaf.minimum is not None
    low = f"{'more than' if leaf.exclusive_minimum else 'from'} {leaf.minimum:,g}"
    high = "" if leaf.maximum is None else f" {'to less than' if leaf.exclusive_maximum else 'to'} {leaf.maximum:,.10g}"
    return low + high


def _defaults(leaf: Leaf, presets: Mapping[str, Mapping[str, Any]]) -> str:
    """The default, and what each preset that differs has instead."""
    values = {name: preset[leaf.name] for name, preset in presets.items()}
    others = [f"{name} {_said(leaf, value)}" for name, value in values.items() if value != leaf.default]
    return _said(leaf, leaf.default) + (f" ({', '.join(others)})" if others else "")


def _said(leaf: Leaf, value: Any) -> str:
    if value is None:
        return f"none: {leaf.none_label}"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ", ".join(map(repr, value)) or "none"
    return f"{value:,g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    write_bytes(PATH, page().encode())
    print(f"wrote {PATH}")

"""From layers of flat values to a checked config: defaults < preset < `--like RUN` < flags.

All mistakes are found in one go: field by field first, then the rules between fields over the raw values
(pydantic alone would hide the second behind the first).
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from lab.config.finetune import FINETUNE_RULES, FineTuneConfig
from lab.config.knobs import Leaf, leaves, sections
from lab.config.pretrain import BUDGET_FIELDS, PRETRAIN_RULES, PretrainConfig
from lab.errors import ConfigError

RunConfig = PretrainConfig | FineTuneConfig
"""What a run directory may hold."""

C = TypeVar("C", bound=RunConfig)

Rule = Callable[[dict[str, Any]], str | None]

RULES: dict[type[BaseModel], tuple[Rule, ...]] = {PretrainConfig: PRETRAIN_RULES, FineTuneConfig: FINETUNE_RULES}

KINDS: dict[str, type[PretrainConfig] | type[FineTuneConfig]] = {
    "pretrain": PretrainConfig,
    "finetune": FineTuneConfig,
}


def flat(config: BaseModel) -> dict[str, Any]:
    """Every knob's value by its leaf name."""
    return {
        leaf: value
        for section in sections(type(config))
        for leaf, value in getattr(config, section).model_dump().items()
    }


def layered(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Lay flat values over each other, later ones on top.

    The three budget fields are one choice: a layer that sets one of them clears the other two from below.
    """
    result: dict[str, Any] = {}
    for layer in layers:
        if any(layer.get(name) is not None for name in BUDGET_FIELDS):
            result.update(dict.fromkeys(BUDGET_FIELDS))
        result.update(layer)
    return result


def build(kind: type[C], *layers: Mapping[str, Any]) -> C:
    """A checked config of this kind from layers of flat values over the defaults.

    Raises:
        ConfigError: with one sentence for each mistake, of all of them.
    """
    values = layered(flat(kind()), *layers)
    mistakes, values = check_fields(kind, values)
    mistakes += check_rules(values, RULES[kind])  # over the fields that are fine: both kinds of mistake show at once
    if mistakes:
        raise ConfigError(mistakes)
    return nest(kind, values)


def build_pretrain(*layers: Mapping[str, Any]) -> PretrainConfig:
    """As `build`, for a GPT from scratch."""
    return build(PretrainConfig, *layers)


def build_finetune(*layers: Mapping[str, Any]) -> FineTuneConfig:
    """As `build`, for a model that is there already."""
    return build(FineTuneConfig, *layers)


def nest(config: type[C], values: Mapping[str, Any]) -> C:
    """Put flat, already checked values into their sections."""
    nested = {
        name: section(**{leaf: values[leaf] for leaf in section.model_fields})
        for name, section in sections(config).items()
    }
    return config(**nested)  # type: ignore[arg-type]


def changed(config: C, **values: Any) -> C:
    """A copy with some knobs changed, checked again."""
    return build(type(config), flat(config), values)


def check_fields(config: type[BaseModel], values: Mapping[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """Check each field alone.

    Returns:
        The mistakes as sentences, and the values converted to their types ("50" becomes 50). A field with a
        mistake is left out.
    """
    known = {leaf.name: leaf for leaf in leaves(config)}
    mistakes: list[str] = []
    result = {name: leaf.default for name, leaf in known.items()}
    for name, value in values.items():
        if name not in known:
            mistakes.append(_unknown(name, known))
            continue
        leaf = known[name]
        field = sections(config)[leaf.section].model_fields[name]
        try:
            result[name] = TypeAdapter(_annotated(field)).validate_python(value)
        except ValidationError:
            mistakes.append(_sentence(leaf, value))
            del result[name]
    return mistakes, result


def check_rules(values: Mapping[str, Any], rules: tuple[Rule, ...]) -> list[str]:
    """The sentences of all cross-field rules that are broken. A rule about a field that is missing is not asked."""
    broken = []
    for rule in rules:
        try:
            sentence = rule(dict(values))
        except KeyError:
            continue
        if sentence:
            broken.append(sentence)
    return broken


def _annotated(field: Any) -> Any:
    from typing import Annotated

    return Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation


def _unknown(name: str, known: Mapping[str, Leaf]) -> str:
    import difflib

    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"the settings are {', '.join(known)}."
    return f"There is no setting {name!r}: {hint}"


def _sentence(leaf: Leaf, value: Any) -> str:
    if leaf.choices:
        return f"{leaf.name} is {value!r}, but must be one of {', '.join(leaf.choices)}."
    bounds = []
    if leaf.minimum is not None:
        bounds.append(f"{'more than' if leaf.exclusive_minimum else 'at least'} {leaf.minimum:,g}")
    if leaf.maximum is not None:
        bounds.append(f"{'less than' if leaf.exclusive_maximum else 'at most'} {leaf.maximum:,g}")
    word = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(leaf.type, "")
    wanted = " and ".join(bounds)
    if leaf.optional:
        wanted = f"{wanted}, or not set" if wanted else "or not set"
    return f"{leaf.name} is {value!r}, but must be {word}{' of ' + wanted if wanted else ''}."

"""One knob, one definition: what a config field says about itself, and how others read it.

The sidebar form, the command line, the stored config and the reference page are all made from `leaves`.
"""

import types
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

Level = Literal["basic", "advanced", "derived"]
"""basic: shown first. advanced: folded. derived: the lab decides it; stored, never a widget or a flag."""


class Section(BaseModel):
    """A group of knobs. Frozen, because a config is a value; strict about names, because a typo is a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


def knob(
    default: Any,
    title: str,
    help: str,
    *,
    unit: str = "",
    level: Level = "advanced",
    group: str = "Training",
    effect: str = "",
    none_label: str = "",
    **bounds: Any,
) -> Any:
    """A config field that describes itself.

    Args:
        title: the label a person sees.
        help: what it does, in a sentence or two.
        unit: "tokens", "steps", "seconds" …; empty for a plain number.
        group: the fold of the form it belongs to.
        effect: what it costs and buys: speed, memory, learning.
        none_label: for optional fields, what "not set" means.
        bounds: ge, gt, le, lt, multiple_of as in pydantic.
    """
    extra: JsonDict = {"unit": unit, "level": level, "group": group, "effect": effect, "none_label": none_label}
    if isinstance(default, float) or (none_label and any(isinstance(v, float) for v in bounds.values())):
        bounds["allow_inf_nan"] = False
    return Field(default, title=title, description=help, json_schema_extra=extra, **bounds)


def knob_of(section: type[Section], name: str, default: Any, **changes: str) -> Any:
    """The same knob as in another section, with its bounds, for a config in which it starts with another default.

    Args:
        changes: title, help, unit, effect or none_label where it means something else there.
    """
    leaf = _leaf(name, "", section.model_fields[name])
    said = {key: getattr(leaf, key) for key in ("title", "help", "unit", "effect", "none_label")}
    bounds = {
        ("gt" if leaf.exclusive_minimum else "ge"): leaf.minimum,
        ("lt" if leaf.exclusive_maximum else "le"): leaf.maximum,
    }
    kept: dict[str, Any] = {key: bound for key, bound in bounds.items() if bound is not None}
    return knob(default, level=leaf.level, group=leaf.group, **{**said, **changes}, **kept)


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """One knob as the form, the flags and the docs see it."""

    name: str
    section: str
    title: str
    help: str
    unit: str
    level: Level
    group: str
    effect: str
    none_label: str
    type: type
    optional: bool
    many: bool
    choices: tuple[str, ...]
    minimum: float | None
    maximum: float | None
    exclusive_minimum: bool
    exclusive_maximum: bool
    default: Any

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def hint(self) -> str:
        """Help, unit and effect as one text for a tooltip."""
        parts = [self.help, self.effect, f"Unit: {self.unit}." if self.unit else ""]
        return " ".join(part for part in parts if part)


def sections(config: type[BaseModel]) -> dict[str, type[Section]]:
    """The sections of a config class, by field name."""
    return {
        name: field.annotation
        for name, field in config.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    }


def leaves(config: type[BaseModel]) -> list[Leaf]:
    """Every knob of a config class, in the order they are written."""
    return [
        _leaf(name, section_name, field)
        for section_name, section in sections(config).items()
        for name, field in section.model_fields.items()
    ]


def _leaf(name: str, section: str, field: FieldInfo) -> Leaf:
    annotation, optional = _strip_none(field.annotation)
    many = get_origin(annotation) is tuple
    if many:
        annotation = get_args(annotation)[0]
    choices: tuple[str, ...] = ()
    if get_origin(annotation) is Literal:
        choices = get_args(annotation)
        annotation = str
    extra = field.json_schema_extra
    assert isinstance(extra, dict), f"{name} is not made by knob()"
    assert field.default is not PydanticUndefined, f"{name} has no default"
    bounds: dict[str, float] = {}
    for item in field.metadata:
        for key in ("ge", "gt", "le", "lt"):
            if getattr(item, key, None) is not None:
                bounds[key] = getattr(item, key)
    return Leaf(
        name=name,
        section=section,
        title=field.title or name,
        help=field.description or "",
        type=annotation,
        optional=optional,
        many=many,
        choices=choices,
        minimum=bounds.get("ge", bounds.get("gt")),
        maximum=bounds.get("le", bounds.get("lt")),
        exclusive_minimum="gt" in bounds,
        exclusive_maximum="lt" in bounds,
        default=field.default,
        **extra,  # type: ignore[arg-type]
    )


def _strip_none(annotation: Any) -> tuple[Any, bool]:
    if get_origin(annotation) in (Union, types.UnionType):
        rest = [item for item in get_args(annotation) if item is not type(None)]
        assert len(rest) == 1, f"a knob has one type, not {annotation}"
        return rest[0], True
    return annotation, False

"""Describe the fields of a recipe: types, bounds, conditions, and texts for `--help`."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

Fraction = Annotated[float, Field(ge=0, lt=1)]
Seeds = int | tuple[int, ...]  # a number of seeds, or the seeds
BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


class StrictModel(BaseModel):
    """Base class of a recipe's tables. Immutable, without unknown keys, infinities or NaN.

    The only type conversion is from int to float.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


@dataclass(frozen=True)
class OnlyWith:
    """Metadata of a field that has an effect only if another field has a certain value."""

    names: tuple[str, ...]  # dotted names of the other fields; one of them is enough
    values: tuple[str, ...] = ()  # values that give the field an effect; empty for any above 0

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Return False if the field has no effect.

        Args:
            values: values by dotted name. Fields that are missing are not considered.
        """
        others = [values[name] for name in self.names if name in values]
        return not others or any(v in self.values if self.values else v for v in others)

    def describe(self, spelled: Callable[[str], str] = str) -> str:
        """Return the condition as text, such as `schedule.name step or exponential`.

        Args:
            spelled: formats a dotted name.
        """
        return f"{_join_or(map(spelled, self.names))} {_join_or(self.values) or 'above 0'}"


class FieldType(NamedTuple):
    """A type in `--help` and in messages, and how the text of a flag is converted to it."""

    metavar: str
    words: str
    converters: tuple[Callable[[str], Any], ...]  # the first one that succeeds is used


def _boolean(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()]


def _integers(text: str) -> list[int]:
    return [int(part) for part in text.removesuffix(",").split(",")]


TYPES: dict[Any, FieldType] = {
    bool: FieldType("true|false", "true or false", (_boolean,)),
    int: FieldType("INT", "an integer", (int,)),
    float: FieldType("FLOAT", "a number", (int, float)),
    str: FieldType("TEXT", "text", ()),
    Seeds: FieldType("INT|INT,INT,...", "an integer or a list of integers", (int, _integers)),
}


def model_fields(model: type[StrictModel], prefix: str = "") -> dict[str, FieldInfo]:
    """Return the fields of a model and of the tables in it by dotted name."""
    fields = {}
    for name, info in model.model_fields.items():
        fields[prefix + name] = info
        if isinstance(info.annotation, type) and issubclass(info.annotation, StrictModel):
            fields |= model_fields(info.annotation, f"{prefix}{name}.")
    return fields


def choices(info: FieldInfo) -> tuple[str, ...]:
    """Return the allowed texts of a field, or an empty tuple if the field is not an enumeration."""
    return get_args(info.annotation) if get_origin(info.annotation) is Literal else ()


def metavar(info: FieldInfo) -> str:
    """Return the type of a field for `--help`, such as `INT`, `true|false` or `sgd|adam`."""
    return "|".join(choices(info)) or TYPES[info.annotation].metavar


def allowed(info: FieldInfo) -> str:
    """Return the values that a field allows, such as `a number >= 0 and < 1`."""
    if choices(info):
        return "one of " + ", ".join(choices(info))
    if info.annotation not in TYPES:
        return "a table"
    return f"{TYPES[info.annotation].words} {_bounds(info)}".rstrip()


def describe(info: FieldInfo) -> str:
    """Return the text of a field in `--help`, without its type and default."""
    conditions = [f"only with {rule.describe()}" for rule in _conditions(info)]
    about = " ".join((info.description or "").split())
    return "; ".join(filter(None, (about, _bounds(info), *conditions)))


def parse_text(info: FieldInfo, text: str) -> Any:
    """Convert the text of a flag to the type of a field. Return the text if this is impossible."""
    for convert in TYPES[info.annotation].converters if info.annotation in TYPES else ():
        with suppress(ValueError, KeyError):
            return convert(text)
    return text


def as_text(value: Any) -> str:
    """Return the value of a field as the text of a flag. This is the inverse of `parse_text`."""
    if isinstance(value, bool):
        return f"{value}".lower()
    if isinstance(value, tuple | list):  # The comma tells a list of one seed from a count.
        return ",".join(map(str, value)) + "," * (len(value) == 1)
    return f"{value}"


def without_effect(
    names: Iterable[str],
    fields: Mapping[str, FieldInfo],
    values: Mapping[str, Any],
    spelled: Callable[[str], str] = str,
) -> Iterator[str]:
    """Yield a message for each field that has no effect.

    Args:
        names: dotted names of the fields to check.
        fields: all fields by dotted name.
        values: values by dotted name, of all fields or of some.
        spelled: formats a dotted name for the message.
    """
    for name in names:
        for rule in _conditions(fields[name]) if name in fields else ():
            if not rule.holds(values):
                needed = rule.describe(spelled)
                yield (
                    f"{spelled(name)} has no effect: it needs {needed}. "
                    "Remove it, or add what it needs."
                )


def _conditions(info: FieldInfo) -> list[OnlyWith]:
    """Return the conditions for an effect of a field. All of them must hold."""
    return [rule for rule in info.metadata if isinstance(rule, OnlyWith)]


def _bounds(info: FieldInfo) -> str:
    return " and ".join(
        f"{sign} {getattr(rule, name)}"
        for rule in info.metadata
        for name, sign in BOUNDS.items()
        if hasattr(rule, name)
    )


def _join_or(words: Iterable[str]) -> str:
    *first, last = [*words] or [""]
    return f"{', '.join(first)} or {last}" if first else last

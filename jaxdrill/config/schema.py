"""Typed tables: pydantic models whose errors are one line, with what is allowed and the nearest right name."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from jaxdrill.errors import nearest


class Table(BaseModel):
    """A table of a recipe: immutable, finite numbers only, nothing unknown, no type converted but int to float."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class OnlyWith:
    """Metadata of a field that has an effect only if another field of its table has a certain value."""

    names: tuple[str, ...]  # of the other fields; one of them is enough
    values: tuple[str, ...] = ()  # any but 0 if empty

    def holds(self, table: Mapping[str, Any]) -> bool:
        """Return False if the values of a table, which may be incomplete, leave the field without an effect."""
        held = [table[name] for name in self.names if name in table]
        return not held or any(value in self.values if self.values else value for value in held)

    def words(self, written: Callable[[str], str] = str) -> str:
        """Return the condition as text, such as `schedule.name step or exponential`; `written` formats a name."""
        return f"{_either(map(written, self.names))} {_either(self.values) or 'above 0'}"


def conditions(info: FieldInfo) -> list[OnlyWith]:
    """Return all conditions for an effect of a field; every one must hold."""
    return [rule for rule in info.metadata if isinstance(rule, OnlyWith)]


def describe(info: FieldInfo) -> str:
    """Return what `--help` says of a field, without its default."""
    needs = [f"only with {rule.words()}" for rule in conditions(info)]
    return "; ".join([f"{info.description}", *needs, allowed(info)])


def _either(words: Iterable[str]) -> str:
    *first, last = [*words] or [""]
    return f"{', '.join(first)} or {last}" if first else last


def allowed(info: FieldInfo) -> str:
    """What a field may hold, in words."""
    kind = info.annotation
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(get_args(kind))
    if kind not in (int, float):
        return {bool: "true or false", str: "text"}.get(kind, "a table")  # type: ignore[arg-type]
    words = "a whole number" if kind is int else "a number"
    bounds = {
        name: getattr(rule, name)
        for rule in info.metadata
        for name in ("ge", "gt", "le", "lt")
        if hasattr(rule, name)
    }
    low = (
        f"from {bounds['ge']}"
        if "ge" in bounds
        else f"above {bounds['gt']}"
        if "gt" in bounds
        else ""
    )
    high = (
        f"to {bounds['le']}"
        if "le" in bounds
        else f"to below {bounds['lt']}"
        if "lt" in bounds
        else ""
    )
    if low.startswith("above") and high:
        high = "and " + high.replace("to below", "below").replace("to ", "up to ")
    if low.startswith("from") and not high:
        return f"{words} of at least {bounds['ge']}"
    return " ".join(filter(None, (words, low, high)))


def parse_text(info: FieldInfo, text: str) -> Any:
    """The text of a flag as a value of the field's type; text that is none stays text, and is refused later."""
    if info.annotation is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    for kind in (int, float) if info.annotation in (int, float) else ():
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def explain(
    error: ValidationError, model: type[Table], tagged: Mapping[str, type[Table]]
) -> tuple[tuple[str, ...], str, str]:
    """The first error of a table.

    Args:
        error: what pydantic raised for `model`.
        model: the class of the whole table.
        tagged: the classes of a tagged union by their tag, which pydantic puts behind an index.

    Returns:
        The path of the field's names, without indices; the path as text, as in `network[2].kernel`; what is wrong.
    """
    details = error.errors()[0]
    names, text, info = (), "", None
    for part in details["loc"]:
        if isinstance(part, int):
            text += f"[{part + 1}]"
        elif text.endswith("]") and model not in tagged.values():
            model = tagged[part]
        else:
            known, info = model.model_fields, model.model_fields.get(part)
            names, text = (*names, part), f"{text}.{part}".lstrip(".")
            if info is None:
                return names, text, f"is unknown{nearest(part, _names(known))}"
            if isinstance(info.annotation, type) and issubclass(info.annotation, Table):
                model = info.annotation
    return names, text, _wrong(details, info)


def _names(fields: Mapping[str, FieldInfo]) -> list[str]:
    """Return the names of a table's fields, and the dotted names of the fields of tables in it."""
    tables = {
        name: info.annotation for name, info in fields.items() if isinstance(info.annotation, type)
    }
    inner = [
        f"{name}.{key}"
        for name, kind in tables.items()
        if issubclass(kind, Table)
        for key in kind.model_fields
    ]
    return [*fields, *inner]


def _wrong(details: ErrorDetails, info: FieldInfo | None) -> str:
    """What is wrong with a known field."""
    if details["type"] == "missing":
        return "is missing"
    if details["type"] == "value_error":
        return f"is {_short(details['input'])}; {details['ctx']['error']}"  # type: ignore[typeddict-item]
    if info is None or details["type"].startswith("union_tag"):
        return f"is {_short(details['input'])}"
    words, value = allowed(info), details["input"]
    choices = get_args(info.annotation) if get_origin(info.annotation) is Literal else ()
    return f"is {_short(value)}; allowed: {words}{nearest(value, choices) if isinstance(value, str) else ''}"


def _short(value: Any) -> str:
    """A value as Python writes it, or the beginning of that."""
    text = repr(value)
    return text if len(text) <= 100 else text[:97] + "..."

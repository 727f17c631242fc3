"""Recipes read from TOML files that extend each other, with flags on top.

Recipe files and flags pass through one reader, so that both get the same checks and the same messages.
This module must not import JAX: `--help` and `--dry-run` of a wrong recipe answer at once.
"""

import codecs
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from jaxdrill.config.config import Config
from jaxdrill.config.layers import KINDS, Conv
from jaxdrill.config.schema import Table, conditions, explain, parse_text
from jaxdrill.errors import UsageError, nearest, print_error
from jaxdrill.files import read_bytes, read_json

LARGEST = 2**16  # bytes of a recipe
ENCODINGS = {codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32", codecs.BOM_UTF16_LE: "UTF-16",
             codecs.BOM_UTF16_BE: "UTF-16"}  # fmt: skip  # by byte-order mark, the longer ones first
MOST_DOTS = 1000  # in it: tomllib takes the square of a key's parts in memory


def recipe_folder() -> Path:
    """The folder of the recipes: inside an installed package, beside the package in a clone."""
    package = Path(__file__).parents[1]
    return next(path for path in (package / "configs", package.parent / "configs") if path.is_dir())


def steps() -> list[str]:
    """The names of the built-in steps, `step_1` first, in the order of the drill."""
    bases = {
        path.stem: _table(path).get("extends", "") for path in recipe_folder().glob("step_*.toml")
    }
    return drill_order(bases)


def drill_order(extends: Mapping[str, str]) -> list[str]:
    """The names of recipes, each after the one that it extends, depth first; the rest in natural order, so that
    `step_10` comes after `step_2`.

    Args:
        extends: by name, the recipe that it extends, which need not be among the names.
    """

    def natural(name: str) -> list[tuple[int, str]]:
        return [(int(part or -1), text) for text, part in re.findall(r"([^\d]*)(\d*)", name)]

    def below(base: str) -> Iterator[str]:
        for name in sorted(
            (name for name in extends if extends[name] == base and name != base), key=natural
        ):
            yield name
            yield from below(name)

    roots = {base for base in extends.values() if base not in extends}
    return [name for root in sorted(roots, key=natural) for name in below(root)]


def as_flag(name: str) -> str:
    """Return the flag of a dotted field name: `--optimizer.learning-rate`."""
    return "--" + name.replace("_", "-")


def check_names(
    names: Iterable[str], spelled: Callable[[str], str] = as_flag, others: Sequence[str] = ()
) -> None:
    """Check that names are dotted names of recipe fields.

    Args:
        names: to check.
        spelled: how the message spells a dotted name.
        others: names that the caller knows too. The message may suggest one of them.

    Raises:
        UsageError: a name is unknown. The message suggests the closest known name.
    """
    fields = [name for name, _, _ in options(Config.model_construct())]
    for name in names:
        if name not in fields:
            raise UsageError(
                f"{spelled(name)} is unknown{nearest(spelled(name), [*map(spelled, fields), *others])}"
            )


def load(
    step: str,
    flags: Mapping[str, Any] = MappingProxyType({}),
    spelled: Callable[[str], str] = as_flag,
) -> Config:
    """Read a built-in step (`5` or `step_5`) or a recipe file (`mine.toml`), and print warnings about it.

    Args:
        step: the name of the step, or the path of the file.
        flags: values by dotted field name. A str is read as on the command line; other types are taken as they are.
        spelled: how messages spell a dotted field name of `flags`.

    Raises:
        UsageError: what is wrong, where, and what is allowed; or a flag has no effect.
    """
    config, path = resolve(step, flags, spelled), _find(step)
    _check_effects([config], flags, spelled)
    last = [layer for layer in config.network if isinstance(layer, Conv)][-1:]
    if last and last[0].relu:
        print_error(
            f"warning: {path}: the last convolution has relu = true, so no logit is below 0"
        )
    given = {flag.partition(".")[0] for flag in flags}
    own = {
        key: value
        for key, value in _table(path).items()
        if isinstance(value, dict) and key not in given
    }
    for problem in _without_effect(own, [f"{outer}.{key}" for outer in own for key in own[outer]]):
        print_error(f"warning: {path}: {problem}")
    return config


def load_all(flags: Mapping[str, Any] = MappingProxyType({})) -> list[Config]:
    """Read all built-in steps.

    Raises:
        UsageError: what is wrong; or a flag has no effect in any of the steps.
    """
    configs = [resolve(name, flags) for name in steps()]
    _check_effects(configs, flags)
    return configs


def resolve(
    step: str,
    flags: Mapping[str, Any] = MappingProxyType({}),
    spelled: Callable[[str], str] = as_flag,
) -> Config:
    """Read a recipe as `load`, without warnings, and with flags that have no effect.

    Raises:
        UsageError: what is wrong, where, and what is allowed.
    """
    path = _find(step)
    return from_table(path.stem, _extended(path, ()), f"{path}: ", flags, spelled)


def _find(step: str) -> Path:
    """Return the path of a step's file.

    Raises:
        UsageError: the file does not exist.
    """
    path = (
        Path(step)
        if step.endswith(".toml")
        else recipe_folder() / f"step_{step.removeprefix('step_')}.toml"
    )
    if path.is_file():
        return path
    if step.endswith(".toml"):
        raise UsageError(f"there is no recipe {step}")
    names = [*(name.removeprefix("step_") for name in steps()), "all"]
    close = nearest(step.removeprefix("step_"), names)
    raise UsageError(f"there is no step {step}{close} (steps: {', '.join(names)}, or a .toml file)")


def _check_effects(
    configs: Sequence[Config], flags: Iterable[str], spelled: Callable[[str], str] = as_flag
) -> None:
    """Raises:
    UsageError: a flag has no effect in any of the configs.
    """
    for flag in flags:
        problems = [
            next(_without_effect(config.model_dump(), [flag], spelled), None) for config in configs
        ]
        if problems[0] and all(problems):
            raise UsageError(problems[0])


def _without_effect(
    tables: Mapping[str, Any], names: Iterable[str], written: Callable[[str], str] = str
) -> Iterator[str]:
    """Describe the fields that have no effect with the values in `tables`.

    Args:
        tables: the recipe's tables by name, or a part of them.
        names: the dotted names of the fields to check.
        written: formats a dotted name for the message.
    """
    known = {dotted: info for dotted, info, _ in options(Config.model_construct())}
    for dotted in names:
        outer = dotted.partition(".")[0]
        for rule in conditions(known[dotted]) if dotted in known else ():
            if not rule.holds(tables[outer]):
                needed = rule.words(lambda name, outer=outer: written(f"{outer}.{name}"))
                yield f"{written(dotted)} has no effect: it needs {needed}. Remove it, or add what it needs."


def from_table(
    name: str,
    table: Mapping[str, Any],
    source: str,
    flags: Mapping[str, Any] = MappingProxyType({}),
    spelled: Callable[[str], str] = as_flag,
) -> Config:
    """Build the config of a complete recipe table.

    Args:
        name: of the recipe.
        table: the recipe's fields.
        source: starts each message about the table, such as `mine.toml: `.
        flags: as in `load`.
        spelled: as in `load`.

    Raises:
        UsageError: what is wrong, where, and what is allowed.
    """
    merged = {
        key: dict(value) if isinstance(value, dict) else value for key, value in table.items()
    }
    if "name" in merged:
        raise UsageError(f"{source}name is unknown: a recipe is named by its file")
    check_names(flags, spelled)
    fields = {dotted: info for dotted, info, _ in options(Config.model_construct())}
    for dotted, value in flags.items():
        outer, _, inner = dotted.partition(".")
        holder = merged.setdefault(outer, {}) if inner else merged
        if isinstance(holder, dict):
            holder[inner or outer] = (
                parse_text(fields[dotted], value) if isinstance(value, str) else value
            )
    try:
        return Config.model_validate({**merged, "name": name})
    except ValidationError as error:
        path, text, wrong = explain(error, Config, KINDS)
        if (dotted := ".".join(path)) in flags:
            raise UsageError(f"{spelled(dotted)} {wrong}") from error
        if text == "network":
            wrong = "must be a list of layers, such as { conv = 10, kernel = 3 }"
        elif wrong.startswith("is {") or path == ("network",):
            wrong += "; allowed: a layer with one of " + ", ".join(KINDS)
        raise UsageError(f"{source}{text} {wrong}") from error


def from_file(file: Path) -> Config:
    """Read the recipe in the `config.json` of a run folder.

    Where `seeds` is a list, because the folder's seeds are not consecutive, the config has the first consecutive ones.

    Raises:
        OSError, ValueError, KeyError, AttributeError, UsageError: the file does not contain a recipe.
    """
    table = read_json(file)
    if isinstance(listed := table.get("seeds"), list):
        first = table.get("seed")
        table["seeds"] = next(n for n in range(len(listed) + 1) if listed[n : n + 1] != [first + n])
    return from_table(table.pop("name"), table, f"{file}: ")


def options(config: Config) -> Iterator[tuple[str, FieldInfo, Any]]:
    """The dotted name, field and value of everything in a recipe that a flag may set."""
    for outer, info in Config.model_fields.items():
        value = getattr(config, outer, info.default)
        if isinstance(value, Table):
            yield from (
                (f"{outer}.{key}", inner, getattr(value, key))
                for key, inner in type(value).model_fields.items()
            )
        elif info.description:
            yield outer, info, value


def _table(path: Path) -> dict[str, Any]:
    """Read a TOML file in UTF-8. A byte-order mark and CRLF line endings, as Windows writes them, are allowed."""
    try:
        if (text := _decoded(path, read_bytes(path, LARGEST))).count(".") > MOST_DOTS:
            raise RecursionError
        return tomllib.loads(text)
    except RecursionError as error:
        raise UsageError(f"{path} is nested too deeply") from error
    except (
        ValueError
    ) as error:  # TOMLDecodeError is one, and so is what Python says of bytes and long numbers
        raise UsageError(f"{path} is not valid TOML: {error}") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error


def _decoded(path: Path, content: bytes) -> str:
    """Decode a file's content. Name the encoding if it is not UTF-8."""
    for mark, encoding in ENCODINGS.items():
        if content.startswith(mark):
            raise UsageError(f"{path} is encoded in {encoding}. Save it as UTF-8.")
    if b"\0" in content:  # UTF-16 without a mark has a zero in each ASCII character
        raise UsageError(f"{path} contains zero bytes, as UTF-16 does. Save it as UTF-8.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        found = f"line {line} has the byte 0x{content[error.start]:02x}"
        raise UsageError(f"{path} is not encoded in UTF-8: {found}. Save it as UTF-8.") from error


def _extended(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """A recipe's table laid over the one that it extends, which is sought beside it, then among the built-in ones."""
    if path.resolve() in seen:
        raise UsageError(f"{path} extends itself: {' -> '.join(p.name for p in (*seen, path))}")
    table = _table(path)
    base = table.pop("extends", None)
    if base is None:
        return table
    file = f"{base}".removesuffix(".toml") + ".toml"
    candidates = [
        folder / file for folder in (path.parent, recipe_folder()) if (folder / file).is_file()
    ]
    if not candidates:
        raise UsageError(
            f"{path} extends {base}, and there is no {file} beside it or among the built-in recipes"
        )
    merged = _extended(candidates[0], (*seen, path.resolve()))
    merged |= {"extends": candidates[0].stem, "goal": ""}
    for key, value in table.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merged[key] | value if both else value
    return merged

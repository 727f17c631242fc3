"""Read recipes from TOML files that extend each other, and override their fields with flags.

The command line, TOML files, `config.json` and the Python API share `from_table`, so the checks and
messages are the same. This package does not import JAX: `--help`, `--dry-run` and mistakes are
answered immediately.
"""

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from jaxdrill.config.config import FIELDS, FLAGS, Config, explain, flatten, options  # noqa: F401
from jaxdrill.config.layers import Conv
from jaxdrill.config.schema import parse_text, without_effect
from jaxdrill.errors import UsageError, nearest, print_error
from jaxdrill.files import read_bytes, read_json

MAX_BYTES = 2**16  # of a recipe file
MAX_DOTS = 1000  # in a recipe file: tomllib needs memory that is quadratic in the parts of a key
Flags = Mapping[str, Any]  # values by dotted field name; a str is parsed as on the command line
NO_FLAGS: Flags = MappingProxyType({})
Spelling = Callable[[str], str]  # formats a dotted field name for messages, see `as_flag`
Chain = list[tuple[Path, dict[str, Any]]]  # a recipe's file and table, then those it extends


def recipe_folder() -> Path:
    """Return the folder of the built-in recipes, in an installed package or in a clone."""
    package = Path(__file__).parents[1]
    return next(path for path in (package / "configs", package.parent / "configs") if path.is_dir())


def steps() -> list[str]:
    """Return the names of the built-in steps in the order of the drill. The files are not read."""
    return sorted((path.stem for path in recipe_folder().glob("step_*.toml")), key=_natural)


def drill_order(extends: Mapping[str, str]) -> list[str]:
    """Sort recipes so that each follows the recipe that it extends, otherwise in natural order.

    Args:
        extends: the recipe that each recipe extends, by name. It may be missing in the mapping.
    """

    def lineage(name: str) -> list[Any]:
        names = [name]
        while (base := extends.get(names[0])) is not None and base not in names:
            names.insert(0, base)
        return [*map(_natural, names)]

    return sorted(extends, key=lineage)


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a sort key that puts `step_10` after `step_2`."""
    return [(int(part or -1), text) for text, part in re.findall(r"([^\d]*)(\d*)", name)]


def as_flag(name: str) -> str:
    """Return the flag of a dotted field name: `--optimizer.learning-rate`."""
    return "--" + name.replace("_", "-")


def check_names(
    names: Iterable[str], spelled: Spelling = as_flag, others: Sequence[str] = ()
) -> None:
    """Check that names are dotted names of recipe fields.

    Args:
        names: names to check.
        spelled: formats a dotted name for the message.
        others: other valid names. The message may suggest one of them.

    Raises:
        UsageError: a name is unknown. The message suggests the closest valid name.
    """
    for name in names:
        if name not in FLAGS:
            close = nearest(spelled(name), [*map(spelled, FLAGS), *others])
            raise UsageError(f"{spelled(name)} is unknown{close}")


def load(step: str, flags: Flags = NO_FLAGS, spelled: Spelling = as_flag) -> Config:
    """Read a built-in step (`5` or `step_5`) or a recipe file (`mine.toml`).

    Warn about fields of the file that have no effect.

    Args:
        step: name of the step, or path of the file.
        flags: values by dotted field name. A str is parsed as on the command line.
        spelled: formats a dotted field name of `flags` for messages.

    Raises:
        UsageError: the recipe or a flag is invalid, or a flag has no effect.
    """
    return load_all([step], flags, spelled)[0]


def load_all(
    steps: Sequence[str], flags: Flags = NO_FLAGS, spelled: Spelling = as_flag
) -> list[Config]:
    """Read several recipes like `load`.

    Raises:
        UsageError: a recipe or a flag is invalid, or a flag has no effect in any of the recipes.
    """
    chains = [_chain(_find(step)) for step in steps]
    configs = [_merged(chain, flags, spelled) for chain in chains]
    for flag in flags:
        dumps = [flatten(config.model_dump()) for config in configs]
        problems = [next(without_effect([flag], FIELDS, each, spelled), None) for each in dumps]
        if problems[0] and all(problems):
            raise UsageError(problems[0])
    for chain, config in zip(chains, configs, strict=True):
        _warn(*chain[0], config, flags)
    return configs


def resolve(step: str) -> Config:
    """Read a recipe like `load`, without warnings."""
    return _merged(_chain(_find(step)))


def parent(step: str) -> Config | None:
    """Read the recipe that a recipe extends. Return None if the recipe does not extend another."""
    base = _chain(_find(step))[1:]
    return _merged(base) if base else None


def from_table(
    name: str,
    table: Mapping[str, Any],
    source: str,
    flags: Flags = NO_FLAGS,
    spelled: Spelling = as_flag,
) -> Config:
    """Build the config of a complete recipe table.

    Args:
        name: name of the recipe.
        table: fields of the recipe.
        source: prefix of messages about the table, such as `mine.toml: `.
        flags: see `load`.
        spelled: see `load`.

    Raises:
        UsageError: the table or a flag is invalid.
    """
    if "name" in table:
        raise UsageError(f"{source}name is unknown: the name of a recipe is its file name")
    check_names(flags, spelled)
    merged = {k: dict(value) if isinstance(value, dict) else value for k, value in table.items()}
    for dotted, value in flags.items():
        outer, _, inner = dotted.rpartition(".")
        holder = merged.setdefault(outer, {}) if outer else merged
        if isinstance(holder, dict):
            holder[inner] = parse_text(FLAGS[dotted], value) if isinstance(value, str) else value
    try:
        config = Config.model_validate({**merged, "name": name})
    except ValidationError as error:
        path, wrong = explain(error)
        start = spelled(path) if path in flags else f"{source}{path}"
        raise UsageError(f"{start} {wrong}") from error
    if "seed" in flags and isinstance(config.seeds, tuple):
        seed = spelled("seed")
        raise UsageError(f"{seed} has no effect if {spelled('seeds')} is a list. Remove {seed}.")
    return config.model_copy(update={"seed": config.seed_list[0]})


def from_file(file: Path) -> Config:
    """Read the recipe in the `config.json` of a run folder.

    Raises:
        OSError: the file cannot be read.
        ValueError, UsageError: the file does not contain a recipe.
    """
    table = read_json(file)
    if not isinstance(table, dict) or not isinstance(name := table.pop("name", None), str):
        raise ValueError(f"{file} does not contain a recipe")
    config = from_table(name, table, f"{file}: ")
    if config.seed != table.get("seed", config.seed):
        raise ValueError(f"seeds is {table['seeds']}; allowed: a list that begins with seed")
    return config


def _find(step: str) -> Path:
    """Return the file of a step.

    Raises:
        UsageError: the file does not exist.
    """
    if step.endswith(".toml"):
        if Path(step).is_file():
            return Path(step)
        raise UsageError(f"the recipe {step} does not exist")
    name = step.removeprefix("step_")
    if (path := recipe_folder() / f"step_{name}.toml").is_file():
        return path
    names = [*(known.removeprefix("step_") for known in steps()), "all"]
    known = f"steps: {', '.join(names)}, or a .toml file"
    raise UsageError(f"step {step} does not exist{nearest(name, names)} ({known})")


def _chain(path: Path) -> Chain:
    """Read a recipe and the recipes that it extends.

    The base of a recipe is searched for in the recipe's folder, then among the built-in recipes.
    """
    chain: Chain = []
    while True:
        seen = [file for file, _ in chain]
        if path.resolve() in [file.resolve() for file in seen]:
            names = " -> ".join(file.name for file in (*seen, path))
            raise UsageError(f"{path} extends itself: {names}")
        table = _read_toml(path)
        base = table.pop("extends", None)
        chain.append((path, table))
        if base is None:
            return chain
        file = f"{base}".removesuffix(".toml") + ".toml"
        found = [folder / file for folder in (path.parent, recipe_folder())]
        if not (found := [each for each in found if each.is_file()]):
            where = f"{file} is neither in its folder nor a built-in recipe"
            raise UsageError(f"{path} extends {base}, but {where}")
        path = found[0]


def _merged(chain: Chain, flags: Flags = NO_FLAGS, spelled: Spelling = as_flag) -> Config:
    """Build the config of a recipe. Tables are merged key by key; other values are replaced."""
    merged: dict[str, Any] = {}
    for _, table in reversed(chain):
        merged["goal"] = ""  # the only field that is not inherited
        for key, value in table.items():
            both = isinstance(value, dict) and isinstance(merged.get(key), dict)
            merged[key] = merged[key] | value if both else value
    merged["extends"] = chain[1][0].stem if chain[1:] else ""
    path, _ = chain[0]
    return from_table(path.stem, merged, f"{path}: ", flags, spelled)


def _warn(path: Path, table: dict[str, Any], config: Config, flags: Flags) -> None:
    """Warn if a recipe adds ReLU to the logits, or sets a field that has no effect.

    Args:
        path: file of the recipe.
        table: the fields that the file itself sets.
        config: the complete recipe.
        flags: fields that override the recipe. Their tables are not checked.
    """
    last = [layer for layer in config.network if isinstance(layer, Conv)][-1:]
    if last and last[0].relu:
        why = "the last convolution has relu = true, so logits cannot be negative"
        print_error(f"warning: {path}: {why}")
    overridden = {flag.partition(".")[0] for flag in flags}
    own = flatten({key: value for key, value in table.items() if key not in overridden})
    for problem in without_effect(own, FIELDS, own):
        print_error(f"warning: {path}: {problem}")


def _read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file in UTF-8. A byte-order mark and CRLF line endings are allowed."""
    try:
        content = read_bytes(path, MAX_BYTES)
        if b"\0" in content:
            wrong = "contains zero bytes, like UTF-16 and UTF-32 files"
            raise UsageError(f"{path} {wrong}. Save it as UTF-8.")
        text = content.decode("utf-8-sig")
        if text.count(".") > MAX_DOTS:
            raise RecursionError
        return tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        byte = f"line {line} contains the byte 0x{error.object[error.start]:02x}"
        raise UsageError(f"{path} is not encoded in UTF-8: {byte}. Save it as UTF-8.") from error
    except RecursionError as error:
        raise UsageError(f"{path} is nested too deeply") from error
    except ValueError as error:  # also raised by int() for numbers with too many digits
        raise UsageError(f"{path} is not valid TOML: {error}") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error

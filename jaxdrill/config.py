"""Recipes: frozen dataclasses, read from TOML files that extend each other, with flags on top.

Recipe files and flags pass through one reader, so that both get the same checks and the same messages.
This module must not import JAX: `--help` and `--dry-run` of a wrong recipe answer at once.
"""

import dataclasses
import math
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jaxdrill.errors import UsageError, nearest

DATASETS = ("auto", "mnist", "fashion_mnist", "kmnist", "digits")


def option(default: Any, about: str, allowed: str, valid: Callable[[Any], bool] = lambda _: True) -> Any:
    """A dataclass field with its default, help text, allowed values in words, and the test for them."""
    return field(default=default, metadata={"about": about, "allowed": allowed, "valid": valid})


def choice(default: str, about: str, *names: str) -> Any:
    """An option that is one of a few names."""
    return option(default, about, "one of " + ", ".join(names), lambda value: value in names)


@dataclass(frozen=True)
class Conv:
    """A convolution of stride 1 without bias, then ReLU and batch norm where asked, in this order."""

    conv: int = option(0, "output channels", "a whole number of at least 1", lambda value: value >= 1)
    kernel: int = option(3, "side of the kernel", "a whole number of at least 1", lambda value: value >= 1)
    padding: int = option(0, "zeros added on each side", "a whole number of at least 0", lambda value: value >= 0)
    relu: bool = option(True, "ReLU after the convolution", "true or false")
    batch_norm: bool = option(False, "batch norm after the ReLU", "true or false")


@dataclass(frozen=True)
class Pool:
    """Pooling over squares that do not overlap."""

    pool: str = choice("", "which pooling", "max", "average")
    size: int = option(2, "side of the square", "a whole number of at least 1", lambda value: value >= 1)


@dataclass(frozen=True)
class Dropout:
    """Elementwise dropout at the end of some convolution blocks."""

    rate: float = option(0.0, "share of values dropped", "a number from 0 to below 1", lambda value: 0 <= value < 1)
    after: tuple[int, ...] = option(
        (), "convolutions, counted from 1", "whole numbers of at least 1", lambda value: all(n >= 1 for n in value)
    )


@dataclass(frozen=True)
class Augmentation:
    """What is done to each training image, anew in each epoch."""

    rotation_degrees: float = option(
        0.0, "largest angle either way", "a number from 0 to 180", lambda value: 0 <= value <= 180
    )
    rotation_fill: int = option(
        1, "pixel value of the corners", "a whole number from 0 to 255", lambda value: 0 <= value <= 255
    )


@dataclass(frozen=True)
class Optimizer:
    """SGD with momentum, or Adam."""

    name: str = choice("sgd", "optimiser", "sgd", "adam")
    learning_rate: float = option(0.01, "of the first epoch", "a number above 0", lambda value: value > 0)
    momentum: float = option(0.9, "sgd only", "a number from 0 to below 1", lambda value: 0 <= value < 1)
    beta_1: float = option(0.9, "adam only", "a number from 0 to below 1", lambda value: 0 <= value < 1)
    beta_2: float = option(0.999, "adam only", "a number from 0 to below 1", lambda value: 0 <= value < 1)
    epsilon: float = option(1e-8, "adam only", "a number above 0", lambda value: value > 0)


@dataclass(frozen=True)
class Schedule:
    """How the learning rate falls: constant, or times `factor` every so many epochs (exponential: every epoch)."""

    name: str = choice("constant", "learning-rate schedule", "constant", "step", "exponential")
    factor: float = option(0.1, "of each fall", "a number above 0 and up to 1", lambda value: 0 < value <= 1)
    every_epochs: int = option(5, "step only", "a whole number of at least 1", lambda value: value >= 1)


@dataclass(frozen=True)
class Execution:
    """How the work is given to the devices. It changes the speed, and results only by rounding."""

    epoch: str = choice("auto", "how an epoch runs; auto is steps on CPU, else scan", "auto", "steps", "chunks", "scan")
    seeds_together: int = option(
        0, "seeds trained at once; 0 is one a device on CPU, else 32", "a whole number of at least 0", lambda n: n >= 0
    )
    convolution: str = choice(
        "auto", "how it is computed; auto is pairs on CPU, patches for many seeds on GPU and TPU, else plain",
        "auto", "plain", "pairs", "patches",
    )  # fmt: skip


@dataclass(frozen=True)
class Config:
    """One recipe and the way it is run."""

    name: str
    network: tuple[Conv | Pool, ...]
    extends: str = ""  # the recipe before it, which it is compared with
    goal: str = option("", "what the recipe is for, as the report says it", "text")
    epochs: int = option(
        20, "passes over the training images", "a whole number of at least 1", lambda value: value >= 1
    )
    batch_size: int = option(128, "images a step", "a whole number of at least 1", lambda value: value >= 1)
    seed: int = option(1, "first seed", "a whole number from 0 to 4294967295", lambda value: 0 <= value < 2**32)
    seeds: int = option(1, "number of seeds", "a whole number of at least 1", lambda value: value >= 1)
    data: str = choice("auto", "dataset; auto is mnist, or digits without a network", *DATASETS)
    dropout: Dropout = Dropout()
    augmentation: Augmentation = Augmentation()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    execution: Execution = Execution()


def recipe_folder() -> Path:
    """The folder of the recipes: inside an installed package, beside the package in a clone."""
    package = Path(__file__).parent
    return next(path for path in (package / "configs", package.parent / "configs") if path.is_dir())


def steps() -> list[str]:
    """The names of the built-in steps, in the order of the drill."""
    return sorted(path.stem.removeprefix("step_") for path in recipe_folder().glob("step_*.toml"))


def load(step: str, flags: Mapping[str, str] = MappingProxyType({})) -> Config:
    """Reads a built-in step (`5`) or a recipe file (`mine.toml`); `flags` maps dotted names to text.

    Raises:
        UsageError: what is wrong, where, and what is allowed.
    """
    path = Path(step) if step.endswith(".toml") else recipe_folder() / f"step_{step}.toml"
    if not path.is_file():
        if step.endswith(".toml"):
            raise UsageError(f"there is no recipe {step}")
        names = [*steps(), "all"]
        raise UsageError(f"there is no step {step}{nearest(step, names)} (steps: {', '.join(names)}, or a .toml file)")
    config = from_table(path.stem, _read(path, ()), f"{path}")
    for dotted, before in [(name, value) for name, _, value in options(config) if name in flags]:
        outer, _, inner = dotted.partition(".")
        value = _parsed(before, flags[dotted])
        config = _build(config, {outer: {inner: value} if inner else value}, "--")
    convolutions = sum(isinstance(layer, Conv) for layer in config.network)
    if max(config.dropout.after, default=0) > convolutions:
        raise UsageError(f"dropout.after is {config.dropout.after}; allowed: 1 to {convolutions}, the convolutions")
    return config


def from_table(name: str, table: dict[str, Any], source: str) -> Config:
    """The config of a recipe's table, whole; `source` starts each complaint.

    Raises:
        UsageError: what is wrong, where, and what is allowed.
    """
    table = dict(table)
    layers, extends = table.pop("network", None), table.pop("extends", "")
    if not isinstance(layers, list) or not layers:
        raise UsageError(f"{source}: network must be a list of layers, such as {{ conv = 10, kernel = 3 }}")
    network = tuple(_layer(layer, f"{source}: network[{n}]") for n, layer in enumerate(layers, start=1))
    return _build(Config(name, network, f"{extends}"), table, f"{source}: ")


def options(config: Config) -> Iterator[tuple[str, dataclasses.Field[Any], Any]]:
    """The dotted name, field and value of everything in a recipe that a flag may set."""
    for outer in fields(config):
        value = getattr(config, outer.name)
        if dataclasses.is_dataclass(value):
            yield from ((f"{outer.name}.{inner.name}", inner, getattr(value, inner.name)) for inner in fields(value))
        elif outer.metadata:
            yield outer.name, outer, value


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """A recipe's table laid over the one that it extends, which is sought beside it, then among the built-in ones."""
    if path.resolve() in seen:
        raise UsageError(f"{path} extends itself: {' -> '.join(p.name for p in (*seen, path))}")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    base = table.pop("extends", None)
    if base is None:
        return table
    file = f"{base}".removesuffix(".toml") + ".toml"
    found = [place / file for place in (path.parent, recipe_folder()) if (place / file).is_file()]
    if not found:
        raise UsageError(f"{path} extends {base}, and there is no {file} beside it or among the built-in recipes")
    merged: dict[str, Any] = _read(found[0], (*seen, path.resolve())) | {"extends": found[0].stem, "goal": ""}
    for key, value in table.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = {**merged[key], **value} if both else value
    return merged


def _layer(table: Any, where: str) -> Conv | Pool:
    """One layer of the network; its kind is the key that it has."""
    kinds = [kind for key, kind in (("conv", Conv), ("pool", Pool)) if isinstance(table, dict) and key in table]
    if len(kinds) != 1:
        raise UsageError(f"{where} is {table!r}; allowed: a layer with either conv or pool")
    return _build(kinds[0](), table, f"{where}.")


def _build(default: Any, table: Mapping[str, Any], where: str) -> Any:
    """`default` with what the table says otherwise, each value checked; `where` starts each complaint."""
    known = {f.name: f for f in fields(default) if f.metadata or dataclasses.is_dataclass(getattr(default, f.name))}
    new: dict[str, Any] = {}
    for key, value in table.items():
        if key not in known:
            raise UsageError(f"{where}{key} is unknown{nearest(key, list(known))}")
        before = getattr(default, key)
        if not dataclasses.is_dataclass(before):
            new[key] = _checked(known[key], before, value, f"{where}{key}")
        elif isinstance(value, dict):
            new[key] = _build(before, value, f"{where}{key}.")
        else:
            raise UsageError(f"{where}{key} is {value!r}; allowed: a table [{key}]")
    return dataclasses.replace(default, **new)


def _checked(f: dataclasses.Field[Any], before: Any, value: Any, where: str) -> Any:
    """The value in the field's type, if it is allowed."""
    kind = type(before)
    if kind is float and type(value) is int:
        value = float(value)
    if kind is tuple and isinstance(value, list):
        value = tuple(value)
    whole = kind is not tuple or (isinstance(value, tuple) and all(type(n) is int for n in value))
    finite = kind is not float or (type(value) is float and math.isfinite(value))
    if type(value) is kind and whole and finite and f.metadata["valid"](value):
        return value
    hint = (
        nearest(value, f.metadata["allowed"].removeprefix("one of ").split(", "))
        if isinstance(value, str) and kind is str
        else ""
    )
    where = where.replace("_", "-") if where.startswith("--") else where
    raise UsageError(f"{where} is {value!r}; allowed: {f.metadata['allowed']}{hint}")


def _parsed(before: Any, text: str) -> Any:
    """The text of a flag as a TOML value of the field's type; text that is none stays text, and is refused later."""
    if isinstance(before, str):
        return text
    try:
        return tomllib.loads(f"value = [{text}]" if isinstance(before, tuple) else f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text

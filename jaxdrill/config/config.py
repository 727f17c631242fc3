"""Define the recipe: its tables with types, bounds and defaults.

The string below a field is its description for `--help` and docs/reference.md.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo

from jaxdrill.config.layers import KINDS, AnyLayer, Conv, kind_of
from jaxdrill.config.schema import (
    Fraction,
    OnlyWith,
    Seeds,
    StrictModel,
    allowed,
    choices,
    model_fields,
)
from jaxdrill.errors import nearest

NUM_SEEDS = 2**32  # The generator has this number of seeds. A larger seed would wrap around to 0.
MAX_LAYERS = 100
DATASETS = ("auto", "mnist", "fashion_mnist", "kmnist", "digits")
SGD, ADAM = OnlyWith(("optimizer.name",), ("sgd",)), OnlyWith(("optimizer.name",), ("adam",))
DECAYING = OnlyWith(("schedule.name",), ("step", "exponential"))
TRANSFORMED = OnlyWith(
    ("augmentation.rotation_degrees", "augmentation.scale", "augmentation.shift_pixels")
)


class Augmentation(StrictModel):
    """Random changes to the training images. Each image is changed differently in each epoch."""

    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 0.0
    """maximum rotation in either direction, in degrees"""
    rotation_fill: Annotated[int, Field(ge=0, le=255), TRANSFORMED] = 1
    """fill value of pixels from outside the image"""
    scale: Fraction = 0.0
    """maximum relative change of size: 0.1 scales by a factor from 0.9 to 1.1"""
    shift_pixels: Annotated[float, Field(ge=0, le=28)] = 0.0
    """maximum translation along each axis, in pixels"""
    interpolation: Annotated[Literal["nearest", "bilinear"], TRANSFORMED] = "nearest"
    """interpolation between pixels"""


class Loss(StrictModel):
    """Cross-entropy."""

    label_smoothing: Fraction = 0.0
    """probability that is spread evenly over the classes"""


class Optimizer(StrictModel):
    """SGD with momentum, or Adam."""

    name: Literal["sgd", "adam"] = "sgd"
    """optimizer"""
    learning_rate: PositiveFloat = 0.01
    """initial learning rate; with schedule.name triangle, its peak"""
    momentum: Annotated[Fraction, SGD] = 0.9
    """momentum"""
    nesterov: Annotated[bool, SGD, OnlyWith(("optimizer.momentum",))] = False
    """use Nesterov momentum"""
    beta_1: Annotated[Fraction, ADAM] = 0.9
    """decay rate of the first moment"""
    beta_2: Annotated[Fraction, ADAM] = 0.999
    """decay rate of the second moment"""
    epsilon: Annotated[PositiveFloat, ADAM] = 1e-8
    """added to the square root of the second moment"""


class Schedule(StrictModel):
    """The learning rate over time (formulas: `training.optimizer.make_schedule`).

    `step` multiplies the rate by `factor` every `every_epochs` epochs, `exponential` every epoch.
    """

    name: Literal["constant", "step", "exponential", "triangle"] = "constant"
    """learning-rate schedule"""
    factor: Annotated[float, Field(gt=0, le=1), DECAYING] = 0.1
    """factor of each decay"""
    every_epochs: Annotated[PositiveInt, OnlyWith(("schedule.name",), ("step",))] = 5
    """epochs between decays"""
    warmup: Annotated[float, Field(gt=0, lt=1), OnlyWith(("schedule.name",), ("triangle",))] = 0.2
    """fraction of the steps in which the rate rises"""

    @property
    def has_horizon(self) -> bool:
        """Return True if the rate depends on the number of epochs. More epochs need a new run."""
        return self.name == "triangle"


class Average(StrictModel):
    """EMA of the weights. It replaces the weights for evaluation and in the weights files."""

    decay: Fraction = 0.0
    """decay of the EMA of the weights per step; 0 disables the EMA"""


class Execution(StrictModel):
    """How the work is distributed over devices.

    These fields affect the speed. Results are equal in distribution, but not bit-identical.
    """

    epoch: Literal["auto", "steps", "scan"] = "auto"
    """one call per step, or one scan per epoch; auto is steps on CPU, otherwise scan"""
    seeds_together: NonNegativeInt = 0
    """number of seeds trained together; 0 selects one seed per device on CPU and TPU, and on GPU
    the maximum that fits into memory, but at most 32 per device"""
    convolution: Literal["auto", "rows", "xla", "im2col"] = "auto"
    """algorithm of convolutions; auto is rows on CPU, im2col on GPU, and xla on TPU"""
    matmul_precision: Literal["float32", "tensorfloat32", "bfloat16"] = "float32"
    """precision of convolutions and matrix products, on devices that support several precisions"""


class Config(StrictModel):
    """A recipe and how to run it."""

    name: str
    extends: str = ""  # the recipe that the report compares it with
    network: Annotated[
        tuple[SerializeAsAny[AnyLayer], ...], Field(strict=False, validate_default=True)
    ] = ()
    goal: str = ""
    """goal of the recipe, for the report"""
    epochs: PositiveInt = 20
    """passes over the training images"""
    batch_size: PositiveInt = 128
    """images per step"""
    seed: Annotated[int, Field(ge=0, lt=NUM_SEEDS)] = 1
    """first seed"""
    seeds: Seeds = 1
    """number of seeds, or a list of seeds such as 1,2,7"""
    data: str = "auto"
    """mnist, fashion_mnist, kmnist, digits, or a name for your idx files in --data-dir; auto is
    mnist, or digits if mnist cannot be downloaded"""
    hold_out: NonNegativeInt = 0
    """number of training images that are held out as the validation split"""
    fold: NonNegativeInt = 0
    """number of the held-out fold, from 1; the folds are stratified and disjoint, and have about
    hold_out images each; 0 holds out a stratified random selection, the same for all seeds; only
    with hold_out above 0"""
    evaluate_on: Literal["auto", "validation", "test"] = "auto"
    """split that is evaluated; auto is validation if images are held out, otherwise test"""
    init_from: str = ""
    """safetensors file with initial weights, written by jaxdrill, or with the state_dict names of
    jaxdrill export --to pytorch; without a file the weights are random"""
    augmentation: Augmentation = Augmentation()
    loss: Loss = Loss()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    average: Average = Average()
    execution: Execution = Execution()

    @property
    def seed_list(self) -> list[int]:
        """Return all seeds."""
        if isinstance(self.seeds, tuple):
            return list(self.seeds)
        return list(range(self.seed, self.seed + self.seeds))

    @field_validator("name", "extends", "goal", "init_from")
    @classmethod
    def _is_printable(cls, text: str) -> str:
        if not text.isprintable():
            raise ValueError("text on one line, without control characters")
        return text

    @field_validator("data")
    @classmethod
    def _is_a_dataset_name(cls, name: str) -> str:
        if not re.fullmatch("[a-z0-9_]{1,40}", name):
            own = "a name of up to 40 lowercase letters, digits and _ for your files in --data-dir"
            raise ValueError(f"{', '.join(DATASETS)}, or {own}{nearest(name, DATASETS)}")
        return name

    @field_validator("seeds", mode="before")
    @classmethod
    def _seeds_are_distinct(cls, seeds: Any, info: ValidationInfo) -> Seeds:
        if isinstance(seeds, list | tuple):
            in_range = all(type(seed) is int and 0 <= seed < NUM_SEEDS for seed in seeds)
            if seeds and in_range and len(set(seeds)) == len(seeds):
                return tuple(seeds)
        elif type(seeds) is int and seeds > 0:
            first = info.data.get("seed", 0)  # missing if the seed itself is invalid
            if first + seeds <= NUM_SEEDS:
                return seeds
            why = f"because seed is {first} and seed + seeds must not exceed {NUM_SEEDS} (2**32)"
            raise ValueError(f"at most {NUM_SEEDS - first}, {why}")
        raise ValueError(f"an integer > 0, or different seeds >= 0 and < {NUM_SEEDS}")

    @field_validator("network", mode="before")
    @classmethod
    def _last_convolution_gives_logits(cls, layers: Any) -> Any:
        """Disable ReLU in the last convolution unless the recipe sets it: logits may be < 0."""
        if not isinstance(layers, list | tuple) or not 1 <= len(layers) <= MAX_LAYERS:
            example = "{ conv = 10, kernel = 3 }"
            raise ValueError(f"a list of 1 to {MAX_LAYERS} layers, such as {example}")
        last = max((n for n, layer in enumerate(layers) if kind_of(layer) == Conv.kind), default=-1)
        return [
            {"relu": False} | layer if n == last and isinstance(layer, dict) else layer
            for n, layer in enumerate(layers)
        ]


# All fields by dotted name, including those of layers such as network.conv.kernel.
FIELDS = model_fields(Config)
for kind, layer in KINDS.items():
    FIELDS |= model_fields(layer, f"network.{kind}.")
# The fields that a flag can set.
FLAGS = {n: info for n, info in FIELDS.items() if info.description and "network." not in n}


def flatten(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a recipe's table by dotted name, such as `optimizer.name`."""
    flat = {}
    for key, value in table.items():
        tables = (
            {f"{key}.{name}": v for name, v in value.items()} if isinstance(value, dict) else {}
        )
        flat |= tables or {key: value}
    return flat


def options(config: Config) -> Iterator[tuple[str, FieldInfo, Any]]:
    """Yield the dotted name, the field and the value of each field that a flag can set."""
    values = flatten(config.model_dump())
    return ((name, info, values[name]) for name, info in FLAGS.items())


def explain(error: ValidationError) -> tuple[str, str]:
    """Return the path of the first invalid field, such as `network[2].kernel`, and the reason."""
    details = error.errors()[0]
    location, kind, shown = details["loc"], details["type"], repr(details["input"])
    path = name = ".".join(part for part in location if isinstance(part, str))
    if len(location) > 1 and location[0] == "network":  # then a number, the kind, and a field
        path = ".".join([f"network[{int(location[1]) + 1}]", *map(str, location[3:])])
    if kind == "extra_forbidden":
        table, _, last = name.rpartition(".")
        inside = [each.removeprefix(f"{table}.") for each in FIELDS if table in each]
        return path, f"is unknown{nearest(last, inside)}"
    text = f"is {shown if len(shown) <= 100 else shown[:97] + '...'}; allowed: "
    if kind in ("value_error", "layer"):  # raised by a validator or discriminator
        return path, text + details["msg"].removeprefix("Value error, ")
    if kind == "string_unicode":  # of a text, or of a key in the table at this path
        return path or "the recipe", f"contains {shown}, which is not valid Unicode"
    info = FIELDS[name]
    close = nearest(details["input"], choices(info)) if isinstance(details["input"], str) else ""
    return path, f"{text}{allowed(info)}{close}"

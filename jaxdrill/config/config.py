"""What a recipe may say: typed, immutable tables with their defaults, bounds, and the words of `--help`."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, SerializeAsAny, ValidationInfo, field_validator

from jaxdrill.config.layers import AnyLayer, Conv, kind_of
from jaxdrill.config.schema import OnlyWith, Table
from jaxdrill.errors import nearest

NUM_SEEDS = 2**32  # The generator has this number of seeds. A larger seed would wrap around to 0.
DATASETS = ("auto", "mnist", "fashion_mnist", "kmnist", "digits")
TRANSFORMED = OnlyWith(("rotation_degrees", "scale", "shift_pixels"))
SGD, ADAM = OnlyWith(("name",), ("sgd",)), OnlyWith(("name",), ("adam",))


class Augmentation(Table):
    """What is done to each training image, anew in each epoch."""

    rotation_degrees: float = Field(
        default=0.0, ge=0, le=180, description="largest angle either way"
    )
    rotation_fill: Annotated[int, TRANSFORMED] = Field(
        default=1, ge=0, le=255, description="pixel value of what comes from outside"
    )
    scale: float = Field(
        default=0.0, ge=0, lt=1, description="largest change of size either way, as a fraction"
    )
    shift_pixels: float = Field(
        default=0.0, ge=0, le=28, description="largest shift in each direction"
    )
    interpolation: Annotated[Literal["nearest", "bilinear"], TRANSFORMED] = Field(
        default="nearest", description="between pixels"
    )


class Loss(Table):
    """Cross-entropy with the labels."""

    label_smoothing: float = Field(
        default=0.0, ge=0, lt=1, description="probability spread evenly over the classes"
    )


class Optimizer(Table):
    """SGD with momentum, or Adam."""

    name: Literal["sgd", "adam"] = Field(default="sgd", description="optimiser")
    learning_rate: float = Field(
        default=0.01, gt=0, description="at the start; of a triangle its peak"
    )
    momentum: Annotated[float, SGD] = Field(
        default=0.9, ge=0, lt=1, description="coefficient of the momentum buffer"
    )
    nesterov: Annotated[bool, SGD, OnlyWith(("momentum",))] = Field(
        default=False, description="use Nesterov momentum"
    )
    beta_1: Annotated[float, ADAM] = Field(
        default=0.9, ge=0, lt=1, description="decay rate of the first moment"
    )
    beta_2: Annotated[float, ADAM] = Field(
        default=0.999, ge=0, lt=1, description="decay rate of the second moment"
    )
    epsilon: Annotated[float, ADAM] = Field(
        default=1e-8, gt=0, description="added to the root of the second moment"
    )


class Schedule(Table):
    """The learning rate: constant; times `factor` every `every_epochs` epochs (exponential: every epoch); or a triangle
    (see `training.optimizer.make_schedule`)."""

    name: Literal["constant", "step", "exponential", "triangle"] = Field(
        default="constant", description="learning-rate schedule"
    )
    factor: Annotated[float, OnlyWith(("name",), ("step", "exponential"))] = Field(
        default=0.1, gt=0, le=1, description="of each fall"
    )
    every_epochs: Annotated[int, OnlyWith(("name",), ("step",))] = Field(
        default=5, ge=1, description="epochs between falls"
    )
    warmup: Annotated[float, OnlyWith(("name",), ("triangle",))] = Field(
        default=0.2, gt=0, lt=1, description="part of all steps in which the rate rises"
    )

    @property
    def has_horizon(self) -> bool:
        """Whether the rate depends on the number of epochs, so that a run cannot be continued for more."""
        return self.name == "triangle"


class Average(Table):
    """An exponential moving average of the weights, which is then evaluated and kept in their place."""

    decay: float = Field(
        default=0.0, ge=0, lt=1, description="of the average at each step; 0 for none"
    )


class Execution(Table):
    """How the work is distributed over devices. It changes the speed; results are statistically equivalent."""

    epoch: Literal["auto", "steps", "scan"] = Field(
        default="auto", description="how an epoch runs; auto is steps on CPU, else scan"
    )
    seeds_together: int = Field(
        default=0,
        ge=0,
        description="seeds trained at once; 0 is one a device on CPU and TPU, and on GPU as many as fit, up to 32",
    )
    convolution: Literal["auto", "rows", "xla", "im2col"] = Field(
        default="auto",
        description="how it is computed; auto is rows on CPU, im2col for several seeds on a GPU, otherwise xla",
    )
    matmul_precision: Literal["float32", "tensorfloat32", "bfloat16"] = Field(
        default="float32",
        description="of the products in convolutions and matrix products, where the device has a choice",
    )


class Config(Table):
    """One recipe and the way it is run."""

    name: str
    extends: str = ""  # the recipe that it is compared with
    network: tuple[SerializeAsAny[AnyLayer], ...] = Field(
        strict=False, min_length=1, max_length=100
    )
    goal: str = Field(default="", description="what the recipe is for, as the report says it")
    epochs: int = Field(default=20, ge=1, description="passes over the training images")
    batch_size: int = Field(default=128, ge=1, description="images a step")
    seed: int = Field(default=1, ge=0, le=NUM_SEEDS - 1, description="first seed")
    seeds: int = Field(default=1, ge=1, description="number of seeds")
    data: str = Field(
        default="auto",
        description="mnist, fashion_mnist, kmnist, digits, or a name for your own idx files in --data-dir; auto is "
        "mnist, or digits without a network",
    )
    hold_out: int = Field(
        default=0,
        ge=0,
        description="training images kept apart, and evaluated in place of the test images",
    )
    fold: int = Field(
        default=0,
        ge=0,
        description="part of the training images that is held out, from 1; 0 for a random choice",
    )
    evaluate_on: Literal["auto", "validation", "test"] = Field(
        default="auto",
        description="images that are evaluated; auto is validation if images are held out, else test",
    )
    init_from: str = Field(
        default="",
        description="safetensors file of weights to start from, of jaxdrill or in PyTorch's names; random ones without",
    )
    augmentation: Augmentation = Augmentation()
    loss: Loss = Loss()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    average: Average = Average()
    execution: Execution = Execution()

    @property
    def seed_list(self) -> list[int]:
        """Return the seeds in order."""
        return list(range(self.seed, self.seed + self.seeds))

    @field_validator("name", "extends", "goal", "init_from")
    @classmethod
    def _on_one_line(cls, text: str) -> str:
        if not text.isprintable():
            raise ValueError("allowed: text on one line, without control characters")
        return text

    @field_validator("data")
    @classmethod
    def _a_name_for_files_and_pages(cls, name: str) -> str:
        if not re.fullmatch("[a-z0-9_]{1,40}", name):
            own = "or a name of up to 40 small letters, digits and _ for your own idx files in --data-dir"
            raise ValueError(f"allowed: {', '.join(DATASETS)}, {own}{nearest(name, DATASETS)}")
        return name

    @field_validator("seeds")
    @classmethod
    def _seeds_do_not_wrap(cls, seeds: int, info: ValidationInfo) -> int:
        seed = info.data.get("seed", 0)  # absent if it is wrong itself
        if seed + seeds > NUM_SEEDS:
            why = f"because seed is {seed} and seed + seeds must not exceed {NUM_SEEDS} (2**32)"
            raise ValueError(f"allowed: at most {NUM_SEEDS - seed}, {why}")
        return seeds

    @field_validator("network", mode="before")
    @classmethod
    def _last_convolution_gives_logits(cls, layers: Any) -> Any:
        """The last convolution has no ReLU unless the recipe asks for it: logits may be negative."""
        if not isinstance(layers, list):
            return layers
        last = max((n for n, layer in enumerate(layers) if kind_of(layer) == Conv.kind), default=-1)
        return [
            {"relu": False} | layer if n == last and isinstance(layer, dict) else layer
            for n, layer in enumerate(layers)
        ]

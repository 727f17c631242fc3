"""The kinds of layers: what a recipe says of each, its shape rule, and its Flax module. A new kind is added here alone.

Nothing here imports JAX before a module is built: recipes are checked and tabled without it.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, field_validator

from jaxdrill.config.schema import Table
from jaxdrill.errors import UsageError

SIDE, CLASSES = 28, 10


@dataclass(frozen=True)
class LayerShape:
    """What shapes out of a layer, and what the layers so far add up to, for one image.

    The receptive field grows by (kernel - 1) times the product of the strides so far (Araujo et al., 2019).
    """

    side: int = 28  # pixels
    channels: int = 1
    receptive_field: int = 1  # side, pixels of the input
    stride: int = 1  # pixels of the input between neighbours
    parameters: int = 0
    macs: int = 0  # multiply-adds of the convolutions
    activations: int = 0  # values in the outputs of the layers
    patches: int = 0  # values in the patches of the convolutions


class Layer(Table, ABC):
    """A layer of the network. Its kind is the key that only it has."""

    kind: ClassVar[str]

    @abstractmethod
    def text(self) -> str:
        """The layer in words, for the layer table."""

    @abstractmethod
    def shape(self, before: LayerShape) -> LayerShape:
        """What shapes out of the layer.

        Raises:
            UsageError: the layer does not fit its input.
        """


class Conv(Layer):
    """A convolution of stride 1 without bias, then ReLU, batch norm and dropout where asked, in this order.

    A separable one mixes the channels by a 1x1 kernel and then filters each by itself, with nothing in between (Haase
    and Amthor, "Rethinking depthwise separable convolutions", 2020): the order that does better here.
    """

    kind = "conv"
    conv: int = Field(ge=1, description="output channels")
    kernel: int = Field(default=3, ge=1, description="side of the kernel")
    padding: int = Field(default=0, ge=0, description="zeros added on each side")
    separable: bool = Field(default=False, description="a 1x1 kernel, then a filter a channel")
    relu: bool = Field(
        default=True,
        description="ReLU after the convolution; false by default in the network's last one",
    )
    batch_norm: bool = Field(default=False, description="batch norm after the ReLU")
    dropout: float = Field(
        default=0.0, ge=0, lt=1, description="probability of zeroing a value at the end"
    )

    @field_validator("dropout")
    @classmethod
    def _drawn_with_16_bits(cls, rate: float) -> float:
        if rate and not 1 <= round(rate * 65536) <= 65535:
            raise ValueError("allowed: 0, or a number from 1/65536 to 65535/65536")
        return rate

    def text(self) -> str:
        """The layer in words, for the layer table."""
        options = " relu" * self.relu + " batch_norm" * self.batch_norm
        options += f" dropout {self.dropout:g}" if self.dropout else ""
        return f"{self.kernel}x{self.kernel} {'separable ' * self.separable}conv{options}"

    def shape(self, before: LayerShape) -> LayerShape:
        """What shapes out of the layer."""
        side = _window(self.kernel, before.side + 2 * self.padding)
        positions, patch = side**2, self.kernel**2 * before.channels
        weights = (before.channels + self.kernel**2 if self.separable else patch) * self.conv
        return LayerShape(
            side,
            self.conv,
            before.receptive_field + (self.kernel - 1) * before.stride,
            before.stride,
            before.parameters + weights + 2 * self.conv * self.batch_norm,
            before.macs + positions * weights,
            before.activations + positions * self.conv,
            before.patches + positions * patch,
        )


class Pool(Layer):
    """Pooling over squares that do not overlap; rows and columns left over are dropped."""

    kind = "pool"
    pool: Literal["max", "average"] = Field(description="which pooling")
    size: int = Field(default=2, ge=1, description="side of the square")

    def text(self) -> str:
        """The layer in words, for the layer table."""
        return f"{self.size}x{self.size} {self.pool} pool"

    def shape(self, before: LayerShape) -> LayerShape:
        """What shapes out of the layer."""
        _window(self.size, before.side)
        side, field = (
            before.side // self.size,
            before.receptive_field + (self.size - 1) * before.stride,
        )
        activations = before.activations + side**2 * before.channels
        return replace(
            before,
            side=side,
            receptive_field=field,
            stride=before.stride * self.size,
            activations=activations,
        )


def _window(size: int, side: int) -> int:
    """How many positions a window of `size` has in each direction of an input of `side` pixels."""
    if size > side:
        raise UsageError(
            f"is {size}x{size}, larger than its input of {side}x{side}; make it smaller"
        )
    return side - size + 1


KINDS: dict[str, type[Layer]] = {layer.kind: layer for layer in (Conv, Pool)}


def kind_of(table: Any) -> str | None:
    """The kind of a layer, or of a recipe's table of one; None if it has none, or several."""
    if isinstance(table, Layer):
        return table.kind
    kinds = [kind for kind in KINDS if isinstance(table, Mapping) and kind in table]
    return kinds[0] if len(kinds) == 1 else None


AnyLayer = Annotated[
    Annotated[Conv, Tag("conv")] | Annotated[Pool, Tag("pool")], Discriminator(kind_of)
]


@dataclass(frozen=True)
class Row:
    """One line of the layer table."""

    name: str  # as in the weights: conv1, pool1
    layer: str
    side: int  # of the output, pixels
    channels: int
    receptive_field: int  # side, pixels of the input
    parameters: int
    macs: int  # multiply-adds of one image


def layer_names(network: Sequence[Layer]) -> list[str]:
    """conv1, conv2, pool1 and so on, each kind counted from 1."""
    counts: Counter[str] = Counter()
    names = []
    for layer in network:
        counts[layer.kind] += 1
        names.append(f"{layer.kind}{counts[layer.kind]}")
    return names


def infer_shapes(network: Sequence[Layer]) -> list[LayerShape]:
    """What shapes into the network, and out of each layer.

    Raises:
        UsageError: a layer does not fit its input, or the end is not 1x1x10.
    """
    shapes = [LayerShape(SIDE, 1)]
    for number, layer in enumerate(network, start=1):
        try:
            shapes.append(layer.shape(shapes[-1]))
        except UsageError as error:
            raise UsageError(f"network[{number}] {error}") from error
    end = shapes[-1]
    if (end.side, end.channels) != (1, CLASSES):
        raise UsageError(
            f"the network ends in {end.side}x{end.side}x{end.channels}; it must end in 1x1x{CLASSES}, one value a class"
        )
    return shapes


def layer_table(network: Sequence[Layer]) -> list[Row]:
    """The network layer by layer; raises as `infer_shapes`."""
    shapes = infer_shapes(network)
    return [
        Row(
            name,
            layer.text(),
            after.side,
            after.channels,
            after.receptive_field,
            after.parameters - before.parameters,
            after.macs - before.macs,
        )
        for name, layer, before, after in zip(
            layer_names(network), network, shapes, shapes[1:], strict=False
        )
    ]


def count_parameters(network: Sequence[Layer]) -> int:
    """All trained values, batch norm's scale and bias included."""
    return infer_shapes(network)[-1].parameters

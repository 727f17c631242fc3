"""Define the layers of a network: the fields of each kind in a recipe, and the rules for shapes.

The Flax module of each kind is in `nn.modules`. This module does not import JAX.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, NonNegativeInt, PositiveInt, Tag, field_validator

from jaxdrill.config.schema import Fraction, StrictModel
from jaxdrill.errors import UsageError

SIDE, CLASSES = 28, 10


@dataclass(frozen=True)
class LayerShape:
    """Shape of a layer's output for one image, and totals over all layers up to this one.

    The receptive field grows by (kernel - 1) times the product of the previous strides (Araujo et
    al., 2019).
    """

    side: int = SIDE  # pixels
    channels: int = 1
    receptive_field: int = 1  # side, pixels of the input image
    stride: int = 1  # pixels of the input image between neighbouring outputs
    parameters: int = 0
    macs: int = 0  # multiply-accumulate operations of the convolutions
    activations: int = 0  # values in the outputs of the layers
    patches: int = 0  # values in the patches of the convolutions


class Layer(StrictModel, ABC):
    """Base class of the layers. The kind of a layer is the name of a field that only it has."""

    kind: ClassVar[str]

    @abstractmethod
    def text(self) -> str:
        """Describe the layer for the layer table."""

    @abstractmethod
    def shape(self, before: LayerShape) -> LayerShape:
        """Return the shape of the output for an input of shape `before`.

        Raises:
            UsageError: the layer does not fit its input.
        """


class Conv(Layer):
    """Convolution with stride 1 and without bias, then optional ReLU, batch norm and dropout.

    A separable convolution applies a 1x1 convolution, then one filter per channel, without anything
    in between (Haase and Amthor, "Rethinking depthwise separable convolutions", 2020). This order
    is more accurate here.
    """

    kind = "conv"
    conv: PositiveInt
    """number of output channels"""
    kernel: PositiveInt = 3
    """side of the kernel, in pixels"""
    padding: NonNegativeInt = 0
    """zeros added on each side, in pixels"""
    separable: bool = False
    """use a 1x1 convolution, then a depthwise convolution (the reverse of the usual order)"""
    relu: bool = True
    """apply ReLU after the convolution; the default is false in the last convolution"""
    batch_norm: bool = False
    """apply batch norm after the ReLU"""
    dropout: Fraction = 0.0
    """dropout rate per element, after the batch norm"""

    @field_validator("dropout")
    @classmethod
    def _has_16_bits(cls, rate: float) -> float:
        if rate and not 1 <= round(rate * 65536) <= 65535:
            raise ValueError("0, or a number from 1/65536 to 65535/65536")
        return rate

    def text(self) -> str:
        """Describe the layer for the layer table."""
        size, separable = f"{self.kernel}x{self.kernel}", " separable" * self.separable
        dropout = f" dropout {self.dropout:g}" if self.dropout else ""
        return (
            f"{size}{separable} conv{' relu' * self.relu}{' batch_norm' * self.batch_norm}{dropout}"
        )

    def shape(self, before: LayerShape) -> LayerShape:
        """Return the shape of the output."""
        side = _num_positions(self.kernel, before.side + 2 * self.padding)
        patch = self.kernel**2 * before.channels
        weights = (before.channels + self.kernel**2 if self.separable else patch) * self.conv
        return replace(
            before,
            side=side,
            channels=self.conv,
            receptive_field=before.receptive_field + (self.kernel - 1) * before.stride,
            parameters=before.parameters + weights + 2 * self.conv * self.batch_norm,
            macs=before.macs + side**2 * weights,
            activations=before.activations + side**2 * self.conv,
            patches=before.patches + side**2 * patch,
        )


class Pool(Layer):
    """Pooling over windows that do not overlap. Remaining rows and columns are dropped."""

    kind = "pool"
    pool: Literal["max", "average"]
    """type of pooling"""
    size: PositiveInt = 2
    """side of the window, in pixels"""

    def text(self) -> str:
        """Describe the layer for the layer table."""
        return f"{self.size}x{self.size} {self.pool} pool"

    def shape(self, before: LayerShape) -> LayerShape:
        """Return the shape of the output."""
        _num_positions(self.size, before.side)  # raises if the window is too large
        side = before.side // self.size
        return replace(
            before,
            side=side,
            receptive_field=before.receptive_field + (self.size - 1) * before.stride,
            stride=before.stride * self.size,
            activations=before.activations + side**2 * before.channels,
        )


def _num_positions(size: int, side: int) -> int:
    """Return the number of positions of a window in each direction of an input of `side` pixels."""
    if size > side:
        raise UsageError(
            f"is {size}x{size}, larger than its input of {side}x{side}; make it smaller"
        )
    return side - size + 1


# To add a layer: define it above, add it here and to AnyLayer, and add its Flax module to
# nn/modules.py.
KINDS: dict[str, type[Layer]] = {layer.kind: layer for layer in (Conv, Pool)}


def kind_of(table: Any) -> str | None:
    """Return the kind of a layer or of its table in a recipe, or None if it is not unique."""
    if isinstance(table, Layer):
        return table.kind
    kinds = [kind for kind in KINDS if isinstance(table, Mapping) and kind in table]
    return kinds[0] if len(kinds) == 1 else None


AnyLayer = Annotated[
    Annotated[Conv, Tag("conv")] | Annotated[Pool, Tag("pool")],
    Discriminator(kind_of, "layer", f"a layer with one of {', '.join(KINDS)}"),
]


@dataclass(frozen=True)
class Row:
    """One row of the layer table."""

    name: str  # as in the weights: conv1, pool1
    layer: str
    side: int  # of the output, pixels
    channels: int
    receptive_field: int  # side, pixels of the input image
    parameters: int
    macs: int  # multiply-accumulate operations for one image


def layer_names(network: Sequence[Layer]) -> list[str]:
    """Return the names of the layers, such as conv1, conv2, pool1. Each kind is counted from 1."""
    counts: Counter[str] = Counter()
    names = []
    for layer in network:
        counts[layer.kind] += 1
        names.append(f"{layer.kind}{counts[layer.kind]}")
    return names


def infer_shapes(network: Sequence[Layer]) -> list[LayerShape]:
    """Return the shape of the network's input, then the shape of each layer's output.

    Raises:
        UsageError: a layer does not fit its input, or the output is not 1x1x10.
    """
    shapes = [LayerShape()]
    for number, layer in enumerate(network, start=1):
        try:
            shapes.append(layer.shape(shapes[-1]))
        except UsageError as error:
            raise UsageError(f"network[{number}] {error}") from error
    end = shapes[-1]
    if (end.side, end.channels) != (1, CLASSES):
        found, wanted = f"{end.side}x{end.side}x{end.channels}", f"1x1x{CLASSES}"
        raise UsageError(
            f"the network ends in {found}; it must end in {wanted}, one value per class"
        )
    return shapes


def layer_table(network: Sequence[Layer]) -> list[Row]:
    """Return one row per layer. Raise the errors of `infer_shapes`."""
    shapes = infer_shapes(network)
    layers = zip(layer_names(network), network, shapes[:-1], shapes[1:], strict=True)
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
        for name, layer, before, after in layers
    ]


def count_parameters(network: Sequence[Layer]) -> int:
    """Return the number of trained values, including the scale and bias of batch norms."""
    return infer_shapes(network)[-1].parameters

"""The kinds of layers: what a recipe says of each, its shape rule, and its Flax module. A new kind is added here alone.

Nothing here imports JAX before a module is built: recipes are checked and tabled without it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, field_validator

from jaxdrill.errors import UsageError
from jaxdrill.schema import Table

if TYPE_CHECKING:
    from flax import nnx


@dataclass(frozen=True)
class Flow:
    """What flows out of a layer, and what the layers so far add up to, for one image.

    The receptive field grows by (kernel - 1) times the product of the strides so far (Araujo et al., 2019).
    """

    side: int = 28  # pixels
    channels: int = 1
    receptive_field: int = 1  # side, pixels of the input
    stride: int = 1  # pixels of the input between neighbours
    parameters: int = 0
    operations: int = 0  # multiply-adds of the convolutions
    activations: int = 0  # values in the outputs of the layers
    patches: int = 0  # values in the patches of the convolutions


class Layer(Table, ABC):
    """A layer of the network. Its kind is the key that only it has."""

    kind: ClassVar[str]

    @abstractmethod
    def text(self) -> str:
        """The layer in words, for the layer table."""

    @abstractmethod
    def trace(self, flow: Flow) -> Flow:
        """What flows out of the layer.

        Raises:
            UsageError: the layer does not fit its input.
        """

    @abstractmethod
    def module(self, channels: int, convolution: str, rngs: "nnx.Rngs") -> "nnx.Module":
        """The layer for so many input channels; `convolution` is how convolutions are computed, as in `Execution`."""


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
        default=True, description="ReLU after the convolution; false by default in the network's last one"
    )
    batch_norm: bool = Field(default=False, description="batch norm after the ReLU")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="probability of zeroing a value at the end")

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

    def trace(self, flow: Flow) -> Flow:
        """What flows out of the layer."""
        side = _window(self.kernel, flow.side + 2 * self.padding)
        positions, patch = side**2, self.kernel**2 * flow.channels
        weights = (flow.channels + self.kernel**2 if self.separable else patch) * self.conv
        return Flow(
            side,
            self.conv,
            flow.receptive_field + (self.kernel - 1) * flow.stride,
            flow.stride,
            flow.parameters + weights + 2 * self.conv * self.batch_norm,
            flow.operations + positions * weights,
            flow.activations + positions * self.conv,
            flow.patches + positions * patch,
        )

    def module(self, channels: int, convolution: str, rngs: "nnx.Rngs") -> "nnx.Module":
        """The layer for so many input channels."""
        from jaxdrill.nn.modules import Convolution

        return Convolution(self, channels, convolution, rngs)


class Pool(Layer):
    """Pooling over squares that do not overlap; rows and columns left over are dropped."""

    kind = "pool"
    pool: Literal["max", "average"] = Field(description="which pooling")
    size: int = Field(default=2, ge=1, description="side of the square")

    def text(self) -> str:
        """The layer in words, for the layer table."""
        return f"{self.size}x{self.size} {self.pool} pool"

    def trace(self, flow: Flow) -> Flow:
        """What flows out of the layer."""
        _window(self.size, flow.side)
        side, field = flow.side // self.size, flow.receptive_field + (self.size - 1) * flow.stride
        activations = flow.activations + side**2 * flow.channels
        return replace(flow, side=side, receptive_field=field, stride=flow.stride * self.size, activations=activations)

    def module(self, channels: int, convolution: str, rngs: "nnx.Rngs") -> "nnx.Module":
        """The layer for so many input channels."""
        from jaxdrill.nn.modules import Pooling

        return Pooling(self.pool, self.size, convolution)


def _window(size: int, side: int) -> int:
    """How many positions a window of `size` has in each direction of an input of `side` pixels."""
    if size > side:
        raise UsageError(f"is {size}x{size}, larger than its input of {side}x{side}; make it smaller")
    return side - size + 1


KINDS: dict[str, type[Layer]] = {layer.kind: layer for layer in (Conv, Pool)}


def kind_of(table: Any) -> str | None:
    """The kind of a layer, or of a recipe's table of one; None if it has none, or several."""
    if isinstance(table, Layer):
        return table.kind
    kinds = [kind for kind in KINDS if isinstance(table, Mapping) and kind in table]
    return kinds[0] if len(kinds) == 1 else None


AnyLayer = Annotated[Annotated[Conv, Tag("conv")] | Annotated[Pool, Tag("pool")], Discriminator(kind_of)]

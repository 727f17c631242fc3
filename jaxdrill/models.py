"""Flax modules for the recipe's list of layers. Only `make_graph`, `init` and `apply` know that the modules are NNX."""

import math
from dataclasses import dataclass
from typing import Any, cast

import chex
import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from jaxdrill import config as recipe
from jaxdrill import layers
from jaxdrill.errors import UsageError

SIDE, CLASSES = 28, 10
CONVOLUTIONS = {
    "plain": lax.conv_general_dilated,
    "pairs": layers.pair_convolution,
    "patches": layers.patch_convolution,
}


def torch_uniform(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32, **_: Any) -> jax.Array:
    """PyTorch's default for convolutions, Kaiming uniform with a = sqrt(5): uniform in +-1/sqrt(fan_in).

    `variance_scaling(1/3, "fan_in", "uniform")` is the same distribution; drawn flat it compiles six times as fast.
    """
    bound = math.prod(shape[:-1]) ** -0.5
    return jax.random.uniform(key, (math.prod(shape),), dtype, -bound, bound).reshape(shape)


class Block(nnx.Module):
    """Convolution without bias, then ReLU, batch norm and dropout, each where the recipe asks for it."""

    def __init__(
        self, layer: recipe.Conv, channels: int, dropout_rate: float, convolution: str, rngs: nnx.Rngs
    ) -> None:
        shared: dict[str, Any] = dict(use_bias=False, kernel_init=torch_uniform, rngs=rngs)
        if layer.kernel == 1 and not layer.padding:  # a matrix product, whose gradient is faster than a convolution's
            self.convolution = nnx.Linear(channels, layer.conv, **shared)
        else:
            form = CONVOLUTIONS[convolution]
            kernel = (layer.kernel, layer.kernel)
            self.convolution = nnx.Conv(
                channels, layer.conv, kernel, padding=layer.padding, conv_general_dilated=form, **shared
            )
        # PyTorch's constants. Flax's running variance is the biased one (n), PyTorch's the unbiased (n - 1): they
        # differ by less than 1/4,000 here, and training normalises with the biased one in both.
        norm: dict[str, Any] = dict(momentum=0.9, epsilon=layers.EPSILON, rngs=rngs)
        self.batch_norm = nnx.BatchNorm(layer.conv, **norm) if layer.batch_norm else None
        self.relu = layer.relu
        self.dropout_rate = dropout_rate

    def __call__(self, x: jax.Array, train: bool, keys: jax.Array | None, axis: str | None) -> jax.Array:
        x, norm = self.convolution(x), self.batch_norm
        if train and norm is not None:  # as below, by the batch's statistics, and faster
            scale, bias = cast(nnx.Param, norm.scale)[...], cast(nnx.Param, norm.bias)[...]
            x, mean, variance = cast(Any, layers.batch_norm(x, scale, bias, self.relu, axis))
            norm.mean[...] = norm.momentum * norm.mean[...] + (1 - norm.momentum) * mean
            norm.var[...] = norm.momentum * norm.var[...] + (1 - norm.momentum) * variance
        else:
            x = jax.nn.relu(x) if self.relu else x
            x = x if norm is None else norm(x, use_running_average=True)
        return layers.dropout(keys, x, self.dropout_rate) if train and keys is not None and self.dropout_rate else x


class Pool(nnx.Module):
    """Pooling over squares that do not overlap."""

    def __init__(self, layer: recipe.Pool) -> None:
        self.pool, self.size = {"max": layers.max_pool, "average": layers.average_pool}[layer.pool], layer.size

    def __call__(self, x: jax.Array, train: bool, keys: jax.Array | None, axis: str | None) -> jax.Array:
        return self.pool(x, self.size)


class Network(nnx.Module):
    """The layers in order."""

    def __init__(self, config: recipe.Config, convolution: str, rngs: nnx.Rngs) -> None:
        channels, modules, number = 1, [], 0
        for layer in config.network:
            if isinstance(layer, recipe.Pool):
                modules.append(Pool(layer))
                continue
            number += 1
            rate = config.dropout.rate if number in config.dropout.after else 0.0
            modules.append(Block(layer, channels, rate, convolution, rngs))
            channels = layer.conv
        self.layers = nnx.Sequential(*modules)

    def __call__(self, x: jax.Array, train: bool, keys: jax.Array | None, axis: str | None) -> jax.Array:
        for number, layer in enumerate(self.layers.layers):
            layer_keys = None if keys is None else jax.vmap(jax.random.fold_in, (0, None))(keys, number)
            x = layer(x, train, layer_keys, axis)
        return x.reshape(x.shape[0], -1)


def make_graph(config: recipe.Config, convolution: str = "plain") -> Any:
    """The network without its arrays: static, hashable. `convolution` is how they are computed, as in `Execution`."""
    return nnx.split(nnx.eval_shape(lambda: Network(config, convolution, nnx.Rngs(params=0))))[0]


def init(config: recipe.Config, key: jax.Array) -> tuple[Any, Any]:
    """Fresh parameters and batch statistics: plain pytrees of float32 arrays, keyed by layer and name."""
    _, params, batch_stats = nnx.split(Network(config, "plain", nnx.Rngs(params=key)), nnx.Param, nnx.BatchStat)
    return nnx.to_pure_dict(params), nnx.to_pure_dict(batch_stats)


def apply(
    graph: Any,
    params: Any,
    batch_stats: Any,
    x: jax.Array,
    *,
    train: bool,
    keys: jax.Array | None = None,
    axis: str | None = None,
) -> tuple[jax.Array, Any]:
    """Logits float32[B, 10] of images float32[B, 28, 28, 1], and the batch statistics after them.

    With `train`, batch norm uses the batch's own statistics and moves the running ones; dropout needs a key an image,
    key[B]. `axis` names the mesh axis over which devices share the batch: x is then one device's share.
    """
    chex.assert_shape(x, (None, SIDE, SIDE, 1))
    network = nnx.merge(graph, params, batch_stats)
    logits = network(x, train, keys, axis)
    chex.assert_shape(logits, (x.shape[0], CLASSES))
    return logits, nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))


@dataclass(frozen=True)
class Row:
    """One line of the layer table."""

    layer: str
    side: int  # of the output, pixels
    channels: int
    receptive_field: int  # side, pixels of the input
    parameters: int
    operations: int  # multiply-adds of the convolution, one image


def layer_table(config: recipe.Config) -> list[Row]:
    """The network layer by layer, from arithmetic alone.

    The receptive field grows by (kernel - 1) times the product of the strides so far (Araujo et al., 2019).

    Raises:
        UsageError: a layer does not fit its input, or the end is not 1x1x10.
    """
    rows, side, channels, field, stride, number = [], SIDE, 1, 1, 1, 0
    for place, layer in enumerate(config.network, start=1):
        size = layer.kernel if isinstance(layer, recipe.Conv) else layer.size
        room = side + (2 * layer.padding if isinstance(layer, recipe.Conv) else 0)
        if size > room:
            raise UsageError(
                f"network[{place}] is {size}x{size}, larger than its input of {room}x{room}; make it smaller"
            )
        field += (size - 1) * stride
        if isinstance(layer, recipe.Conv):
            number += 1
            parameters = size * size * channels * layer.conv + 2 * layer.conv * layer.batch_norm
            operations = (room - size + 1) ** 2 * size * size * channels * layer.conv
            side, channels = room - size + 1, layer.conv
            dropped = (
                f" dropout {config.dropout.rate:g}" if config.dropout.rate and number in config.dropout.after else ""
            )
            text = f"{size}x{size} conv{' relu' * layer.relu}{' batch_norm' * layer.batch_norm}{dropped}"
        else:
            parameters, operations, side, stride = 0, 0, side // size, stride * size
            text = f"{size}x{size} {layer.pool} pool"
        rows.append(Row(text, side, channels, field, parameters, operations))
    if (side, channels) != (1, CLASSES):
        raise UsageError(
            f"the network ends in {side}x{side}x{channels}; it must end in 1x1x{CLASSES}, one value a class"
        )
    return rows


def activation_bytes(config: recipe.Config) -> int:
    """What the outputs of all layers take for one batch."""
    return sum(4 * row.side**2 * row.channels for row in layer_table(config)) * config.batch_size

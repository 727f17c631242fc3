"""The layers and the network as Flax NNX modules. Arrays are [channels, rows, columns, batch]."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdrill.config.layers import Conv, Layer, LayerShape, Pool, layer_names
from jaxdrill.nn import functional
from jaxdrill.nn.convolution import convolve, convolve_separably
from jaxdrill.nn.functional import per_channel


def torch_uniform(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Draw float32 weights uniformly in +-1/sqrt(fan_in), PyTorch's default for convolutions.

    PyTorch calls it Kaiming uniform with a = sqrt(5). `variance_scaling(1/3, "fan_in", "uniform")`
    is the same distribution, but takes six times as long to compile.
    """
    bound = math.prod(shape[:-1]) ** -0.5
    return jax.random.uniform(key, (math.prod(shape),), jnp.float32, -bound, bound).reshape(shape)


class Convolution(nnx.Module):
    """Convolution without bias, then optionally ReLU, batch norm and dropout."""

    def __init__(self, layer: Conv, channels: int, convolution: str, rngs: nnx.Rngs) -> None:
        self.layer, self.convolution = layer, convolution
        size = 1 if layer.separable else layer.kernel
        self.kernel = nnx.Param(torch_uniform(rngs.params(), (size, size, channels, layer.conv)))
        if layer.separable:
            self.depthwise = nnx.Param(
                torch_uniform(rngs.params(), (layer.kernel, layer.kernel, 1, layer.conv))
            )
        # PyTorch's constants. Flax's running variance is biased (n), PyTorch's is unbiased (n - 1).
        # They differ by less than 1/4,000 here. Both normalize by the biased one in training.
        norm: dict[str, Any] = dict(momentum=0.9, epsilon=functional.EPSILON, rngs=rngs)
        self.batch_norm = nnx.BatchNorm(layer.conv, **norm) if layer.batch_norm else None

    def __call__(
        self, x: jax.Array, train: bool, keys: jax.Array | None, axis: str | None
    ) -> jax.Array:
        layer, norm, form = self.layer, self.batch_norm, self.convolution
        if layer.separable:
            pointwise, depthwise = self.kernel[...][0, 0], self.depthwise[...][:, :, 0]
            x = convolve_separably(x, pointwise, depthwise, layer.padding, form)
        else:
            x = convolve(x, self.kernel[...], layer.padding, form)
        if norm is not None:
            x = self.normalize(x, norm, train, axis)
        elif layer.relu:
            x = jax.nn.relu(x)
        if train and keys is not None and layer.dropout:
            x = functional.dropout(keys, x, layer.dropout, form)
        return x

    def normalize(
        self, x: jax.Array, norm: nnx.BatchNorm, train: bool, axis: str | None
    ) -> jax.Array:
        """Normalize by the statistics of the batch and update the running ones; else by those."""
        mean, variance, scale, bias = (
            cast(nnx.Variable, each)[...] for each in (norm.mean, norm.var, norm.scale, norm.bias)
        )
        if not train:
            x = jax.nn.relu(x) if self.layer.relu else x
            scale = scale * jax.lax.rsqrt(variance + norm.epsilon)
            return (x - per_channel(mean)) * per_channel(scale) + per_channel(bias)
        batch_norm = cast(Any, functional.batch_norm)
        x, batch_mean, batch_variance = batch_norm(
            x, scale, bias, self.layer.relu, axis, self.convolution
        )
        norm.mean[...] = norm.momentum * mean + (1 - norm.momentum) * batch_mean
        norm.var[...] = norm.momentum * variance + (1 - norm.momentum) * batch_variance
        return x


class Pooling(nnx.Module):
    """Pooling over windows that do not overlap."""

    def __init__(self, layer: Pool, channels: int, convolution: str, rngs: nnx.Rngs) -> None:
        max_pool = partial(functional.max_pool, form=convolution)
        self.pool, self.size = (
            {"max": max_pool, "average": functional.average_pool}[layer.pool],
            layer.size,
        )

    def __call__(
        self, x: jax.Array, train: bool, keys: jax.Array | None, axis: str | None
    ) -> jax.Array:
        return self.pool(x, self.size)


# The module of each layer in config/layers.py.
MODULES: dict[type[Layer], Any] = {Conv: Convolution, Pool: Pooling}


class Network(nnx.Module):
    """The layers in order, as attributes conv1, conv2, pool1 and so on."""

    def __init__(
        self, layers: Sequence[Layer], convolution: str, rngs: nnx.Rngs, channels: int = 1
    ) -> None:
        self.names, shape = tuple(layer_names(layers)), LayerShape(channels=channels)
        for name, layer in zip(self.names, layers, strict=True):
            setattr(self, name, MODULES[type(layer)](layer, shape.channels, convolution, rngs))
            shape = layer.shape(shape)

    def __call__(
        self, x: jax.Array, train: bool, keys: jax.Array | None, axis: str | None
    ) -> jax.Array:
        for number, name in enumerate(self.names):
            layer_keys = (
                None if keys is None else jax.vmap(jax.random.fold_in, (0, None))(keys, number)
            )
            x = getattr(self, name)(x, train, layer_keys, axis)
        return x

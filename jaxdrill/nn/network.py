"""The network as pure functions over plain arrays: pixels in, logits out.

Only this module splits and merges Flax NNX modules, and only this module knows the normalization.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, cast

import chex
import jax
import jax.numpy as jnp
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxdrill.config.layers import CLASSES, SIDE, Layer
from jaxdrill.nn.modules import Network

MEAN, STANDARD_DEVIATION = 0.1307, 0.3081  # of MNIST's training pixels / 255, as in the notebooks


class _Keys:
    """Return the keys of `nnx.Rngs(params=key)`.

    The counter of `nnx.Rngs` is an array, which takes longer to trace than all initial weights.
    """

    def __init__(self, key: jax.Array) -> None:
        self._key, self._numbers = key, itertools.count()

    def params(self) -> jax.Array:
        """Return the key of the next array, as `nnx.Rngs` does."""
        return jax.random.fold_in(self._key, next(self._numbers))


def _build(network: Sequence[Layer], convolution: str, key: jax.Array) -> Network:
    return Network(network, convolution, cast(nnx.Rngs, _Keys(key)))


def make_graph(network: Sequence[Layer], convolution: str = "xla") -> Any:
    """Return the static, hashable part of a network.

    Args:
        network: the layers of the recipe.
        convolution: how convolutions are computed, as in `convolution.convolve`.
    """
    build = nnx.eval_shape(lambda: _build(network, convolution, jax.random.key(0)))
    return nnx.split(build)[0]


def init(network: Sequence[Layer], key: jax.Array) -> tuple[Any, Any]:
    """Initialize a network from a key, key[].

    Returns:
        Parameters and batch statistics: dictionaries of float32 arrays by layer and name.
    """
    _, params, batch_stats = nnx.split(_build(network, "xla", key), nnx.Param, nnx.BatchStat)
    return nnx.to_pure_dict(params), nnx.to_pure_dict(batch_stats)


def apply(
    graph: Any,
    params: Any,
    batch_stats: Any,
    images: jax.Array,
    *,
    train: bool,
    keys: jax.Array | None = None,
    axis: str | None = None,
) -> tuple[jax.Array, Any]:
    """Compute the logits of images.

    Args:
        graph: by `make_graph`.
        params: parameters.
        batch_stats: running statistics of the batch norms.
        images: uint8 or float32[B, 28, 28, 1], pixels 0..255.
        train: normalize by the statistics of the batch, update the running ones, apply dropout.
        keys: key[B], one per image, for dropout. None for no dropout.
        axis: mesh axis that shards the batch; `images` is then one device's shard.

    Returns:
        float32[B, 10], and the batch statistics after the batch.
    """
    chex.assert_shape(images, (None, SIDE, SIDE, 1))
    network = nnx.merge(graph, params, batch_stats)
    logits = network(normalize(images).transpose(3, 1, 2, 0), train, keys, axis)
    logits = logits.reshape(-1, images.shape[0]).T
    chex.assert_shape(logits, (images.shape[0], CLASSES))
    return logits, nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))


def normalize(images: jax.Array) -> jax.Array:
    """Scale pixels 0..255 to float32 of about zero mean and unit variance."""
    return (images.astype(jnp.float32) / 255 - MEAN) / STANDARD_DEVIATION


def named_weights(params: Any, batch_stats: Any) -> dict[str, Any]:
    """Return all arrays of a network in one flat dictionary.

    The names are `conv1.kernel` [K, K, I, O]; for a separable convolution `conv1.kernel`
    [1, 1, I, O] and `conv1.depthwise` [K, K, 1, O]; and `conv1.batch_norm.scale`, `.bias`, `.mean`
    and `.var` [O].
    """
    return flatten_dict(params, sep=".") | flatten_dict(batch_stats, sep=".")


def from_named_weights(weights: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return the parameters and batch statistics of `named_weights`."""
    stats = {name: array for name, array in weights.items() if name.endswith((".mean", ".var"))}
    params = {name: array for name, array in weights.items() if name not in stats}
    return unflatten_dict(params, sep="."), unflatten_dict(stats, sep=".")

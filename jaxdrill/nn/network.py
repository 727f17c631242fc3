"""The network as pure functions over plain arrays. Only this file knows how Flax NNX splits and merges modules."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, cast

import chex
import jax
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxdrill.config.layers import CLASSES, SIDE, Layer
from jaxdrill.nn.modules import Network


class _Keys:
    """The keys of `nnx.Rngs(params=key)`, whose counter is an array and takes longer to trace than all weights."""

    def __init__(self, key: jax.Array) -> None:
        self._key, self._numbers = key, itertools.count()

    def params(self) -> jax.Array:
        return jax.random.fold_in(self._key, next(self._numbers))


def _keys(key: jax.Array) -> nnx.Rngs:
    return cast(nnx.Rngs, _Keys(key))


def make_graph(network: Sequence[Layer], convolution: str = "xla") -> Any:
    """The network without its arrays: static, hashable. `convolution` is how they are computed, as in `Execution`."""
    return nnx.split(
        nnx.eval_shape(lambda: Network(network, convolution, _keys(jax.random.key(0))))
    )[0]


def init(network: Sequence[Layer], key: jax.Array) -> tuple[Any, Any]:
    """Fresh parameters and batch statistics: plain pytrees of float32 arrays, keyed by layer and name."""
    _, params, batch_stats = nnx.split(
        Network(network, "xla", _keys(key)), nnx.Param, nnx.BatchStat
    )
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
    key[B]. `axis` names the mesh axis over which devices shard the batch: x is then one device's shard.
    """
    chex.assert_shape(x, (None, SIDE, SIDE, 1))
    network = nnx.merge(graph, params, batch_stats)
    logits = network(x.transpose(3, 1, 2, 0), train, keys, axis).reshape(-1, x.shape[0]).T
    chex.assert_shape(logits, (x.shape[0], CLASSES))
    return logits, nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))


def named_weights(params: Any, batch_stats: Any) -> dict[str, Any]:
    """All arrays of a network in one flat table: `conv1.kernel` [K, K, I, O] (of a separable one [1, 1, I, O] and
    `conv1.depthwise` [K, K, 1, O]), `conv1.batch_norm.scale` [O], `.bias`, and the running `.mean` and `.var`."""
    return flatten_dict(params, sep=".") | flatten_dict(batch_stats, sep=".")


def from_named_weights(weights: Mapping[str, Any]) -> tuple[Any, Any]:
    """The inverse of `named_weights`: parameters and batch statistics."""
    stats = {name: array for name, array in weights.items() if name.endswith((".mean", ".var"))}
    params = {name: array for name, array in weights.items() if name not in stats}
    return unflatten_dict(params, sep="."), unflatten_dict(stats, sep=".")

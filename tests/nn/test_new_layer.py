"""A new kind of layer needs its definition and its module, and nothing else."""

import chex
import jax
import numpy as np
import pytest
from flax import nnx

from jaxdrill.config.layers import Conv, Layer, LayerShape, Pool, Row, layer_table
from jaxdrill.errors import UsageError
from jaxdrill.nn import modules, network


class Residual(Layer):
    """A kind of its own: its layers' output plus its input, which they must not change in shape."""

    kind = "residual"
    residual: tuple[Conv, ...]

    def text(self) -> str:
        return f"residual of {len(self.residual)}"

    def shape(self, before: LayerShape) -> LayerShape:
        after = before
        for layer in self.residual:
            after = layer.shape(after)
        if (after.side, after.channels) != (before.side, before.channels):
            raise UsageError("changes the shape of its input")
        return after


class Sum(nnx.Module):
    def __init__(self, layer, channels, convolution, rngs):
        self.inner = modules.Network(layer.residual, convolution, rngs, channels)

    def __call__(self, x, train, keys, axis):
        return x + self.inner(x, train, keys, axis)


def test_a_new_kind_is_composed_of_others(monkeypatch):
    """Its shapes, parameters, names, gradients and batch statistics come without another file."""
    monkeypatch.setitem(modules.MODULES, Residual, Sum)
    block = Residual(
        residual=(Conv(conv=4, padding=1, batch_norm=True), Conv(conv=4, padding=1, dropout=0.5))
    )
    layers = [Conv(conv=4), Pool(pool="max", size=13), block, Conv(conv=10, kernel=2, relu=False)]
    table = layer_table(layers)
    assert table[2] == Row("residual1", "residual of 2", 2, 4, 67, 2 * 144 + 8, 2 * 2 * 2 * 144)
    graph, (params, stats) = network.make_graph(layers), network.init(layers, jax.random.key(0))
    names = set(network.named_weights(params, stats))
    assert {
        "residual1.inner.conv1.kernel",
        "residual1.inner.conv1.batch_norm.mean",
        "conv2.kernel",
    } < names
    weights = network.named_weights(params, stats)
    assert sum(
        np.size(a) for name, a in weights.items() if not name.endswith((".mean", ".var"))
    ) == sum(row.parameters for row in table)
    chex.assert_trees_all_equal(network.from_named_weights(weights), (params, stats))
    x = jax.random.normal(jax.random.key(1), (4, 28, 28, 1))
    keys = jax.random.split(jax.random.key(2), 4)

    def loss(params):
        logits, moved = network.apply(graph, params, stats, x, train=True, keys=keys)
        return (logits**2).sum(), moved

    gradient, moved = jax.jit(jax.grad(loss, has_aux=True))(params)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))
    assert not np.array_equal(
        moved["residual1"]["inner"]["conv1"]["batch_norm"]["mean"], np.zeros(4)
    )
    with pytest.raises(UsageError, match=r"network\[2\] changes the shape of its input"):
        layer_table([Conv(conv=4), Residual(residual=(Conv(conv=5, padding=1),))])

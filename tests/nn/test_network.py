"""Architectures, initialisation, dropout, and the layer table."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdrill import config, layers, models
from jaxdrill.errors import UsageError

STEPS = [("1", 194_884), *((step, 9_606) for step in ("2", "3", "4", "4_adam", "5", "5_exponential"))]


def arrays(recipe, seed=0):
    return models.init(recipe, jax.random.key(seed))


@pytest.mark.parametrize(("step", "parameters"), STEPS)
def test_parameters(step, parameters):
    recipe = config.load(step)
    params, _ = jax.eval_shape(lambda key: models.init(recipe, key), jax.random.key(0))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == parameters
    assert sum(row.parameters for row in models.layer_table(recipe)) == parameters


def test_layers_of_step_1():
    rows = models.layer_table(config.load("1"))
    assert [row.operations for row in rows[:2]] == [26 * 26 * 9 * 32, 24 * 24 * 9 * 32 * 64]
    assert [row.operations for row in rows[3:5]] == [0, 11 * 11 * 128 * 32]
    assert [row.parameters for row in rows] == [288, 18_432, 73_728, 0, 4_096, 18_432, 73_728, 1_280, 4_900]
    assert [row.side for row in rows] == [26, 24, 22, 11, 11, 9, 7, 7, 1]


def test_layers_of_step_2():
    rows = models.layer_table(config.load("2"))
    expected = [90 + 20, 1_440 + 32, 160 + 20, 0, 1_800 + 40, 2_880 + 32, 1_440 + 20, 1_440 + 32, 0, 160]
    assert [row.parameters for row in rows] == expected
    assert [row.side for row in rows] == [26, 24, 24, 12, 10, 8, 6, 6, 1, 1]
    assert [row.channels for row in rows] == [10, 16, 10, 10, 20, 16, 10, 16, 16, 10]
    assert [row.receptive_field for row in rows] == [3, 5, 5, 6, 10, 14, 18, 22, 32, 32]


def test_the_layer_table_is_what_the_network_does():
    """The receptive field, by the gradient of one logit-map value: it reaches so many pixels and no more."""
    recipe = config.load("2")
    network = recipe.network[:7]  # up to the 6x6 map, whose centre sees only pixels within the image
    rows = models.layer_table(recipe)[:7]
    net = models.Network(dataclasses.replace(recipe, network=network), "plain", models.nnx.Rngs(params=0))
    side, channels = rows[-1].side, rows[-1].channels

    def value(x):
        out = net(x, False, None, None)
        assert out.size == side * side * channels
        return out.reshape(side, side, channels)[side // 2, side // 2].sum()

    reached = np.abs(jax.grad(value)(jax.random.normal(jax.random.key(0), (1, 28, 28, 1))))[0, ..., 0] > 0
    rows_reached = np.flatnonzero(reached.any(axis=1))
    assert rows_reached[-1] - rows_reached[0] + 1 == rows[-1].receptive_field


def test_dropout_stands_after_five_of_the_blocks():
    dropped = ["dropout 0.05" in row.layer for row in models.layer_table(config.load("3"))]
    assert dropped == [True, True, False, False, True, True, True, False, False, False]
    net = models.Network(config.load("3"), "plain", models.nnx.Rngs(params=0))
    rates = [layer.dropout_rate for layer in net.layers.layers if isinstance(layer, models.Block)]
    assert rates == [0.05, 0.05, 0, 0.05, 0.05, 0.05, 0, 0]


def test_initial_weights_are_uniform_within_one_over_the_root_of_fan_in():
    params, batch_stats = arrays(config.load("1"))
    kernels = jax.tree.leaves(params)
    assert len(kernels) == 8
    for kernel in kernels:
        bound = math.prod(kernel.shape[:-1]) ** -0.5
        assert bound * 0.95 < np.abs(kernel).max() <= bound
        assert abs(np.std(kernel) / (bound / 3**0.5) - 1) < 0.1
        assert abs(np.mean(kernel)) < bound * 3 / kernel.size**0.5
    assert batch_stats == {}
    reference = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    theirs = reference(jax.random.key(0), (3, 3, 64, 128))
    ours = models.torch_uniform(jax.random.key(0), (3, 3, 64, 128))
    np.testing.assert_allclose(np.std(ours), np.std(theirs), rtol=0.01)
    np.testing.assert_allclose(np.abs(ours).max(), np.abs(theirs).max(), rtol=1e-4)


def test_seeds_differ_and_repeat():
    first, again, other = (arrays(config.load("2"), seed)[0] for seed in (1, 1, 2))
    same = jax.tree.map(np.array_equal, first, again)
    assert jax.tree.all(same)
    kernels = [leaf for leaf in jax.tree.leaves(jax.tree.map(np.array_equal, first, other))]
    assert kernels.count(False) == 8  # scales are 1 and biases 0 in both


def test_steps_with_the_same_network_start_with_the_same_weights():
    params = [arrays(config.load(step), 3)[0] for step in ("2", "5")]
    assert jax.tree.all(jax.tree.map(np.array_equal, *params))


def test_no_two_layers_share_a_mask():
    network = (config.Conv(4, 1), config.Conv(4, 1))
    recipe = config.Config("x", network, dropout=config.Dropout(0.5, (1, 2)))
    net = models.Network(recipe, "plain", models.nnx.Rngs(params=0))
    calls = []

    def spy(keys, x, rate):
        calls.append(np.asarray(original(keys, jnp.ones((8, 28, 28, 4)), rate)) == 0)
        return x

    original, layers.dropout = layers.dropout, spy
    try:
        net(jnp.ones((8, 28, 28, 1)), True, jax.random.split(jax.random.key(0), 8), None)
    finally:
        layers.dropout = original
    assert len(calls) == 2
    assert abs(np.mean(calls[0] == calls[1]) - 0.5) < 0.02


def test_evaluation_neither_drops_nor_learns():
    recipe = config.load("3")
    graph, (params, stats) = models.make_graph(recipe), arrays(recipe)
    x = jax.random.normal(jax.random.key(0), (4, 28, 28, 1))
    logits, after = models.apply(graph, params, stats, x, train=False)
    alone, _ = models.apply(graph, params, stats, x[:1], train=False)
    np.testing.assert_allclose(logits[:1], alone, atol=1e-5)
    assert jax.tree.all(jax.tree.map(np.array_equal, stats, after))
    first, moved = models.apply(graph, params, stats, x, train=True, keys=jax.random.split(jax.random.key(1), 4))
    second, _ = models.apply(graph, params, stats, x, train=True, keys=jax.random.split(jax.random.key(2), 4))
    assert not np.allclose(first, second)
    assert not any(jax.tree.leaves(jax.tree.map(np.array_equal, stats, moved)))


@pytest.mark.parametrize("shape", [(28, 28, 1), (2, 28, 28), (2, 1, 28, 28), (2, 27, 28, 1)])
def test_images_of_another_shape_are_refused(shape):
    recipe = config.load("2")
    with pytest.raises(AssertionError):
        models.apply(models.make_graph(recipe), *arrays(recipe), jnp.zeros(shape), train=False)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([config.Conv(10, 29)], "network[1] is 29x29, larger than its input of 28x28"),
        ([config.Pool("max", 14), config.Pool("max", 3)], "network[2] is 3x3, larger than its input of 2x2"),
        ([config.Conv(10, 28), config.Conv(9, 1)], "the network ends in 1x1x9; it must end in 1x1x10"),
        ([config.Conv(10, 3)], "the network ends in 26x26x10"),
    ],
)
def test_a_network_that_does_not_fit(layers, message):
    with pytest.raises(UsageError) as error:
        models.layer_table(config.Config("x", tuple(layers)))
    assert message in str(error.value)

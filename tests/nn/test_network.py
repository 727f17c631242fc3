"""Architectures, initialization, dropout, and the layer table."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdrill import config
from jaxdrill.config.layers import Conv, LayerShape, Pool, count_parameters, layer_table
from jaxdrill.errors import UsageError
from jaxdrill.nn import functional, modules, network

STEPS = [
    ("1", 194_884),
    *((step, 9_606) for step in ("2", "3", "4", "4_adam", "5", "5_exponential")),
    *((step, 9_598) for step in ("6", "6_one")),
    ("6_fast", 9_400),
    ("6_small", 2_878),
]


def arrays(recipe, seed=0):
    return network.init(recipe.network, jax.random.key(seed))


@pytest.mark.parametrize(("step", "parameters"), STEPS)
def test_parameters(step, parameters):
    recipe = config.load(step)
    params, _ = jax.eval_shape(lambda key: network.init(recipe.network, key), jax.random.key(0))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == parameters
    assert count_parameters(recipe.network) == parameters


def test_layers_of_step_1():
    rows = layer_table(config.load("1").network)
    assert [row.macs for row in rows[:2]] == [26 * 26 * 9 * 32, 24 * 24 * 9 * 32 * 64]
    assert [row.macs for row in rows[3:5]] == [0, 11 * 11 * 128 * 32]
    assert [row.parameters for row in rows] == [
        288,
        18_432,
        73_728,
        0,
        4_096,
        18_432,
        73_728,
        1_280,
        4_900,
    ]
    assert [row.side for row in rows] == [26, 24, 22, 11, 11, 9, 7, 7, 1]


def test_layers_of_step_2():
    rows = layer_table(config.load("2").network)
    expected = [
        90 + 20,
        1_440 + 32,
        160 + 20,
        0,
        1_800 + 40,
        2_880 + 32,
        1_440 + 20,
        1_440 + 32,
        0,
        160,
    ]
    assert [row.parameters for row in rows] == expected
    assert [row.side for row in rows] == [26, 24, 24, 12, 10, 8, 6, 6, 1, 1]
    assert [row.channels for row in rows] == [10, 16, 10, 10, 20, 16, 10, 16, 16, 10]
    assert [row.receptive_field for row in rows] == [3, 5, 5, 6, 10, 14, 18, 22, 32, 32]


def test_the_layer_table_is_what_the_network_does():
    """The gradient of one value of the last map reaches exactly the receptive field."""
    recipe = config.load("2")
    rows = layer_table(recipe.network)[
        :7
    ]  # up to the 6x6 map, whose centre sees only pixels within the image
    net = modules.Network(recipe.network[:7], "xla", nnx.Rngs(params=0))
    side, channels = rows[-1].side, rows[-1].channels

    def value(x):
        out = net(x.transpose(3, 1, 2, 0), False, None, None).transpose(3, 1, 2, 0)
        assert out.size == side * side * channels
        return out.reshape(side, side, channels)[side // 2, side // 2].sum()

    gradient = jax.jit(jax.grad(value))(jax.random.normal(jax.random.key(0), (1, 28, 28, 1)))
    reached = np.abs(gradient)[0, ..., 0] > 0
    rows_reached = np.flatnonzero(reached.any(axis=1))
    assert rows_reached[-1] - rows_reached[0] + 1 == rows[-1].receptive_field


def test_a_separable_convolution_mixes_the_channels_and_then_filters_each():
    """It equals an einsum, then XLA's convolution with one feature group per channel."""
    layer = Conv(conv=5, separable=True, padding=1, batch_norm=True)
    x = jax.random.normal(jax.random.key(1), (2, 7, 7, 3))
    convolution = modules.Convolution(layer, 3, "rows", nnx.Rngs(params=0))
    depthwise, pointwise = convolution.depthwise[...], convolution.kernel[...]
    assert depthwise.shape == (3, 3, 1, 5) and pointwise.shape == (1, 1, 3, 5)
    assert (
        0.25 < jnp.abs(depthwise).max() < 1 / 3 and 0.3 < jnp.abs(pointwise).max() < 3**-0.5
    )  # 1/sqrt(fan_in)
    expected = jax.lax.conv_general_dilated(
        jnp.einsum("bhwi,io->bhwo", x, pointwise[0, 0]),
        depthwise,
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=5,
    )
    evaluated = convolution(x.transpose(3, 1, 2, 0), False, None, None).transpose(3, 1, 2, 0)
    evaluated *= (1 + functional.EPSILON) ** 0.5  # fresh statistics are 0 and 1
    np.testing.assert_allclose(evaluated, jax.nn.relu(expected), atol=1e-5)
    flow = layer.shape(LayerShape(7, 3))
    assert (
        flow.parameters
        == 15 + 45 + 10
        == sum(p.size for p in jax.tree.leaves(nnx.state(convolution, nnx.Param)))
    )
    assert flow.macs == 49 * (15 + 45) and layer.text() == "3x3 separable conv relu batch_norm"


def test_dropout_stands_after_five_of_the_blocks():
    dropped = ["dropout 0.05" in row.layer for row in layer_table(config.load("3").network)]
    assert dropped == [True, True, False, False, True, True, True, False, False, False]


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
    ours = modules.torch_uniform(jax.random.key(0), (3, 3, 64, 128))
    np.testing.assert_allclose(np.std(ours), np.std(theirs), rtol=0.01)
    np.testing.assert_allclose(np.abs(ours).max(), np.abs(theirs).max(), rtol=1e-4)


def test_seeds_differ_and_repeat():
    first, again, other = (arrays(config.load("2"), seed)[0] for seed in (1, 1, 2))
    chex.assert_trees_all_equal(first, again)
    kernels = [leaf for leaf in jax.tree.leaves(jax.tree.map(np.array_equal, first, other))]
    assert kernels.count(False) == 8  # scales are 1 and biases 0 in both


def test_steps_with_the_same_network_start_with_the_same_weights():
    params = [arrays(config.load(step), 3)[0] for step in ("2", "5")]
    chex.assert_trees_all_equal(*params)


def test_no_two_layers_share_a_mask():
    net = modules.Network([Conv(conv=4, kernel=1, dropout=0.5)] * 2, "xla", nnx.Rngs(params=0))
    calls = []

    def spy(keys, x, rate, form):
        calls.append(np.asarray(original(keys, jnp.ones((4, 28, 28, 8)), rate, form)) == 0)
        return x

    original, functional.dropout = functional.dropout, spy
    try:
        net(jnp.ones((1, 28, 28, 8)), True, jax.random.split(jax.random.key(0), 8), None)
    finally:
        functional.dropout = original
    assert len(calls) == 2
    assert abs(np.mean(calls[0] == calls[1]) - 0.5) < 0.02


def test_evaluation_neither_drops_nor_learns():
    recipe = config.load("3")
    graph, (params, stats) = network.make_graph(recipe.network), arrays(recipe)
    x = jax.random.normal(jax.random.key(0), (4, 28, 28, 1))
    evaluate = jax.jit(lambda x: network.apply(graph, params, stats, x, train=False))
    train = jax.jit(lambda keys: network.apply(graph, params, stats, x, train=True, keys=keys))
    (logits, after), (alone, _) = evaluate(x), evaluate(x[:1])
    np.testing.assert_allclose(logits[:1], alone, atol=1e-5)
    chex.assert_trees_all_equal(stats, after)
    (first, moved), (second, _) = (
        train(jax.random.split(jax.random.key(seed), 4)) for seed in (1, 2)
    )
    assert not np.allclose(first, second)
    assert not any(jax.tree.leaves(jax.tree.map(np.array_equal, stats, moved)))


@pytest.mark.parametrize("shape", [(28, 28, 1), (2, 28, 28), (2, 1, 28, 28), (2, 27, 28, 1)])
def test_images_of_another_shape_are_refused(shape):
    recipe = config.load("2")
    with pytest.raises(AssertionError):
        network.apply(
            network.make_graph(recipe.network), *arrays(recipe), jnp.zeros(shape), train=False
        )


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([Conv(conv=10, kernel=29)], "network[1] is 29x29, larger than its input of 28x28"),
        (
            [Pool(pool="max", size=14), Pool(pool="max", size=3)],
            "network[2] is 3x3, larger than its input of 2x2",
        ),
        (
            [Conv(conv=10, kernel=28), Conv(conv=9, kernel=1)],
            "the network ends in 1x1x9; it must end in 1x1x10",
        ),
        ([Conv(conv=10)], "the network ends in 26x26x10"),
    ],
)
def test_a_network_that_does_not_fit(layers, message):
    with pytest.raises(UsageError) as error:
        layer_table(layers)
    assert message in str(error.value)


def test_weights_have_names():
    recipe = config.load("2")
    params, stats = arrays(recipe)
    weights = network.named_weights(params, stats)
    assert weights["conv1.kernel"].shape == (3, 3, 1, 10) and weights["conv8.kernel"].shape == (
        1,
        1,
        16,
        10,
    )
    norms = {
        f"conv{n}.batch_norm.{leaf}"
        for n in range(1, 8)
        for leaf in ("scale", "bias", "mean", "var")
    }
    assert set(weights) == norms | {f"conv{n}.kernel" for n in range(1, 9)}
    assert not np.any(weights["conv7.batch_norm.mean"]) and np.all(
        weights["conv7.batch_norm.var"] == 1
    )
    chex.assert_trees_all_equal(network.from_named_weights(weights), (params, stats))
    assert [row.name for row in layer_table(recipe.network)][2:5] == ["conv3", "pool1", "conv4"]


@pytest.mark.parametrize("step", ["1", "5", "6"])
def test_initial_weights_have_the_keys_of_flax(step):
    layers, key = config.load(step).network, jax.random.key(3)
    _, *expected = nnx.split(
        modules.Network(layers, "xla", nnx.Rngs(params=key)), nnx.Param, nnx.BatchStat
    )
    chex.assert_trees_all_equal(network.init(layers, key), tuple(map(nnx.to_pure_dict, expected)))

"""The layers equal the plain functions that they replace."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.extend.random import threefry_2x32
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxdrill.nn import convolution, functional


def normal(seed, *shape):
    return jnp.array(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def keys(seed, count):
    return jax.random.split(jax.random.key(seed), count)


def swapped(x):
    """Exchange channels and batch: NHWC to the layers' CHWN, or back."""
    return x.transpose(3, 1, 2, 0)


def in_nhwc(layer):
    """The layer as a function of NHWC arrays."""
    return lambda x, *arguments: swapped(layer(swapped(x), *arguments))


def weighted(function, *arguments):
    """The value of a function, and the gradients of its sum weighted at random."""

    def both(weights, *arguments):
        value, gradient = jax.vjp(function, *arguments)
        return value, gradient(weights)

    return jax.jit(both)(normal(9, *jax.eval_shape(function, *arguments).shape), *arguments)


def plain_batch_norm(x, scale, bias, relu):
    norm = nnx.BatchNorm(
        x.shape[-1], momentum=0.0, epsilon=1e-5, use_fast_variance=False, rngs=nnx.Rngs(0)
    )
    norm.scale[...], norm.bias[...] = scale, bias
    y = norm(jax.nn.relu(x) if relu else x, use_running_average=False)
    return y, norm.mean[...], norm.var[...]


@pytest.mark.parametrize("form", ["rows", "xla"])
@pytest.mark.parametrize("relu", [True, False])
def test_batch_norm_is_that_of_flax(relu, form):
    x, scale, bias = 3 * normal(0, 16, 6, 5, 4) + 1, normal(1, 4), normal(2, 4)
    y, *statistics = functional.batch_norm(swapped(x), scale, bias, relu, None, form)
    expected = plain_batch_norm(x, scale, bias, relu)
    chex.assert_trees_all_close((swapped(y), *statistics), expected, rtol=0, atol=1e-5)
    ours = weighted(
        in_nhwc(lambda *a: functional.batch_norm(*a, relu, None, form)[0]), x, scale, bias
    )
    chex.assert_trees_all_close(
        ours,
        weighted(lambda *a: plain_batch_norm(*a, relu)[0], x, scale, bias),
        rtol=1e-4,
        atol=1e-5,
    )


def test_batch_norm_of_a_shared_batch_is_that_of_the_whole():
    """Gradients of scale and bias are each device's own; the training step sums them."""
    x, scale, bias = normal(0, 16, 6, 6, 4), normal(1, 4), normal(2, 4)
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(AxisType.Auto,))

    def shared(x, scale, bias, weights):
        layer = in_nhwc(lambda *a: functional.batch_norm(*a, True, "batch", "rows")[0])
        y, gradient = jax.vjp(layer, x, scale, bias)
        dx, dscale, dbias = gradient(weights)
        return y, (dx, lax.psum(dscale, "batch"), lax.psum(dbias, "batch"))

    batch, whole = P("batch"), P()
    on_two = jax.jit(
        jax.shard_map(
            shared,
            mesh=mesh,
            in_specs=(batch, whole, whole, batch),
            out_specs=(batch, (batch, whole, whole)),
            check_vma=False,
        )
    )
    alone = weighted(
        in_nhwc(lambda *a: functional.batch_norm(*a, True, None, "rows")[0]), x, scale, bias
    )
    chex.assert_trees_all_close(
        on_two(x, scale, bias, normal(9, *x.shape)), alone, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("form", ["rows", "xla"])
@pytest.mark.parametrize(("side", "size"), [(6, 2), (7, 2), (7, 3), (5, 5), (3, 1)])
def test_max_pool_is_that_of_flax(side, size, form):
    """Also where values are equal, as after ReLU: of whole numbers many are."""
    x = jnp.round(normal(0, 4, side, side, 3))
    chex.assert_trees_all_close(
        weighted(in_nhwc(lambda x: functional.max_pool(x, size, form)), x),
        weighted(lambda x: nnx.max_pool(x, (size, size), strides=(size, size)), x),
        rtol=0,
        atol=0,
    )


@pytest.mark.parametrize(("side", "size"), [(6, 2), (7, 3)])
def test_average_pool(side, size):
    x = normal(0, 4, side, side, 3)
    with jax.numpy_dtype_promotion("standard"):
        expected = nnx.avg_pool(x, (size, size), strides=(size, size))
    found = in_nhwc(lambda x: functional.average_pool(x, size))(x)
    chex.assert_trees_all_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("form", ["rows", "xla", "im2col"])
@pytest.mark.parametrize(
    ("side", "inputs", "outputs", "kernel", "padding"),
    [
        (8, 3, 4, 3, 0),
        (8, 1, 4, 3, 1),
        (8, 3, 4, 3, 1),
        (9, 3, 4, 3, 0),
        (9, 1, 4, 2, 0),
        (8, 3, 4, 5, 3),
        (6, 32, 32, 3, 0),
        (7, 10, 10, 7, 0),
        (7, 6, 5, 1, 0),
        (16, 3, 4, 3, 0),
        (16, 3, 4, 5, 1),
        (16, 3, 4, 2, 0),
        (7, 6, 5, 1, 1),
    ],
)
def test_convolutions_are_that_of_xla(form, side, inputs, outputs, kernel, padding):
    x, weights = normal(0, 4, side, side, inputs), normal(1, kernel, kernel, inputs, outputs)
    arguments = dict(
        window_strides=(1, 1),
        padding=((padding, padding),) * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    chex.assert_trees_all_close(
        weighted(in_nhwc(lambda *a: convolution.convolve(*a, padding, form)), x, weights),
        weighted(lambda *a: lax.conv_general_dilated(*a, **arguments), x, weights),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("form", ["rows", "xla", "im2col"])
@pytest.mark.parametrize(
    ("side", "size", "padding"), [(16, 3, 0), (6, 3, 1), (7, 5, 2), (5, 2, 0), (6, 3, 4), (5, 1, 0)]
)
def test_a_separable_convolution_is_that_of_xla(form, side, size, padding):
    """A 1x1 convolution, then one with a feature group per channel."""
    x, pointwise, depthwise = normal(0, 4, side, side, 3), normal(1, 3, 5), normal(2, size, size, 5)

    def expected(x, pointwise, depthwise):
        return lax.conv_general_dilated(
            x @ pointwise,
            depthwise[:, :, None],
            (1, 1),
            ((padding, padding),) * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=5,
        )

    chex.assert_trees_all_close(
        weighted(
            in_nhwc(lambda *a: convolution.convolve_separably(*a, padding, form)),
            x,
            pointwise,
            depthwise,
        ),
        weighted(expected, x, pointwise, depthwise),
        rtol=1e-5,
        atol=1e-4,
    )


@pytest.mark.parametrize("form", ["rows", "xla", "im2col"])
def test_feature_groups_are_refused(form):
    with pytest.raises(AssertionError):
        convolution.convolve(normal(0, 6, 8, 8, 4), normal(1, 3, 3, 1, 6), 0, form)


def test_what_is_not_fused_keeps_nan():
    """The condition that prevents fusion is false only for NaN, which must stay NaN."""
    x = normal(0, 2, 3, 4, 5).at[0, 0, 0, 0].set(jnp.nan)
    y, mean, _ = functional.batch_norm(x, jnp.ones(2), jnp.ones(2), True, None, "rows")
    assert np.isnan(mean[0]) and np.isnan(y).all()
    assert np.isnan(functional.dropout(keys(0, 5), y, 0.5, "rows")).all()


class WithAndWithoutJit(chex.TestCase):
    """The layers compute the same when they are compiled."""

    @chex.variants(with_jit=True, without_jit=True)
    def test_layers(self):
        x, kernel, scale = normal(0, 3, 6, 6, 4), normal(1, 3, 3, 3, 4), normal(2, 3)

        def layers(x, kernel, scale):
            y, mean, variance = functional.batch_norm(x, scale, scale, True, None, "rows")
            pooled = functional.max_pool(convolution.convolve(y, kernel, 1, "rows"), 2, "rows")
            dropped = functional.dropout(keys(0, 4), pooled, 0.25, "rows")
            return dropped, functional.average_pool(y, 3), mean, variance

        found = self.variant(layers)(x, kernel, scale)
        chex.assert_trees_all_close(found, layers(x, kernel, scale), rtol=1e-5, atol=1e-5)
        chex.assert_shape(found[0], (4, 3, 3, 4))


@pytest.mark.parametrize("drops", [1, 65535])
def test_dropout_at_the_ends_of_its_range(drops):
    x = jnp.ones((4, 32, 32, 64))
    rate = drops / 65536
    dropped = np.asarray(functional.dropout(keys(0, 64), x, rate, "rows"))
    assert abs(np.mean(dropped == 0) - rate) < 5 * (rate * (1 - rate) / x.size) ** 0.5
    np.testing.assert_allclose(dropped[dropped != 0], 1 / (1 - rate), rtol=1e-6)


@pytest.mark.parametrize(
    "shape", [(10, 24, 24, 64), (3, 5, 5, 7)]
)  # multiples of 4 values per image, and not
def test_dropout(shape):
    x = jnp.ones(shape)
    dropped = np.asarray(functional.dropout(keys(0, shape[-1]), x, 0.05, "rows"))
    assert np.array_equal(dropped, functional.dropout(keys(0, shape[-1]), x, 0.05, "xla"))
    share = np.mean(dropped == 0)
    assert abs(share - 0.05) < 4 * (0.05 * 0.95 / x.size) ** 0.5
    np.testing.assert_allclose(dropped[dropped != 0], 65536 / (65536 - 3277), rtol=1e-6)
    assert not np.array_equal(dropped, functional.dropout(keys(1, shape[-1]), x, 0.05, "rows"))
    images = dropped.reshape(-1, shape[-1])
    assert not np.array_equal(images[:, 0], images[:, 1])
    alone = functional.dropout(keys(0, shape[-1])[2:3], x[..., 2:3], 0.05, "rows")
    assert np.array_equal(dropped[..., 2:3], alone)


def test_the_random_words_of_dropout_are_those_of_jax():
    both = jax.random.split(jax.random.key(3), 2)
    words = functional._random_words(jax.random.key_data(both).T, 5)
    for image, key in enumerate(jax.random.key_data(both)):
        expected = threefry_2x32(key, jnp.arange(10, dtype=jnp.uint32))
        assert np.array_equal(jnp.concatenate(words)[:, image], expected)


def test_the_four_quarters_of_an_image_drop_independently():
    """Four values, a quarter of the image apart, use different bits of one random block."""
    x = jnp.ones((1, 100, 100, 100))
    zero = np.asarray(functional.dropout(keys(0, 100), x, 0.5, "rows")).reshape(10_000, 100) == 0
    for one, other in itertools.combinations(np.split(zero, 4), 2):
        assert abs(np.mean(one & other) - 0.25) < 0.003

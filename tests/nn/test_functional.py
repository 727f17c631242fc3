"""Layers against the plain forms that they replace."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxdrill.nn import convolution, functional


def normal(seed, *shape):
    return jnp.array(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def keys(seed, count):
    return jax.random.split(jax.random.key(seed), count)


def weighted(function, *arguments):
    """The value of a function, and the gradients of its sum weighted at random."""

    def both(weights, *arguments):
        value, gradient = jax.vjp(function, *arguments)
        return value, gradient(weights)

    return jax.jit(both)(normal(9, *jax.eval_shape(function, *arguments).shape), *arguments)


def plain_batch_norm(x, scale, bias, relu):
    norm = nnx.BatchNorm(x.shape[-1], momentum=0.0, epsilon=1e-5, use_fast_variance=False, rngs=nnx.Rngs(0))
    norm.scale[...], norm.bias[...] = scale, bias
    y = norm(jax.nn.relu(x) if relu else x, use_running_average=False)
    return y, norm.mean[...], norm.var[...]


@pytest.mark.parametrize("relu", [True, False])
def test_batch_norm_is_that_of_flax(relu):
    x, scale, bias = 3 * normal(0, 16, 6, 5, 4) + 1, normal(1, 4), normal(2, 4)
    chex.assert_trees_all_close(
        functional.batch_norm(x, scale, bias, relu, None), plain_batch_norm(x, scale, bias, relu), rtol=0, atol=1e-5
    )
    ours = weighted(lambda *a: functional.batch_norm(*a, relu, None)[0], x, scale, bias)
    chex.assert_trees_all_close(
        ours, weighted(lambda *a: plain_batch_norm(*a, relu)[0], x, scale, bias), rtol=1e-4, atol=1e-5
    )


def test_batch_norm_of_a_shared_batch_is_that_of_the_whole():
    """Gradients of scale and bias are each device's own; the training step sums them."""
    x, scale, bias = normal(0, 16, 6, 6, 4), normal(1, 4), normal(2, 4)
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(AxisType.Auto,))

    def shared(x, scale, bias, weights):
        y, gradient = jax.vjp(lambda *a: functional.batch_norm(*a, True, "batch")[0], x, scale, bias)
        dx, dscale, dbias = gradient(weights)
        return y, (dx, lax.psum(dscale, "batch"), lax.psum(dbias, "batch"))

    batch, whole = P("batch"), P()
    on_two = jax.jit(jax.shard_map(
        shared, mesh=mesh, in_specs=(batch, whole, whole, batch), out_specs=(batch, (batch, whole, whole)),
        check_vma=False,
    ))  # fmt: skip
    alone = weighted(lambda *a: functional.batch_norm(*a, True, None)[0], x, scale, bias)
    chex.assert_trees_all_close(on_two(x, scale, bias, normal(9, *x.shape)), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("side", "size"), [(6, 2), (7, 2), (7, 3), (5, 5)])
def test_max_pool_is_that_of_flax(side, size):
    """Also where values are equal, as after ReLU: of whole numbers many are."""
    x = jnp.round(normal(0, 4, side, side, 3))
    chex.assert_trees_all_close(
        weighted(lambda x: functional.max_pool(x, size), x),
        weighted(lambda x: nnx.max_pool(x, (size, size), strides=(size, size)), x),
        rtol=0, atol=0,
    )  # fmt: skip


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_tpus_max_pool_is_the_same(size):
    """Few different values, so that many squares have several largest ones."""
    x, dy = jnp.round(normal(0, 4, 2, size, 3, size, 5)), normal(1, 4, 2, 3, 5)
    largest = x.max((2, 4))
    assert np.array_equal(functional._largest(x), largest)
    found = functional._spread(x, largest, dy)
    assert np.array_equal(found, functional._spread_in_turn(x, largest, dy))
    assert np.array_equal(found.sum((2, 4)), dy)


@pytest.mark.parametrize(("side", "size"), [(6, 2), (7, 3)])
def test_average_pool(side, size):
    x = normal(0, 4, side, side, 3)
    with jax.numpy_dtype_promotion("standard"):
        expected = nnx.avg_pool(x, (size, size), strides=(size, size))
    chex.assert_trees_all_close(functional.average_pool(x, size), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("form", ["plain", "pairs", "patches", "taps"])
@pytest.mark.parametrize(
    ("side", "inputs", "outputs", "kernel", "padding"),
    [(8, 3, 4, 3, 0), (8, 1, 4, 3, 1), (8, 3, 4, 3, 1), (9, 3, 4, 3, 0), (9, 1, 4, 2, 0), (8, 3, 4, 5, 3),
     (6, 32, 32, 3, 0), (7, 10, 10, 7, 0), (7, 6, 5, 1, 0)],
)  # fmt: skip
def test_convolutions_are_that_of_xla(form, side, inputs, outputs, kernel, padding):
    x, weights = normal(0, 4, side, side, inputs), normal(1, kernel, kernel, inputs, outputs)
    arguments = dict(
        window_strides=(1, 1), padding=((padding, padding),) * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    chex.assert_trees_all_close(
        weighted(lambda *a: convolution.convolve(*a, padding, form), x, weights),
        weighted(lambda *a: lax.conv_general_dilated(*a, **arguments), x, weights),
        rtol=1e-4, atol=1e-4,
    )  # fmt: skip


@pytest.mark.parametrize("form", ["pairs", "patches"])
def test_what_a_form_does_not_do_is_refused(form):
    """Feature groups, strides and dilation: never ignored."""
    x, depthwise = normal(0, 4, 8, 8, 6), normal(1, 3, 3, 1, 6)
    with pytest.raises(AssertionError):
        convolution.convolve(x, depthwise, 0, form)
    for more in ({"strides": (2, 2)}, {"rhs_dilation": (2, 2)}, {"feature_group_count": 6}):
        with pytest.raises(TypeError):
            convolution.FORMS[form](x, normal(1, 3, 3, 6, 6), ((0, 0), (0, 0)), **more)


class WithAndWithoutJit(chex.TestCase):
    """The layers compute the same when they are compiled."""

    @chex.variants(with_jit=True, without_jit=True)
    def test_layers(self):
        x, kernel, scale = normal(0, 4, 6, 6, 3), normal(1, 3, 3, 3, 4), normal(2, 3)

        def layers(x, kernel, scale):
            y, mean, variance = functional.batch_norm(x, scale, scale, True, None)
            pooled = functional.max_pool(convolution.convolve(y, kernel, 1, "pairs"), 2)
            return functional.dropout(keys(0, 4), pooled, 0.25), functional.average_pool(y, 3), mean, variance

        found = self.variant(layers)(x, kernel, scale)
        chex.assert_trees_all_close(found, layers(x, kernel, scale), rtol=1e-5, atol=1e-5)
        chex.assert_shape(found[0], (4, 3, 3, 4))


@pytest.mark.parametrize("drops", [1, 65535])
def test_dropout_at_the_ends_of_its_range(drops):
    x = jnp.ones((64, 32, 32, 4))
    rate = drops / 65536
    dropped = np.asarray(functional.dropout(keys(0, 64), x, rate))
    assert abs(np.mean(dropped == 0) - rate) < 5 * (rate * (1 - rate) / x.size) ** 0.5
    np.testing.assert_allclose(dropped[dropped != 0], 1 / (1 - rate), rtol=1e-6)


@pytest.mark.parametrize("shape", [(64, 24, 24, 10), (7, 5, 5, 3)])  # an even and an odd number of values a row
def test_dropout(shape):
    x = jnp.ones(shape)
    dropped = np.asarray(functional.dropout(keys(0, len(x)), x, 0.05))
    share = np.mean(dropped == 0)
    assert abs(share - 0.05) < 4 * (0.05 * 0.95 / x.size) ** 0.5
    np.testing.assert_allclose(dropped[dropped != 0], 65536 / (65536 - 3277), rtol=1e-6)
    assert not np.array_equal(dropped, functional.dropout(keys(1, len(x)), x, 0.05))
    rows = dropped.reshape(shape[0], -1)
    assert not np.array_equal(rows[0], rows[1])


def test_the_values_of_a_quarter_of_the_rows_drop_independently_of_the_others():
    """Four values, a quarter of the rows apart, share a random number; if they shared its bits they would drop
    together."""
    zero = np.asarray(functional.dropout(keys(0, 100), jnp.ones((100, 10_000)), 0.5)) == 0
    for one, other in itertools.combinations(np.split(zero, 4, axis=1), 2):
        assert abs(np.mean(one & other) - 0.25) < 0.003

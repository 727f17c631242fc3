"""Layers as pure functions. Their gradients are written by hand where that is faster (benchmarks/NOTES.md)."""

import math
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.random import threefry_2x32

EPSILON = 1e-5  # of batch norm; PyTorch's default


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def batch_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, relu: bool, axis: str | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Batch norm of x, or of ReLU(x), by the batch's own statistics (Ioffe and Szegedy, 2015).

    XLA reads and writes x about twice as often for the plain form and its gradient, and sums over devices twice as
    often.

    Args:
        x: float32[B, H, W, C].
        scale: float32[C].
        bias: float32[C].
        relu: whether ReLU comes first.
        axis: name of the mesh axis that shards the batch, if any does.

    Returns:
        float32[B, H, W, C], and the mean and the biased variance of the batch, float32[C], which have no gradient.
    """
    return _batch_norm_forward(x, scale, bias, relu, axis)[0]


def _batch_norm_forward(x: jax.Array, scale: jax.Array, bias: jax.Array, relu: bool, axis: str | None) -> Any:
    values = jax.nn.relu(x) if relu else x
    mean, square = _channel_sums(values, values * values, axis) / _count(x, axis)
    variance = jnp.maximum(square - mean * mean, 0)
    factor = scale * lax.rsqrt(variance + EPSILON)
    y = values * _channels(factor) + _channels(bias - mean * factor)
    return (y, mean, variance), (x, scale, mean, variance)


def _batch_norm_backward(relu: bool, axis: str | None, residuals: Any, gradients: Any) -> Any:
    x, scale, mean, variance = residuals
    dy = gradients[0]
    values = jax.nn.relu(x) if relu else x
    inverse = lax.rsqrt(variance + EPSILON)
    own = _channel_sums(dy, dy * values, None)  # of this device: the step sums all gradients over devices
    total = lax.psum(own, axis) if axis else own
    dscale, (dbias, products) = (own[1] - mean * own[0]) * inverse, total / _count(x, axis)
    slope = scale * inverse**3 * (products - mean * dbias)
    dx = _channels(scale * inverse) * dy - _channels(slope) * values + _channels(slope * mean - scale * inverse * dbias)
    return jnp.where(x > 0, dx, 0) if relu else dx, dscale, own[0]


batch_norm.defvjp(_batch_norm_forward, _batch_norm_backward)


def _channel_sums(a: jax.Array, b: jax.Array, axis: str | None) -> jax.Array:
    """The sums of both by channel, float32[2, C], in one all-reduce."""
    sums = jnp.stack([a.sum((0, 1, 2)), b.sum((0, 1, 2))])
    return lax.psum(sums, axis) if axis else sums


def _count(x: jax.Array, axis: str | None) -> Any:
    """The number of values in a channel of the whole batch."""
    return x.size // x.shape[-1] * (lax.psum(1, axis) if axis else 1)


def _channels(a: jax.Array) -> jax.Array:
    return a[None, None, None, :]


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def max_pool(x: jax.Array, size: int) -> jax.Array:
    """The largest of each square, x float32[B, S, S, C]; of equal ones the first gets the gradient, as in PyTorch."""
    return lax.platform_dependent(_squares(x, size), tpu=_largest, default=lambda squares: squares.max((2, 4)))


def _largest(squares: jax.Array) -> jax.Array:
    """The maximum of each square, value by value."""
    sides = range(squares.shape[2])
    return reduce(jnp.maximum, [squares[:, :, row, :, column] for row in sides for column in sides])


def _max_pool_forward(x: jax.Array, size: int) -> Any:
    largest = max_pool(x, size)
    return largest, (x, largest)


def _max_pool_backward(size: int, residuals: Any, dy: jax.Array) -> tuple[jax.Array]:
    rest, arguments = residuals[0].shape[1] % size, (_squares(residuals[0], size), residuals[1], dy)
    dx = lax.platform_dependent(*arguments, tpu=_spread, default=_spread_in_turn)
    side = dy.shape[1] * size
    return (jnp.pad(dx.reshape(len(dy), side, side, -1), ((0, 0), (0, rest), (0, rest), (0, 0))),)


def _spread(squares: jax.Array, largest: jax.Array, dy: jax.Array) -> jax.Array:
    """The gradient of each square: dy where the first of its largest values is. On TPU it is one fusion."""
    size, first = squares.shape[2], jnp.full(largest.shape, -1)
    for place in reversed(range(size * size)):
        row, column = divmod(place, size)
        first = jnp.where(squares[:, :, row, :, column] == largest, place, first)
    places = jnp.arange(size * size).reshape(1, 1, size, 1, size, 1)
    return jnp.where(first[:, :, None, :, None] == places, dy[:, :, None, :, None], 0)


def _spread_in_turn(squares: jax.Array, largest: jax.Array, dy: jax.Array) -> jax.Array:
    """As `_spread`; on CPU it is a tenth of a training step faster."""
    size, taken, rows = squares.shape[2], jnp.zeros(largest.shape, bool), []
    for row in range(size):
        hits = []
        for column in range(size):
            hits.append((squares[:, :, row, :, column] == largest) & ~taken)
            taken = taken | hits[-1]
        rows.append(jnp.stack([jnp.where(hit, dy, 0) for hit in hits], 3))
    return jnp.stack(rows, 2)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def average_pool(x: jax.Array, size: int) -> jax.Array:
    """The mean of each square, x float32[B, S, S, C] (Flax's own refuses strict dtype promotion)."""
    return _squares(x, size).mean((2, 4))


def _squares(x: jax.Array, size: int) -> jax.Array:
    """float32[B, S / size, size, S / size, size, C]; rows and columns left over are dropped, as in PyTorch."""
    batch, side, _, channels = x.shape
    x = x[:, : side // size * size, : side // size * size]
    return x.reshape(batch, side // size, size, side // size, size, channels)


def dropout(keys: jax.Array, x: jax.Array, rate: float) -> jax.Array:
    """Zeroes about a `rate` of x, float32[B, ...], and scales the rest so that the expectation stays.

    The rate is rounded to 1/65536 (0.05 to 0.050003): 16 random bits decide on a value, where `jax.random.bernoulli`
    spends 64. Each image has its key, key[B], so devices that shard a batch share the drawing.
    """
    half, threshold = -(-x.shape[1] // 4) * 2, round(rate * 65536)
    shape = (half, *x.shape[2:])  # of an image's random words, each with 16 bits for two halves of the image
    counts = jnp.arange(math.prod(shape), dtype=jnp.uint32)  # an even number, as threefry makes pairs
    words = jax.vmap(threefry_2x32, (0, None))(jax.random.key_data(keys), counts).reshape(len(x), *shape)
    kept = jnp.concatenate([(words & 0xFFFF) >= threshold, (words >> 16) >= threshold], 1)[:, : x.shape[1]]
    return jnp.where(kept, x * (65536 / (65536 - threshold)), 0)

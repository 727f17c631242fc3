"""Layers as pure functions of arrays [channels, rows, columns, batch].

Some gradients are written by hand because they are faster; benchmarks/NOTES.md has the measurements. An argument
`form` is how convolutions are computed, as in `convolution.convolve`.
"""

import math
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdrill.nn.convolution import unfused

EPSILON = 1e-5  # of batch norm; PyTorch's default


@partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def batch_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, relu: bool, axis: str | None, form: str
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalize x, or ReLU(x), by the batch's own statistics (Ioffe and Szegedy, 2015).

    XLA reads and writes x about twice as often for the plain form and its gradient, and sums over devices twice as
    often.

    Args:
        x: float32[C, H, W, B].
        scale: float32[C].
        bias: float32[C].
        relu: True if ReLU comes first.
        axis: name of the mesh axis that shards the batch, or None.
        form: as above.

    Returns:
        float32[C, H, W, B], and the mean and the biased variance of the batch, float32[C], which have no gradient.
    """
    return _batch_norm_forward(x, scale, bias, relu, axis, form)[0]


def _batch_norm_forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, relu: bool, axis: str | None, form: str
) -> Any:
    values = jax.nn.relu(x) if relu else x
    mean, square = _channel_sums(values, values * values, axis) / _count(x, axis)
    variance = jnp.maximum(square - mean * mean, 0)
    factor = scale * lax.rsqrt(variance + EPSILON)

    def scaled(x: jax.Array, factor: jax.Array, shift: jax.Array) -> jax.Array:
        return (jax.nn.relu(x) if relu else x) * per_channel(factor) + per_channel(shift)

    y = unfused(form, scaled, x, factor, bias - mean * factor)
    return (y, mean, variance), (x, scale, mean, variance)


def _batch_norm_backward(
    relu: bool, axis: str | None, form: str, residuals: Any, gradients: Any
) -> Any:
    x, scale, mean, variance = residuals
    dy = gradients[0]
    inverse = lax.rsqrt(variance + EPSILON)
    own = _channel_sums(
        dy, dy * (jax.nn.relu(x) if relu else x), None
    )  # The step sums all gradients over devices.
    total = lax.psum(own, axis) if axis else own
    dscale, (dbias, products) = (own[1] - mean * own[0]) * inverse, total / _count(x, axis)
    slope = scale * inverse**3 * (products - mean * dbias)

    def input_gradient(
        x: jax.Array, dy: jax.Array, factor: jax.Array, slope: jax.Array, shift: jax.Array
    ) -> jax.Array:
        dx = per_channel(factor) * dy - per_channel(slope) * x + per_channel(shift)
        return jnp.where(x > 0, dx, 0) if relu else dx

    dx = unfused(
        form, input_gradient, x, dy, scale * inverse, slope, slope * mean - scale * inverse * dbias
    )
    return dx, dscale, own[0]


batch_norm.defvjp(_batch_norm_forward, _batch_norm_backward)


def _channel_sums(a: jax.Array, b: jax.Array, axis: str | None) -> jax.Array:
    """Sum both per channel: float32[2, C], in one all-reduce. On CPU it is twice as fast to sum the columns first."""

    def add(p: Any, q: Any) -> Any:
        return p[0] + q[0], p[1] + q[1]

    column_sums = lax.reduce((a, b), (np.float32(0), np.float32(0)), add, (2,))
    sums = jnp.stack([each.sum((1, 2)) for each in column_sums])
    return lax.psum(sums, axis) if axis else sums


def _count(x: jax.Array, axis: str | None) -> Any:
    """Return the number of values in a channel of the whole batch."""
    return x.size // len(x) * (lax.psum(1, axis) if axis else 1)


def per_channel(a: jax.Array) -> jax.Array:
    """Reshape float32[C] to float32[C, 1, 1, 1]."""
    return a[:, None, None, None]


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def max_pool(x: jax.Array, size: int, form: str) -> jax.Array:
    """Return the maximum of each square of x, float32[C, S, S, B]: float32[C, S / size, S / size, B].

    The first of equal values gets the gradient, as in PyTorch.
    """
    return unfused(form, lambda x: reduce(jnp.maximum, _pixels(x, size)), x)


def _max_pool_forward(x: jax.Array, size: int, form: str) -> Any:
    largest = max_pool(x, size, form)
    return largest, (x, largest)


def _max_pool_backward(size: int, form: str, residuals: Any, dy: jax.Array) -> tuple[jax.Array]:
    (x, largest), side, rest = residuals, dy.shape[1] * size, residuals[0].shape[1] % size
    spread = _spread_by_pixel if form == "rows" else _spread_by_index
    dx = unfused(form, partial(spread, size), x, largest, dy).reshape(len(x), side, side, -1)
    return (jnp.pad(dx, ((0, 0), (0, rest), (0, rest), (0, 0))),)


def _spread_by_pixel(size: int, x: jax.Array, largest: jax.Array, dy: jax.Array) -> jax.Array:
    """Give dy to the first maximum of each square: float32[C, S / size, size, S / size, size, B]."""
    gradients, taken = [], jnp.zeros(largest.shape, bool)
    for pixel in _pixels(x, size):
        hit = (pixel == largest) & ~taken
        taken = taken | hit
        gradients.append(jnp.where(hit, dy, 0))
    rows = [jnp.stack(gradients[first : first + size], 3) for first in range(0, size * size, size)]
    return jnp.stack(rows, 2)


def _spread_by_index(size: int, x: jax.Array, largest: jax.Array, dy: jax.Array) -> jax.Array:
    """Do the same. On a TPU it is one fusion."""
    first = jnp.full(largest.shape, -1)
    for number, pixel in reversed(list(enumerate(_pixels(x, size)))):
        first = jnp.where(pixel == largest, number, first)
    numbers = jnp.arange(size * size).reshape(1, 1, size, 1, size, 1)
    return jnp.where(first[:, :, None, :, None] == numbers, dy[:, :, None, :, None], 0)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def average_pool(x: jax.Array, size: int) -> jax.Array:
    """Return the mean of each square of x, float32[C, S, S, B] (Flax's own refuses strict dtype promotion)."""
    return _squares(x, size).mean((2, 4))


def _squares(x: jax.Array, size: int) -> jax.Array:
    """Reshape to float32[C, S / size, size, S / size, size, B] and drop the rows and columns left over, as PyTorch."""
    channels, side, _, batch = x.shape
    x = x[:, : side // size * size, : side // size * size]
    return x.reshape(channels, side // size, size, side // size, size, batch)


def _pixels(x: jax.Array, size: int) -> list[jax.Array]:
    """Return the first pixel of every square, the second, and so on: float32[C, S / size, S / size, B] each."""
    squares = _squares(x, size)
    return [squares[:, :, row, :, column] for row in range(size) for column in range(size)]


def dropout(keys: jax.Array, x: jax.Array, rate: float, form: str) -> jax.Array:
    """Set values of x, float32[C, H, W, B], to zero with probability `rate`; scale the others to keep the expectation.

    The rate is rounded to 1/65536 (0.05 to 0.050003): 16 random bits decide on a value, where `jax.random.bernoulli`
    draws 64. Each image has its key, key[B], so devices that shard a batch share the drawing.
    """
    count, threshold = math.prod(x.shape[:-1]), round(rate * 65536)
    blocks = -(-count // 4)  # two words for each, and two decisions for each word
    constant = lax.stop_gradient(
        x
    )  # Else JAX would differentiate the drawing, which only makes tracing slower.
    words = unfused(
        form, lambda _, key: _random_words(key, blocks), constant, jax.random.key_data(keys).T
    )
    kept = jnp.concatenate(
        [half >= threshold for word in words for half in (word & 0xFFFF, word >> 16)]
    )
    return jnp.where(kept[:count].reshape(x.shape), x * (65536 / (65536 - threshold)), 0)


def _random_words(key: jax.Array, blocks: int) -> tuple[jax.Array, jax.Array]:
    """Encrypt a counter with each image's key, uint32[2, B]: two arrays uint32[blocks, B].

    Threefry-2x32 with 20 rounds (Salmon et al., 2011), the generator of `jax.random`. JAX's own is a loop on CPU, which
    takes a third longer.
    """
    first, second = key[0][None], key[1][None]
    keys = (first, second, first ^ second ^ np.uint32(0x1BD11BDA))
    counter = jnp.arange(blocks, dtype=jnp.uint32)[:, None]
    a, b = counter + keys[0], counter + np.uint32(blocks) + keys[1]
    for group in range(5):
        for bits in ((13, 15, 26, 6), (17, 29, 16, 24))[group % 2]:
            a = a + b
            b = a ^ (b << bits | b >> (32 - bits))
        a = a + keys[(group + 1) % 3]
        b = b + keys[(group + 2) % 3] + np.uint32(group + 1)
    return a, b

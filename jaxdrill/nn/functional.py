"""Layers as pure functions of arrays [channels, rows, columns, batch].

Some gradients are written by hand because they are faster (benchmarks/NOTES.md). The argument
`form` is the form of the convolutions, as in `convolution.convolve`.
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
    """Normalize x or ReLU(x) by the statistics of the batch (Ioffe and Szegedy, 2015).

    For the plain formula and its gradient, XLA reads and writes x about twice as often, and needs
    twice the number of all-reduces.

    Args:
        x: float32[C, H, W, B].
        scale: float32[C].
        bias: float32[C].
        relu: apply ReLU first.
        axis: mesh axis that shards the batch, or None.
        form: as above.

    Returns:
        float32[C, H, W, B], and the mean and the biased variance of the batch, float32[C], which
        have no gradient.
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
    # The sums of one device: the training step sums all gradients over the devices.
    own = _channel_sums(dy, dy * (jax.nn.relu(x) if relu else x), None)
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
    """Sum two arrays per channel: float32[2, C], in one all-reduce.

    On CPU it is twice as fast to sum over the columns first.
    """

    def add(p: Any, q: Any) -> Any:
        return p[0] + q[0], p[1] + q[1]

    column_sums = lax.reduce((a, b), (np.float32(0), np.float32(0)), add, (2,))
    sums = jnp.stack([each.sum((1, 2)) for each in column_sums])
    return lax.psum(sums, axis) if axis else sums


def _count(x: jax.Array, axis: str | None) -> Any:
    """Return the number of values per channel in the whole batch."""
    return x.size // len(x) * (lax.psum(1, axis) if axis else 1)


def per_channel(a: jax.Array) -> jax.Array:
    """Reshape float32[C] to float32[C, 1, 1, 1]."""
    return a[:, None, None, None]


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def max_pool(x: jax.Array, size: int, form: str) -> jax.Array:
    """Compute the maximum of each window of size x size pixels.

    The first of equal values gets the gradient, as in PyTorch.

    Args:
        x: float32[C, S, S, B].
        size: side of the windows, pixels.
        form: as above.

    Returns:
        float32[C, S / size, S / size, B].
    """
    return unfused(form, lambda x: reduce(jnp.maximum, _pixels(x, size)), x)


def _max_pool_forward(x: jax.Array, size: int, form: str) -> Any:
    maximum = max_pool(x, size, form)
    return maximum, (x, maximum)


def _max_pool_backward(size: int, form: str, residuals: Any, dy: jax.Array) -> tuple[jax.Array]:
    (x, maximum), side, rest = residuals, dy.shape[1] * size, residuals[0].shape[1] % size
    gradient = _max_pool_gradient_by_pixel if form == "rows" else _max_pool_gradient_by_index
    dx = unfused(form, partial(gradient, size), x, maximum, dy).reshape(len(x), side, side, -1)
    return (jnp.pad(dx, ((0, 0), (0, rest), (0, rest), (0, 0))),)


def _max_pool_gradient_by_pixel(
    size: int, x: jax.Array, maximum: jax.Array, dy: jax.Array
) -> jax.Array:
    """Route dy to the first maximum of each window: float32[C, S/size, size, S/size, size, B]."""
    gradients, taken = [], jnp.zeros(maximum.shape, bool)
    for pixel in _pixels(x, size):
        hit = (pixel == maximum) & ~taken
        taken = taken | hit
        gradients.append(jnp.where(hit, dy, 0))
    rows = [jnp.stack(gradients[first : first + size], 3) for first in range(0, size * size, size)]
    return jnp.stack(rows, 2)


def _max_pool_gradient_by_index(
    size: int, x: jax.Array, maximum: jax.Array, dy: jax.Array
) -> jax.Array:
    """Compute the same by comparing indices, which a TPU does in one fusion."""
    first = jnp.full(maximum.shape, -1)
    for number, pixel in reversed(list(enumerate(_pixels(x, size)))):
        first = jnp.where(pixel == maximum, number, first)
    numbers = jnp.arange(size * size).reshape(1, 1, size, 1, size, 1)
    return jnp.where(first[:, :, None, :, None] == numbers, dy[:, :, None, :, None], 0)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def average_pool(x: jax.Array, size: int) -> jax.Array:
    """Compute the mean of each window of x, float32[C, S, S, B].

    This is not Flax's function, which refuses strict dtype promotion.
    """
    return _pool_windows(x, size).mean((2, 4))


def _pool_windows(x: jax.Array, size: int) -> jax.Array:
    """Reshape to float32[C, S / size, size, S / size, size, B].

    Rows and columns that do not fill a window are dropped, as in PyTorch.
    """
    channels, side, _, batch = x.shape
    x = x[:, : side // size * size, : side // size * size]
    return x.reshape(channels, side // size, size, side // size, size, batch)


def _pixels(x: jax.Array, size: int) -> list[jax.Array]:
    """Return one array float32[C, S / size, S / size, B] per pixel of the windows."""
    windows = _pool_windows(x, size)
    return [windows[:, :, row, :, column] for row in range(size) for column in range(size)]


def dropout(keys: jax.Array, x: jax.Array, rate: float, form: str) -> jax.Array:
    """Set values to zero with probability `rate`, and scale the others to keep the expectation.

    16 random bits decide on a value; `jax.random.bernoulli` draws 64. So the rate is rounded to a
    multiple of 1/65536 (0.05 to 0.050003). Each image has its own key, so results do not depend on
    how the batch is sharded.

    Args:
        keys: key[B].
        x: float32[C, H, W, B].
        rate: above 0 and below 1.
        form: as above.
    """
    count, threshold = math.prod(x.shape[:-1]), round(rate * 65536)
    blocks = -(-count // 4)  # of two words, with two decisions each

    def draw(_: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        return _random_words(key, blocks)

    # Without stop_gradient JAX would differentiate the random numbers, which slows tracing down.
    words = unfused(form, draw, lax.stop_gradient(x), jax.random.key_data(keys).T)
    halves = [half for word in words for half in (word & 0xFFFF, word >> 16)]
    kept = jnp.concatenate([half >= threshold for half in halves])
    return jnp.where(kept[:count].reshape(x.shape), x * (65536 / (65536 - threshold)), 0)


def _random_words(key: jax.Array, blocks: int) -> tuple[jax.Array, jax.Array]:
    """Encrypt a counter with each image's key, uint32[2, B]: two arrays uint32[blocks, B].

    This is Threefry-2x32 with 20 rounds (Salmon et al., 2011), the generator of `jax.random`. JAX's
    implementation is a loop on CPU, which takes a third longer.
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

"""A convolution in several forms, of which each is the fastest on some device (benchmarks/NOTES.md)."""

from collections.abc import Callable
from functools import reduce
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import lax

THIN = 512  # channels in times channels out

Padding = tuple[tuple[int, int], tuple[int, int]]  # before and after, rows and columns
Form = Callable[[jax.Array, jax.Array, Padding], jax.Array]


def convolve(x: jax.Array, kernel: jax.Array, padding: int, form: str) -> jax.Array:
    """A convolution of stride 1, without dilation or feature groups, computed in one of the forms of `FORMS`.

    Args:
        x: float32[B, H, W, I].
        kernel: float32[K, K, I, O].
        padding: zeros added on each side, pixels.
        form: `plain` is XLA's own, `pairs` takes two columns at a time, `patches` is one matrix product,
            `taps` a sum of products where there is one channel.

    Returns:
        float32[B, H + 2 padding - K + 1, W + 2 padding - K + 1, O].
    """
    chex.assert_shape(kernel, (None, None, x.shape[-1], None))
    if kernel.shape[:2] == (1, 1) and not padding:  # a matrix product, whose gradient is faster than a convolution's
        return x @ kernel[0, 0]
    return FORMS[form](x, kernel, ((padding, padding), (padding, padding)))


def _convolution(
    x: jax.Array,
    kernel: jax.Array,
    padding: Padding,
    strides: tuple[int, int] = (1, 1),
    dimensions: tuple[str, str, str] = ("NHWC", "HWIO", "NHWC"),
) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=dimensions)


def _turned(kernel: jax.Array, padding: Padding) -> tuple[jax.Array, Padding]:
    """The kernel and padding with which the convolution of an output's gradient is the input's."""
    rows, columns = (
        (side - 1 - low, side - 1 - high) for side, (low, high) in zip(kernel.shape, padding, strict=False)
    )
    return jnp.flip(kernel, (0, 1)).swapaxes(2, 3), (rows, columns)


def _kernel_gradient(x: jax.Array, dy: jax.Array, padding: Padding) -> jax.Array:
    """As a convolution of the input by the output's gradient, with batch and channels exchanged."""
    return _convolution(x, dy, padding, dimensions=("CHWN", "IHWO", "HWNC"))


def _with_gradients(form: Form) -> Form:
    """The form with gradients: the input's in the same form, the kernel's by XLA. JAX's own cannot be vectorised in jax
    0.7.2."""
    function = jax.custom_vjp(form, nondiff_argnums=(2,))

    def backward(padding: Padding, residuals: Any, dy: jax.Array) -> Any:
        x, kernel = residuals
        return function(dy, *_turned(kernel, padding)), _kernel_gradient(x, dy, padding)

    function.defvjp(lambda x, kernel, padding: (function(x, kernel, padding), (x, kernel)), backward)
    return function


@_with_gradients
def plain_convolution(x: jax.Array, kernel: jax.Array, padding: Padding) -> jax.Array:
    """XLA's own convolution."""
    return _convolution(x, kernel, padding)


def tap_convolution(x: jax.Array, kernel: jax.Array, padding: Padding) -> jax.Array:
    """A sum of shifted images, each times a number, if the input has one channel: a TPU's compiler takes minutes for
    XLA's own gradient of such a kernel, if it is not for several seeds by `vmap`."""
    if x.shape[-1] > 1:
        return plain_convolution(x, kernel, padding)
    views = zip(_views(x, kernel, padding), kernel.reshape(-1, 1, 1, 1, kernel.shape[-1]), strict=True)
    return reduce(jnp.add, [view * weights for view, weights in views])


def _views(x: jax.Array, kernel: jax.Array, padding: Padding) -> list[jax.Array]:
    """What each place of the kernel sees, row by row."""
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    rows, columns = kernel.shape[:2]
    height, width = x.shape[1] - rows + 1, x.shape[2] - columns + 1
    return [x[:, i : i + height, j : j + width] for i in range(rows) for j in range(columns)]


def patch_convolution(x: jax.Array, kernel: jax.Array, padding: Padding) -> jax.Array:
    """One matrix product of all patches.

    Under `vmap` over kernels a convolution becomes a grouped one, which is slow; this becomes a batched product.
    """
    return jnp.concatenate(_views(x, kernel, padding), axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


@_with_gradients
def pair_convolution(x: jax.Array, kernel: jax.Array, padding: Padding) -> jax.Array:
    """Two columns at a time if the convolution is thin.

    On CPU a thin convolution spends its time gathering patches. One patch for two neighbouring outputs is a third
    larger instead of twice as large.
    """
    width = x.shape[2] + sum(padding[1]) - kernel.shape[1] + 1
    if kernel.shape[2] * kernel.shape[3] > THIN or width % 2:
        return _convolution(x, kernel, padding)
    left, right = (jnp.pad(kernel, ((0, 0), (shift, 1 - shift), (0, 0), (0, 0))) for shift in (0, 1))
    pairs = _convolution(x, jnp.concatenate([left, right], axis=-1), padding, strides=(1, 2))
    return pairs.reshape(*pairs.shape[:2], width, -1)


FORMS = {"plain": plain_convolution, "pairs": pair_convolution, "patches": patch_convolution, "taps": tap_convolution}

"""Convolutions of arrays [channels, rows, columns, batch], in three forms for different platforms.

All convolutions have stride 1 and no dilation. benchmarks/NOTES.md has the measurements.
"""

from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import lax

MAX_SHORT_ROW = 12  # pixels; the form "rows" computes outputs up to this width differently


def convolve(x: jax.Array, kernel: jax.Array, padding: int, form: str) -> jax.Array:
    """Convolve x with a kernel.

    Args:
        x: float32[I, H, W, B].
        kernel: float32[K, K, I, O].
        padding: zeros added on each side, pixels.
        form: "rows" for a matrix product per output row (CPU), "xla" for XLA's convolution, or
            "im2col" for one matrix product of all patches.

    Returns:
        float32[O, H + 2 padding - K + 1, W + 2 padding - K + 1, B].
    """
    chex.assert_shape(kernel, (None, None, x.shape[0], None))
    x, size = _pad(x, padding), kernel.shape[0]
    if size == 1:
        return matrix_product(kernel[0, 0], x, form)
    if x.shape[1:3] == (size, size):  # one output pixel per image
        weights = kernel.transpose(2, 0, 1, 3).reshape(-1, kernel.shape[-1])
        return matrix_product(weights, x.reshape(-1, 1, 1, x.shape[-1]), form)
    return FORMS[form](x, kernel)


def convolve_separably(
    x: jax.Array, pointwise: jax.Array, depthwise: jax.Array, padding: int, form: str
) -> jax.Array:
    """Multiply the channels of each pixel by a matrix, then convolve each channel by itself.

    Args:
        x: float32[I, H, W, B].
        pointwise: float32[I, O].
        depthwise: float32[K, K, O].
        padding: zeros added on each side, pixels.
        form: as for `convolve`.

    Returns:
        float32[O, H + 2 padding - K + 1, W + 2 padding - K + 1, B].
    """
    if form == "rows":
        return _convolve_depthwise(matrix_product(pointwise, x, form), depthwise, padding)
    return convolve(x, pointwise[None, None] * depthwise[:, :, None], padding, form)


def matrix_product(weights: jax.Array, x: jax.Array, form: str) -> jax.Array:
    """Return weights[I, O] times x[I, H, W, B]: float32[O, H, W, B]."""
    if form != "rows":  # A TPU would copy x to make it a matrix.
        return lax.dot_general(weights, x, (((0,), (0,)), ((), ())))
    return _contract(weights, x.reshape(len(x), -1), 0).reshape(-1, *x.shape[1:])


def _contract(a: jax.Array, b: jax.Array, axis: int) -> jax.Array:
    return lax.dot_general(a, b, (((axis,), (axis,)), ((), ())))


def _pad(x: jax.Array, padding: int) -> jax.Array:
    """Pad each side with `padding` rows and columns of zeros; a negative number crops."""
    sides = (padding, padding, 0)
    return lax.pad(x, jnp.float32(0), ((0, 0, 0), sides, sides, (0, 0, 0))) if padding else x


def unfused(form: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function; if the form is "rows", prevent XLA from fusing it with other operations.

    On CPU, XLA recomputes a fused function for each of its consumers. It never fuses a conditional,
    so the function becomes a branch of one. The condition is that the first value of the first
    argument equals itself. XLA cannot remove it, because a NaN does not equal itself. The other
    branch returns NaN, or the maximum of an integer type.
    """
    if form != "rows":
        return function(*arguments)
    function = jax.jit(function)  # traced once for both uses
    shapes = jax.eval_shape(function, *arguments)
    first = arguments[0][(0,) * arguments[0].ndim]

    def undefined(a: jax.ShapeDtypeStruct) -> jax.Array:
        value = jnp.nan if a.dtype == jnp.float32 else jnp.iinfo(a.dtype).max
        return jnp.full(a.shape, value, a.dtype)

    return lax.cond(
        first == first, function, lambda *_: jax.tree.map(undefined, shapes), *arguments
    )


# Form "rows"


@jax.custom_vjp
def rows_convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolve by one matrix product per output row, or by one for all rows if they are short.

    The product of K input rows with K * O columns gives one term per kernel column. The terms are
    shifted and added.
    """
    if x.shape[0] == 1:
        return im2col_convolution(x, kernel)
    size, (_, height, width, batch) = kernel.shape[0], x.shape
    weights = kernel.transpose(2, 0, 1, 3).reshape(size * x.shape[0], -1)  # [I K, K O]

    def add_columns(rows: jax.Array) -> jax.Array:  # [I K, R W B] to [O, R, W', B]
        terms = _contract(weights, rows, 0).reshape(size, kernel.shape[-1], -1, width, batch)
        return reduce(jnp.add, [terms[j, :, :, j : j + width - size + 1] for j in range(size)])

    if width - size + 1 <= MAX_SHORT_ROW:
        return unfused("rows", add_columns, _row_windows(x, size))

    def write_row(row: jax.Array, out: jax.Array) -> jax.Array:
        rows = lax.dynamic_slice_in_dim(x, row, size, 1).reshape(len(weights), -1)
        return lax.dynamic_update_slice_in_dim(out, add_columns(rows), row, 1)

    out = jnp.zeros((kernel.shape[-1], height - size + 1, width - size + 1, batch))
    return lax.fori_loop(0, height - size + 1, write_row, out)


def _row_windows(x: jax.Array, size: int) -> jax.Array:
    """Stack the `size` input rows of each output row: float32[I, H, W, B] to [I K, H' W B]."""
    height = x.shape[1] - size + 1
    return jnp.stack([x[:, i : i + height] for i in range(size)], 1).reshape(size * len(x), -1)


def _rows_backward(
    residuals: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Compute both gradients from copies of dy that are shifted by the kernel's columns."""
    x, kernel = residuals
    (channels, height, width, batch), (size, outputs) = x.shape, kernel.shape[::3]
    if channels == 1:
        return jax.vjp(im2col_convolution, x, kernel)[1](dy)
    weights = kernel.transpose(1, 3, 2, 0).reshape(size * outputs, -1)  # [K O, I K]

    def shifted_columns(dy: jax.Array) -> jax.Array:  # [O, R, W', B] to [K O, R W B]
        wide = jnp.pad(dy, ((0, 0), (0, 0), (size - 1, size - 1), (0, 0)))
        shifted = [wide[:, :, size - 1 - j :][:, :, :width] for j in range(size)]
        return jnp.concatenate(shifted).reshape(size * outputs, -1)

    if width - size + 1 <= MAX_SHORT_ROW:
        columns = unfused("rows", shifted_columns, dy)
        terms = _contract(weights, columns, 0).reshape(channels, size, -1, width, batch)
        pads = [((0, 0), (i, size - 1 - i), (0, 0), (0, 0)) for i in range(size)]

        def add_rows(terms: jax.Array) -> jax.Array:
            return reduce(jnp.add, [jnp.pad(terms[:, i], pads[i]) for i in range(size)])

        dx = unfused("rows", add_rows, terms)
        dkernel = _contract(_row_windows(x, size), columns, 1)
    else:

        def add_row(row: jax.Array, carry: Any) -> Any:
            dx, dkernel = carry
            columns = shifted_columns(lax.dynamic_slice_in_dim(dy, row, 1, 1))
            rows = lax.dynamic_slice_in_dim(dx, row, size, 1)
            rows = rows + _contract(weights, columns, 0).reshape(channels, size, width, batch)
            inputs = lax.dynamic_slice_in_dim(x, row, size, 1).reshape(channels * size, -1)
            dkernel = dkernel + _contract(inputs, columns, 1)
            return lax.dynamic_update_slice_in_dim(dx, rows, row, 1), dkernel

        start = (jnp.zeros(x.shape), jnp.zeros(weights.T.shape))
        dx, dkernel = lax.fori_loop(0, height - size + 1, add_row, start)
    return dx, dkernel.reshape(channels, size, size, outputs).transpose(1, 2, 0, 3)


rows_convolution.defvjp(lambda x, k: (rows_convolution(x, k), (x, k)), _rows_backward)


# Other forms


def xla_convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Call XLA's convolution. If x has one channel, compute a weighted sum of shifted images.

    The TPU compiler takes minutes for the gradient of XLA's convolution of one channel.
    """
    if len(x) > 1:
        return _xla_convolution(x, kernel)
    return _weighted_sum(_views(x, kernel.shape[0]), kernel)


@jax.custom_vjp
def _xla_convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _convolution(x, kernel, 0, ("CHWN", "HWIO", "CHWN"))


def _convolution(
    x: jax.Array, kernel: jax.Array, padding: int, dimensions: tuple[str, str, str]
) -> jax.Array:
    return lax.conv_general_dilated(
        x, kernel, (1, 1), [(padding, padding)] * 2, dimension_numbers=dimensions
    )


def _xla_backward(
    residuals: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Compute both gradients. `vmap` fails on JAX's own gradients in jax 0.7.2."""
    x, kernel = residuals
    dx = _convolution(dy, jnp.flip(kernel, (0, 1)), kernel.shape[0] - 1, ("CHWN", "HWOI", "CHWN"))
    return dx, _convolution(x, dy, 0, ("NHWC", "OHWI", "HWNC"))


_xla_convolution.defvjp(lambda x, k: (_xla_convolution(x, k), (x, k)), _xla_backward)


def im2col_convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolve by one matrix product of all patches. `vmap` makes it a batched product."""
    patches = jnp.concatenate(_views(x, kernel.shape[0]))
    return matrix_product(kernel.reshape(-1, kernel.shape[-1]), patches, "rows")


def _views(x: jax.Array, size: int) -> list[jax.Array]:
    """Return the input pixels of each kernel tap: K * K arrays float32[I, H', W', B]."""
    height, width = x.shape[1] - size + 1, x.shape[2] - size + 1
    return [x[:, i : i + height, j : j + width] for i in range(size) for j in range(size)]


def _weighted_sum(views: list[jax.Array], kernel: jax.Array) -> jax.Array:
    """Sum the pixels of all taps times kernel[..., O]: float32[O, H', W', B]."""
    weights = kernel.reshape(-1, kernel.shape[-1], 1, 1, 1)
    return reduce(jnp.add, [view * each for view, each in zip(views, weights, strict=True)])


FORMS = {"rows": rows_convolution, "xla": xla_convolution, "im2col": im2col_convolution}


# Depthwise convolution in the form "rows". The other forms multiply the two kernels of a separable
# convolution and call `convolve`.


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve_depthwise(x: jax.Array, kernel: jax.Array, padding: int) -> jax.Array:
    """Convolve each channel of x, float32[O, H, W, B], with its kernel, float32[K, K, O]."""
    return unfused("rows", partial(_shift_add, padding=padding), x, kernel)


def _shift_add(x: jax.Array, kernel: jax.Array, padding: int) -> jax.Array:
    return _weighted_sum(_views(_pad(x, padding), kernel.shape[0]), kernel)


def _depthwise_backward(padding: int, residuals: Any, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    size = kernel.shape[0]
    dx = unfused("rows", partial(_shift_add, padding=size - 1 - padding), dy, kernel[::-1, ::-1])
    short = dy.shape[2] <= MAX_SHORT_ROW
    gradient = _short_depthwise_kernel_gradient if short else _depthwise_kernel_gradient
    return dx, gradient(_pad(x, padding), dy, size)


def _depthwise_kernel_gradient(x: jax.Array, dy: jax.Array, size: int) -> jax.Array:
    """Sum the products of each kernel tap row by row, then over the images."""
    channels, height, width, batch = dy.shape

    def add_row(row: jax.Array, total: jax.Array) -> jax.Array:
        dy_row = lax.dynamic_slice_in_dim(dy, row, 1, 1)[:, 0]
        rows = lax.dynamic_slice_in_dim(x, row, size, 1)
        taps = [
            reduce(jnp.add, [rows[:, i, j + column] * dy_row[:, column] for column in range(width)])
            for i in range(size)
            for j in range(size)
        ]
        return total + jnp.stack(taps)

    total = lax.fori_loop(0, height, add_row, jnp.zeros((size * size, channels, batch)))
    return total.sum(-1).reshape(size, size, channels)


def _short_depthwise_kernel_gradient(x: jax.Array, dy: jax.Array, size: int) -> jax.Array:
    """Multiply each row of dy with all pixels of its input rows, and sum the diagonals."""
    channels, height, width, batch = dy.shape

    def add_row(row: jax.Array, total: jax.Array) -> jax.Array:
        dy_row = lax.dynamic_slice_in_dim(dy, row, 1, 1)[:, 0]
        rows = lax.dynamic_slice_in_dim(x, row, size, 1).reshape(channels, -1, batch)
        return total + lax.dot_general(rows, dy_row, (((2,), (2,)), ((0,), (0,))))

    total = lax.fori_loop(0, height, add_row, jnp.zeros((channels, size * x.shape[2], width)))
    total = total.reshape(channels, size, x.shape[2], width)
    diagonals = [jnp.trace(total, -j, 2, 3) for j in range(size)]  # [O, K] per kernel column
    return jnp.stack(diagonals, 2).transpose(1, 2, 0)


_convolve_depthwise.defvjp(
    lambda x, kernel, padding: (_convolve_depthwise(x, kernel, padding), (x, kernel)),
    _depthwise_backward,
)

"""Random rotation, scaling and translation of image batches on the device.

This is not dm-pix, which refuses strict dtype promotion and takes 2.6 times as long (1.0 against
0.4 ms per batch). Both agree with PIL on 99.998 % of the pixels.
"""

import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from jaxdrill.config.config import Augmentation

MAX_SHIFTS = {"nearest": 3, "bilinear": 8}  # pixels; above these a gather is used on TPUs too


def augment(augmentation: Augmentation, keys: jax.Array, images: jax.Array) -> jax.Array:
    """Transform each image at random.

    Each image draws from its own key, uniformly: an angle up to `rotation_degrees` in both
    directions, a size up to `scale` smaller or larger, a translation up to `shift_pixels` in each
    direction.

    Args:
        augmentation: of the recipe.
        keys: key[B].
        images: uint8[B, S, S, 1], 0..255.

    Returns:
        [B, S, S, 1], 0..255: float32 after bilinear interpolation, else uint8.
    """
    how = augmentation
    if not (how.rotation_degrees or how.scale or how.shift_pixels):
        return images

    def draw(keys: jax.Array, shape: tuple[int, ...], limit: float) -> jax.Array:
        return jax.vmap(lambda k: jax.random.uniform(k, shape, jnp.float32, -limit, limit))(keys)

    angles, scales, translations = draw(keys, (), how.rotation_degrees), None, None
    if how.scale or how.shift_pixels:
        others = draw(jax.vmap(jax.random.fold_in, (0, None))(keys, 1), (3,), 1)
        scales, translations = 1 + how.scale * others[:, 0], how.shift_pixels * others[:, 1:]
    row, column = inverse_affine_grid(images.shape[1], angles, scales, translations)
    interpolate = {"nearest": nearest, "bilinear": bilinear}[how.interpolation]
    displacement = max_displacement(how, images.shape[1])
    return interpolate(images, row, column, how.rotation_fill, displacement)


def inverse_affine_grid(
    side: int,
    degrees: jax.Array,
    scales: jax.Array | None = None,
    translations: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Return the source position of each pixel of an affinely transformed image.

    The image is rotated about its centre and scaled, then translated, as by torchvision's
    `RandomAffine`.

    Args:
        side: of the images, S pixels.
        degrees: float32[B], counter-clockwise.
        scales: float32[B], above 1 the image grows; None for 1.
        translations: float32[B, 2], pixels down and to the right; None for 0.

    Returns:
        Row and column in the original image, float32[B, S, S], pixels.
    """
    offsets = jnp.arange(side, dtype=jnp.float32) - (side - 1) / 2
    angles = jnp.deg2rad(degrees)[:, None, None]
    cosine, sine = jnp.cos(angles), jnp.sin(angles)
    x, y = offsets[None, None, :], offsets[None, :, None]  # of the output pixel, from the centre
    if translations is not None:
        y, x = y - translations[:, 0, None, None], x - translations[:, 1, None, None]
    if scales is not None:
        cosine, sine = cosine / scales[:, None, None], sine / scales[:, None, None]
    return sine * x + cosine * y + (side - 1) / 2, cosine * x - sine * y + (side - 1) / 2


def max_displacement(augmentation: Augmentation, side: int) -> float:
    """Bound the distance between a pixel and its source, in either direction, pixels.

    For an angle a, a scale s and a distance d from the centre after the translation, the source is
    d cos(a) / s +- d sin(a) / s away from the centre.

    Args:
        augmentation: of the recipe.
        side: of the images, pixels.
    """
    scale, shift = augmentation.scale, augmentation.shift_pixels
    a = math.radians(min(augmentation.rotation_degrees, 90))
    along = max(1 / (1 - scale) - 1, 1 - math.cos(a) / (1 + scale))
    distance = (side - 1) / 2 + shift
    return distance * (along + math.sin(a) / (1 - scale)) + shift + 1e-3  # rounding of float32


def nearest(
    images: jax.Array,
    row: jax.Array,
    column: jax.Array,
    fill: int,
    displacement: float = math.inf,
) -> jax.Array:
    """Take the pixels nearest to the source positions, as PIL's `Image.rotate`.

    Args:
        images: uint8[B, S, S, 1], 0..255.
        row: float32[B, S, S], pixels.
        column: float32[B, S, S], pixels.
        fill: value of the pixels that come from outside the image, 0..255.
        displacement: maximum distance between a pixel and its source in either direction, pixels.

    Returns:
        uint8[B, S, S, 1], 0..255.
    """
    side = images.shape[1]
    column, row = jnp.round(column).astype(jnp.int32), jnp.round(row).astype(jnp.int32)
    inside = (column >= 0) & (column < side) & (row >= 0) & (row < side)
    distance = displacement + 0.5  # rounding adds up to half a pixel
    tpu = gather
    if distance < MAX_SHIFTS["nearest"] + 1:
        tpu = partial(gather_shifted, math.floor(distance))
    pixels = lax.platform_dependent(images[..., 0], row, column, tpu=tpu, default=gather)
    return jnp.where(inside, pixels, jnp.uint8(fill))[..., None]


def bilinear(
    images: jax.Array,
    row: jax.Array,
    column: jax.Array,
    fill: int,
    displacement: float = math.inf,
) -> jax.Array:
    """Interpolate bilinearly at the source positions, as PIL's `Image.transform`.

    Arguments and result are those of `nearest`, but the result is float32[B, S, S, 1], 0..255.
    """
    side = images.shape[1]
    inside = (column >= -0.5) & (column < side - 0.5) & (row >= -0.5) & (row < side - 0.5)
    row, column = jnp.clip(row, 0, side - 1), jnp.clip(column, 0, side - 1)
    tpu = gather_bilinear
    if displacement <= MAX_SHIFTS["bilinear"]:
        tpu = partial(gather_bilinear_shifted, math.ceil(displacement))
    pixels = lax.platform_dependent(images[..., 0], row, column, tpu=tpu, default=gather_bilinear)
    return jnp.where(inside, pixels, jnp.float32(fill))[..., None]


def gather(images: jax.Array, row: jax.Array, column: jax.Array) -> jax.Array:
    """Return the pixels of images at integer positions. A TPU gathers one pixel at a time.

    Args:
        images: uint8[B, S, S], 0..255.
        row: int32[B, S, S]. Positions outside the image give any value.
        column: int32[B, S, S].

    Returns:
        uint8[B, S, S], 0..255.
    """
    batch, side = images.shape[:2]
    source = (row * side + column).reshape(batch, -1)
    pixels = jnp.take_along_axis(images.reshape(batch, -1), source, axis=1, mode="clip")
    return pixels.reshape(images.shape)


def gather_shifted(reach: int, images: jax.Array, row: jax.Array, column: jax.Array) -> jax.Array:
    """Compute `gather` if no source is farther than `reach` pixels, by selecting shifted images."""
    side = images.shape[1]
    position = jnp.arange(side)
    down, right = row - position[None, :, None], column - position[None, None, :]
    wide, pixels = jnp.pad(images, ((0, 0), (reach, reach), (reach, reach))), images
    for i, j in itertools.product(range(-reach, reach + 1), repeat=2):
        shifted = wide[:, reach + i : reach + i + side, reach + j : reach + j + side]
        pixels = jnp.where((down == i) & (right == j), shifted, pixels)
    return pixels


def gather_bilinear(images: jax.Array, row: jax.Array, column: jax.Array) -> jax.Array:
    """Interpolate images bilinearly. The four pixels of a square are gathered as one 32-bit word.

    Args:
        images: uint8[B, S, S], 0..255.
        row: float32[B, S, S], 0..S-1.
        column: float32[B, S, S], 0..S-1.

    Returns:
        float32[B, S, S], 0..255.
    """
    batch, side = images.shape[:2]
    wide = jnp.pad(images, ((0, 0), (0, 1), (0, 1)), mode="edge").astype(jnp.uint32)
    squares = wide[:, :-1, :-1] | wide[:, :-1, 1:] << 8
    squares = squares | wide[:, 1:, :-1] << 16 | wide[:, 1:, 1:] << 24
    top, left = jnp.floor(row), jnp.floor(column)
    source = (top * side + left).astype(jnp.int32).reshape(batch, -1)
    words = jnp.take_along_axis(squares.reshape(batch, -1), source, axis=1, mode="clip")
    words = words.reshape(images.shape)
    corners = [(words >> bits & 0xFF).astype(jnp.float32) for bits in (0, 8, 16, 24)]
    down, right = row - top, column - left
    upper, lower = (a + right * (b - a) for a, b in (corners[:2], corners[2:]))
    return upper + down * (lower - upper)


def gather_bilinear_shifted(
    reach: int, images: jax.Array, row: jax.Array, column: jax.Array
) -> jax.Array:
    """Compute `gather_bilinear` if no source is farther than `reach` pixels.

    The result is a weighted sum of shifted images.
    """
    side = images.shape[1]
    position = jnp.arange(side, dtype=jnp.float32)
    down, right = row - position[None, :, None], column - position[None, None, :]
    wide = jnp.pad(images, ((0, 0), (reach, reach), (reach, reach))).astype(jnp.float32)
    total = jnp.zeros(row.shape)
    for i in range(2 * reach + 1):
        in_row = jnp.zeros(row.shape)
        for j in range(2 * reach + 1):
            weights = jnp.maximum(0, 1 - jnp.abs(right - (j - reach)))
            in_row = in_row + weights * wide[:, i : i + side, j : j + side]
        total = total + jnp.maximum(0, 1 - jnp.abs(down - (i - reach))) * in_row
    return total

"""Augmentation and scaling of image batches, pure and on the device.

Own code instead of dm-pix: that refuses strict dtype promotion and takes 2.6 times as long (1.0 against 0.4 ms a
batch); both agree with PIL on 99.998 % of the pixels.
"""

import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from jaxdrill.recipe import Augmentation

MEAN, STANDARD_DEVIATION = 0.1307, 0.3081  # of MNIST's training pixels in 0..1, as the notebooks have them
MOST_SHIFTS = 3  # pixels either way, a choice of 49


def augment(augmentation: Augmentation, keys: jax.Array, images: jax.Array) -> jax.Array:
    """What training sees of a batch: uint8[B, S, S, 1], 0..255, to float32[B, S, S, 1], normalised. Each image draws
    from its own key, key[B]: its angle is uniform in [-rotation_degrees, rotation_degrees]."""
    if limit := augmentation.rotation_degrees:
        angles = jax.vmap(lambda key: jax.random.uniform(key, (), jnp.float32, -limit, limit))(keys)
        images = rotate(images, angles, augmentation.rotation_fill, limit)
    return normalize(images)


def rotate(images: jax.Array, degrees: jax.Array, fill: int, most: float = 180) -> jax.Array:
    """Rotates images counter-clockwise about their centre, nearest neighbour, as PIL's `Image.rotate` does.

    Args:
        images: uint8[B, S, S, 1], 0..255.
        degrees: float32[B].
        fill: value of the pixels that come from outside, 0..255.
        most: no angle is larger, either way, degrees.

    Returns:
        uint8[B, S, S, 1], 0..255.
    """
    side = images.shape[1]
    offsets = jnp.arange(side, dtype=jnp.float32) - (side - 1) / 2
    angles = jnp.deg2rad(degrees)[:, None, None]
    cosine, sine = jnp.cos(angles), jnp.sin(angles)
    x, y = offsets[None, None, :], offsets[None, :, None]  # of the output pixel, from the centre
    column = jnp.round(cosine * x - sine * y + (side - 1) / 2).astype(jnp.int32)
    row = jnp.round(sine * x + cosine * y + (side - 1) / 2).astype(jnp.int32)
    inside = (column >= 0) & (column < side) & (row >= 0) & (row < side)
    tpu = partial(shifts, reach) if (reach := farthest(most, side)) <= MOST_SHIFTS else products
    pixels = lax.platform_dependent(images[..., 0], row, column, tpu=tpu, default=gather)
    return jnp.where(inside, pixels, jnp.uint8(fill))[..., None]


def farthest(degrees: float, side: int) -> int:
    """How far a rotation by at most so many degrees moves a pixel of an image in either direction, pixels."""
    radians, half = math.radians(min(degrees, 90)), (side - 1) / 2
    return math.floor(half * (math.sin(radians) + 1 - math.cos(radians)) + 0.501)  # rounded, and float32's error


def gather(images: jax.Array, row: jax.Array, column: jax.Array) -> jax.Array:
    """The pixel of images, uint8[B, S, S], at each row and column, int32[B, S, S]; any value where there is none.
    A TPU would fetch pixel by pixel."""
    batch, side = images.shape[:2]
    source = (row * side + column).reshape(batch, -1)
    return jnp.take_along_axis(images.reshape(batch, -1), source, axis=1, mode="clip").reshape(images.shape)


def shifts(reach: int, images: jax.Array, row: jax.Array, column: jax.Array) -> jax.Array:
    """As `gather`, where no pixel moves by more than `reach`: a choice between the image moved by each distance."""
    side = images.shape[1]
    places = jnp.arange(side)
    down, right = row - places[None, :, None], column - places[None, None, :]
    wide, pixels = jnp.pad(images, ((0, 0), (reach, reach), (reach, reach))), images
    for i, j in itertools.product(range(-reach, reach + 1), repeat=2):
        moved = wide[:, reach + i : reach + i + side, reach + j : reach + j + side]
        pixels = jnp.where((down == i) & (right == j), moved, pixels)
    return pixels


def products(images: jax.Array, row: jax.Array, column: jax.Array) -> jax.Array:
    """As `gather`: the row by a product with ones and zeros, which is exact in bfloat16, then the column by a sum."""
    places = jnp.arange(images.shape[1])[None, None, None, :]
    rows = (row[..., None] == places).astype(jnp.bfloat16)
    picked = jnp.einsum("brcy,byx->brcx", rows, images.astype(jnp.bfloat16), precision="default")
    return jnp.where(column[..., None] == places, picked, 0).sum(-1).astype(jnp.uint8)


def normalize(images: jax.Array) -> jax.Array:
    """uint8[B, S, S, 1], 0..255, to float32[B, S, S, 1] of about zero mean and unit variance."""
    return (images.astype(jnp.float32) / 255 - MEAN) / STANDARD_DEVIATION


def denormalize(x: jax.Array) -> jax.Array:
    """The inverse of `normalize`: float32[B, S, S, 1] to uint8[B, S, S, 1], rounded and clipped to 0..255."""
    return jnp.clip(jnp.round((x * STANDARD_DEVIATION + MEAN) * 255), 0, 255).astype(jnp.uint8)

"""Augmentation and scaling of image batches, pure and on the device.

Own code instead of dm-pix: that refuses strict dtype promotion and takes 2.6 times as long (1.0 against 0.4 ms a
batch); both agree with PIL on 99.998 % of the pixels.
"""

import jax
import jax.numpy as jnp

from jaxdrill.recipe import Augmentation

MEAN, STANDARD_DEVIATION = 0.1307, 0.3081  # of MNIST's training pixels in 0..1, as the notebooks have them


def augment(augmentation: Augmentation, keys: jax.Array, images: jax.Array) -> jax.Array:
    """What training sees of a batch: uint8[B, S, S, 1], 0..255, to float32[B, S, S, 1], normalised. Each image draws
    from its own key, key[B]: its angle is uniform in [-rotation_degrees, rotation_degrees]."""
    if limit := augmentation.rotation_degrees:
        angles = jax.vmap(lambda key: jax.random.uniform(key, (), jnp.float32, -limit, limit))(keys)
        images = rotate(images, angles, augmentation.rotation_fill)
    return normalize(images)


def rotate(images: jax.Array, degrees: jax.Array, fill: int) -> jax.Array:
    """Rotates images counter-clockwise about their centre, nearest neighbour, as PIL's `Image.rotate` does.

    Args:
        images: uint8[B, S, S, 1], 0..255.
        degrees: float32[B].
        fill: value of the pixels that come from outside, 0..255.

    Returns:
        uint8[B, S, S, 1], 0..255.
    """
    batch, side = images.shape[:2]
    offsets = jnp.arange(side, dtype=jnp.float32) - (side - 1) / 2
    angles = jnp.deg2rad(degrees)[:, None, None]
    cosine, sine = jnp.cos(angles), jnp.sin(angles)
    x, y = offsets[None, None, :], offsets[None, :, None]  # of the output pixel, from the centre
    column = jnp.round(cosine * x - sine * y + (side - 1) / 2).astype(jnp.int32)
    row = jnp.round(sine * x + cosine * y + (side - 1) / 2).astype(jnp.int32)
    inside = (column >= 0) & (column < side) & (row >= 0) & (row < side)
    source = (row * side + column).reshape(batch, -1)
    pixels = jnp.take_along_axis(images.reshape(batch, -1), source, axis=1, mode="clip")
    return jnp.where(inside.reshape(batch, -1), pixels, jnp.uint8(fill)).reshape(images.shape)


def normalize(images: jax.Array) -> jax.Array:
    """uint8[B, S, S, 1], 0..255, to float32[B, S, S, 1] of about zero mean and unit variance."""
    return (images.astype(jnp.float32) / 255 - MEAN) / STANDARD_DEVIATION


def denormalize(x: jax.Array) -> jax.Array:
    """The inverse of `normalize`: float32[B, S, S, 1] to uint8[B, S, S, 1], rounded and clipped to 0..255."""
    return jnp.clip(jnp.round((x * STANDARD_DEVIATION + MEAN) * 255), 0, 255).astype(jnp.uint8)

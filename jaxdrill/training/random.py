"""Random keys, derived from one root key per seed, so that resuming needs no random state."""

from enum import IntEnum

import jax

GENERATOR = "threefry2x32"  # fixed: an environment variable may set a default with other bits


class Stream(IntEnum):
    """The uses of a root key. No two uses share random numbers."""

    INIT = 0
    SHUFFLE = 1
    AUGMENT = 2
    DROPOUT = 3


def root_key(seed: int | jax.Array) -> jax.Array:
    """Return the root key, key[], of a seed: an int or uint32[], 0..2**32 - 1."""
    return jax.random.key(seed, impl=GENERATOR)


def stream(key: jax.Array, which: Stream, index: jax.Array | int = 0) -> jax.Array:
    """Return the key for use number `index` of a stream. It depends on the root key alone."""
    return jax.random.fold_in(key, index * len(Stream) + which)

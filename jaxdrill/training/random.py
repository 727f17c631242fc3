"""Random keys: one root key a run, from which every use folds its own, so that resuming needs no random state."""

from enum import IntEnum

import jax

GENERATOR = "threefry2x32"  # pinned: the environment may set another default, with other bits


class Stream(IntEnum):
    """What a run's root key serves; no two uses share random numbers."""

    INIT = 0
    SHUFFLE = 1
    AUGMENT = 2
    DROPOUT = 3


def root_key(seed: int | jax.Array) -> jax.Array:
    """Return the root key, key[], of a seed in 0..2**32 - 1, an int or uint32[]."""
    return jax.random.key(seed, impl=GENERATOR)


def stream(key: jax.Array, which: Stream, index: jax.Array | int = 0) -> jax.Array:
    """The key of the index-th use of a stream; a function of the root key alone."""
    return jax.random.fold_in(key, index * len(Stream) + which)

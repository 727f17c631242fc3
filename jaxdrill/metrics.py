"""Sums of loss and correct answers, divided once: a mean of unequal batch means would be wrong."""

import jax
import jax.numpy as jnp
import optax
from flax import struct


@struct.dataclass
class Sums:
    """Totals over images. They add up over batches of any size."""

    loss: jax.Array  # float32[], nats
    correct: jax.Array  # int32[]
    count: jax.Array  # int32[], images

    def __add__(self, other: "Sums") -> "Sums":
        return jax.tree.map(jnp.add, self, other)

    @property
    def mean_loss(self) -> float:
        """Mean negative log-likelihood in nats."""
        return float(self.loss) / int(self.count)

    @property
    def accuracy(self) -> float:
        """Share of correct answers, 0..1."""
        return int(self.correct) / int(self.count)


def zero() -> Sums:
    """The sums of no images."""
    return Sums(jnp.float32(0), jnp.int32(0), jnp.int32(0))


def sums(logits: jax.Array, labels: jax.Array, valid: jax.Array | None = None) -> Sums:
    """Sums over a batch: logits float32[B, 10], labels int32[B], valid bool[B] (False: the image does not count)."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    correct = logits.argmax(axis=-1) == labels
    if valid is None:
        valid = jnp.ones(labels.shape, bool)
    return Sums(jnp.where(valid, losses, 0).sum(), jnp.sum(correct & valid), jnp.sum(valid))

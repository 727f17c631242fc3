"""The loss that is trained, and sums of what is reported, divided once: a mean of unequal batch means is wrong."""

import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxdrill.config.config import Loss


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
        """Fraction of correct answers, 0..1."""
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


def training_loss(loss: Loss, logits: jax.Array, labels: jax.Array) -> jax.Array:
    """What the gradient is of, summed over a batch, float32[], nats: cross-entropy of logits float32[B, 10] with labels
    int32[B], smoothed as the recipe says (Szegedy et al., 2016)."""
    if not loss.label_smoothing:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).sum()
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), loss.label_smoothing)
    return optax.softmax_cross_entropy(logits, targets).sum()

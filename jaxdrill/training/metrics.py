"""The training loss, and sums of the reported metrics.

Sums are divided once, at the end: the mean of the means of unequal batches would be wrong.
"""

import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxdrill.config.config import Loss


@struct.dataclass
class Metrics:
    """Sums over images. They can be added over batches of any size."""

    loss: jax.Array  # float32[], nats
    correct: jax.Array  # int32[]
    count: jax.Array  # int32[], images

    def __add__(self, other: "Metrics") -> "Metrics":
        return jax.tree.map(jnp.add, self, other)

    @property
    def mean_loss(self) -> float:
        """Return the mean negative log-likelihood in nats."""
        return float(self.loss) / int(self.count)

    @property
    def accuracy(self) -> float:
        """Return the fraction of correct predictions, 0..1."""
        return int(self.correct) / int(self.count)


def zero() -> Metrics:
    """Return the sums over no images."""
    return Metrics(jnp.float32(0), jnp.int32(0), jnp.int32(0))


def compute(logits: jax.Array, labels: jax.Array, valid: jax.Array | None = None) -> Metrics:
    """Sum the metrics of a batch.

    Args:
        logits: float32[B, 10].
        labels: int32[B].
        valid: bool[B]. An image with False does not count. None if all images count.
    """
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    correct = logits.argmax(axis=-1) == labels
    if valid is None:
        valid = jnp.ones(labels.shape, bool)
    return Metrics(jnp.where(valid, losses, 0).sum(), jnp.sum(correct & valid), jnp.sum(valid))


def training_loss(loss: Loss, logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the loss that training minimizes, summed over a batch: float32[], nats.

    It is the cross-entropy, with the label smoothing of the recipe (Szegedy et al., 2016).

    Args:
        loss: of the recipe.
        logits: float32[B, 10].
        labels: int32[B].
    """
    if not loss.label_smoothing:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).sum()
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), loss.label_smoothing)
    return optax.softmax_cross_entropy(logits, targets).sum()

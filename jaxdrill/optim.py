"""Learning-rate schedules and optax chains from the recipe."""

import jax
import jax.numpy as jnp
import optax

from jaxdrill.config import Optimizer, Schedule


def make_schedule(schedule: Schedule, learning_rate: float, steps_per_epoch: int) -> optax.Schedule:
    """The learning rate, float32[], at a training step, int32[] from 0. It changes only between epochs.

    As PyTorch's StepLR and ExponentialLR: learning_rate * factor ** (epoch // every_epochs), the latter every epoch.
    """
    every = {"constant": None, "step": schedule.every_epochs, "exponential": 1}[schedule.name]

    def rate(count: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(count)
        falls = step // (steps_per_epoch * every) if every else jnp.zeros_like(step)
        return learning_rate * jnp.float32(schedule.factor) ** falls.astype(jnp.float32)

    return rate


def make_optimizer(optimizer: Optimizer, schedule: optax.Schedule) -> optax.GradientTransformationExtraArgs:
    """SGD as in PyTorch: buffer = momentum * buffer + gradient, and the learning rate multiplies the buffer; or Adam
    (Kingma and Ba, 2015), epsilon outside the root."""
    if optimizer.name == "sgd":
        return optax.sgd(schedule, momentum=optimizer.momentum)
    return optax.adam(schedule, b1=optimizer.beta_1, b2=optimizer.beta_2, eps=optimizer.epsilon)

"""Learning-rate schedules and optax chains from the recipe."""

import jax
import jax.numpy as jnp
import optax

from jaxdrill.recipe import Optimizer, Schedule


def make_schedule(schedule: Schedule, learning_rate: float, steps_per_epoch: int, epochs: int) -> optax.Schedule:
    """The learning rate, float32[], at a training step, int32[] from 0 to `steps_per_epoch * epochs - 1`.

    `step` and `exponential` are PyTorch's StepLR and ExponentialLR: learning_rate * factor ** (epoch // every_epochs),
    the latter every epoch. A triangle rises from 0 to learning_rate over `warmup` of all steps, and falls to 0.
    """
    if schedule.name == "constant":
        return optax.constant_schedule(learning_rate)
    if schedule.name == "triangle":
        total = steps_per_epoch * epochs
        peak = max(1, round(schedule.warmup * total))
        rise = optax.linear_schedule(0.0, learning_rate, peak)
        return optax.join_schedules([rise, optax.linear_schedule(learning_rate, 0.0, max(1, total - peak))], [peak])
    every = {"step": schedule.every_epochs, "exponential": 1}[schedule.name] * steps_per_epoch

    def staircase(count: jax.typing.ArrayLike) -> jax.Array:  # optax's divides in float32: 2345 / 2345 may be below 1
        return learning_rate * jnp.float32(schedule.factor) ** (jnp.asarray(count) // every).astype(jnp.float32)

    return staircase


def make_optimizer(optimizer: Optimizer, schedule: optax.Schedule) -> optax.GradientTransformationExtraArgs:
    """SGD as in PyTorch: buffer = momentum * buffer + gradient, and the learning rate multiplies the buffer; or Adam
    (Kingma and Ba, 2015), epsilon outside the root."""
    if optimizer.name == "sgd":
        return optax.sgd(schedule, momentum=optimizer.momentum, nesterov=optimizer.nesterov)
    return optax.adam(schedule, b1=optimizer.beta_1, b2=optimizer.beta_2, eps=optimizer.epsilon)

"""Learning-rate schedules and optimizers as optax builds them."""

import jax
import jax.numpy as jnp
import optax

from jaxdrill.config.config import Optimizer, Schedule


def make_schedule(
    schedule: Schedule, learning_rate: float, steps_per_epoch: int, epochs: int
) -> optax.Schedule:
    """Return the learning rate, float32[], as a function of the training step, int32[].

    `step` and `exponential` are PyTorch's StepLR and ExponentialLR:
    learning_rate * factor ** (epoch // every_epochs), for `exponential` with every_epochs = 1.

    `triangle` rises linearly during the first `peak` steps, where peak = warmup * total steps,
    rounded, at least 1: from learning_rate / peak at step 0 to learning_rate at step peak - 1. From
    step `peak` it falls linearly from learning_rate. It would be 0 at the step after the last one,
    so no step has the learning rate 0.

    Args:
        schedule: of the recipe.
        learning_rate: of the recipe.
        steps_per_epoch: training steps per epoch.
        epochs: of the whole training. Its steps are 0 to `steps_per_epoch * epochs - 1`.
    """
    if schedule.name == "constant":
        return optax.constant_schedule(learning_rate)
    if schedule.name == "triangle":
        total = steps_per_epoch * epochs
        peak = max(1, round(schedule.warmup * total))

        def triangle(count: jax.typing.ArrayLike) -> jax.Array:
            step = jnp.asarray(count).astype(jnp.float32)
            rise, fall = (step + 1) / peak, (total - step) / max(1, total - peak)
            return learning_rate * jnp.minimum(rise, fall)

        return triangle
    epochs_per_stage = {"step": schedule.every_epochs, "exponential": 1}[schedule.name]
    steps_per_stage = epochs_per_stage * steps_per_epoch

    def staircase(count: jax.typing.ArrayLike) -> jax.Array:
        # optax divides in float32, where 2345 / 2345 may be below 1.
        stage = jnp.asarray(count) // steps_per_stage
        return learning_rate * jnp.float32(schedule.factor) ** stage.astype(jnp.float32)

    return staircase


def make_optimizer(
    optimizer: Optimizer, schedule: optax.Schedule
) -> optax.GradientTransformationExtraArgs:
    """Return SGD or Adam.

    SGD is PyTorch's: buffer = momentum * buffer + gradient, and the learning rate multiplies the
    buffer. Adam (Kingma and Ba, 2015) adds epsilon outside the square root.
    """
    if optimizer.name == "sgd":
        return optax.sgd(schedule, momentum=optimizer.momentum, nesterov=optimizer.nesterov)
    return optax.adam(schedule, b1=optimizer.beta_1, b2=optimizer.beta_2, eps=optimizer.epsilon)

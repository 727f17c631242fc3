"""The training step and the evaluation step of one seed: pure functions over plain pytrees."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import lax
from jax.flatten_util import ravel_pytree

from jaxdrill.config.config import Config
from jaxdrill.nn import network
from jaxdrill.training import metrics
from jaxdrill.training.augmentation import augment
from jaxdrill.training.metrics import Metrics
from jaxdrill.training.random import Stream, stream

Optimizer = optax.GradientTransformationExtraArgs
TrainStep = Callable[..., tuple["TrainState", Metrics]]
TrainData = tuple[jax.Array, jax.Array]  # images uint8[N, 28, 28, 1], labels uint8[N]
# images uint8[B, 28, 28, 1], labels uint8[B], validity bool[B]: False for padding
EvaluationBatch = tuple[jax.Array, jax.Array, jax.Array]


@struct.dataclass
class TrainState:
    """The state of training. A checkpoint holds it, with the seeds as first axis of each array."""

    step: jax.Array  # int32[], training steps done
    params: Any  # float32 arrays
    batch_stats: Any  # float32 arrays: running mean and variance of each batch norm
    opt_state: optax.OptState  # momentum buffers or moments, and the step count of the schedule
    average: Any  # EMA of (params, batch_stats); None if the recipe has none
    metrics: Metrics  # over the batches of the current epoch so far, each before its update

    @property
    def evaluated_weights(self) -> tuple[Any, Any]:
        """Return the params and batch_stats to evaluate and export: their EMA if there is one."""
        return (self.params, self.batch_stats) if self.average is None else self.average


def init_state(config: Config, optimizer: Optimizer, key: jax.Array) -> TrainState:
    """Return the state before the first step. `key`, key[], is the root key of the seed."""
    params, batch_stats = network.init(config.network, stream(key, Stream.INIT))
    average = (params, batch_stats) if config.average.decay else None
    opt_state = optimizer.init(params)
    return TrainState(jnp.int32(0), params, batch_stats, opt_state, average, metrics.zero())


def make_train_step(
    config: Config, graph: Any, optimizer: Optimizer, axis: str | None = None
) -> TrainStep:
    """Return the training step. `axis` is the mesh axis that shards the batch, or None."""

    def train_step(
        state: TrainState, images: jax.Array, labels: jax.Array, key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        """Take one step on a batch.

        Args:
            state: before the step.
            images: uint8[B, 28, 28, 1], 0..255: one device's shard of the batch.
            labels: int32[B], of the same images.
            key: key[], the root key of the seed.

        Returns:
            The state after the step, and the metrics of the whole batch before the update.
        """
        shards, shard = (lax.axis_size(axis), lax.axis_index(axis)) if axis else (1, 0)
        positions = shard * labels.size + jnp.arange(labels.size)  # in the whole batch

        def image_keys(which: Stream) -> jax.Array:
            # A key per image, so that random numbers do not depend on how the batch is sharded.
            step_key = stream(key, which, state.step)
            return jax.vmap(jax.random.fold_in, (None, 0))(step_key, positions)

        x = augment(config.augmentation, image_keys(Stream.AUGMENT), images)

        def loss(params: Any) -> tuple[jax.Array, tuple[Metrics, Any]]:
            keys = image_keys(Stream.DROPOUT)
            arrays = params, state.batch_stats
            logits, batch_stats = network.apply(graph, *arrays, x, train=True, keys=keys, axis=axis)
            total = metrics.training_loss(config.loss, logits, labels)
            return total / (shards * labels.size), (metrics.compute(logits, labels), batch_stats)

        gradient, (sums, batch_stats) = jax.grad(loss, has_aux=True)(state.params)
        if axis:
            gradient, sums = psum_tree((gradient, sums), axis)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        weights = params, batch_stats
        average = update_average(config.average.decay, state.step, state.average, weights)
        step = state.step + 1
        return TrainState(step, *weights, opt_state, average, state.metrics), sums

    return train_step


def make_batch_step(
    train_step: TrainStep, steps_per_epoch: int, batch_size: int, shard_size: int, axis: str | None
) -> Callable[..., tuple[TrainState, jax.Array]]:
    """Return the training step on the next batch of the data on the device.

    Args:
        train_step: by `make_train_step`.
        steps_per_epoch: training steps per epoch.
        batch_size: images per step, except for an epoch's last step.
        shard_size: images of the batch on each device.
        axis: mesh axis that shards the batch, or None.
    """

    def batch_step(
        state: TrainState, data: TrainData, order: jax.Array, key: jax.Array
    ) -> tuple[TrainState, jax.Array]:
        """Take the next step of the epoch.

        Args:
            state: before the step.
            data: all training images and labels.
            order: int32[N], the order of the images in this epoch.
            key: key[], the root key of the seed.

        Returns:
            The state after the step, and the mean loss of the batch before the update, float32[].
        """
        step = state.step % steps_per_epoch
        first = step * batch_size
        first = first + lax.axis_index(axis) * shard_size if axis else first
        indices = lax.dynamic_slice(order, (first,), (shard_size,))
        images, labels = data[0][indices], data[1][indices].astype(jnp.int32)
        state, sums = train_step(state, images, labels, key)
        before = jax.tree.map(lambda a: jnp.where(step == 0, jnp.zeros_like(a), a), state.metrics)
        state = replace(state, metrics=before + sums)
        return state, sums.loss / sums.count.astype(jnp.float32)

    return batch_step


def update_average(decay: float, step: jax.Array, average: Any, weights: Any) -> Any:
    """Return the EMA of the weights after a step, int32[] from 0; None without a decay.

    The decay is at most (1 + step) / (10 + step), as in TensorFlow's ExponentialMovingAverage, so
    that the initial weights are soon forgotten.
    """
    if not decay:
        return None
    step = step.astype(jnp.float32)
    rate = 1 - jnp.minimum(decay, (1 + step) / (10 + step))
    return optax.incremental_update(weights, average, rate)


def make_evaluation_step(
    graph: Any, axis: str | None = None
) -> Callable[..., tuple[Metrics, jax.Array]]:
    """Return the evaluation step. `axis` is the mesh axis that shards the batch, or None."""

    def evaluation_step(
        state: TrainState, totals: Metrics, batch: EvaluationBatch
    ) -> tuple[Metrics, jax.Array]:
        """Evaluate one batch.

        Args:
            state: its weights are evaluated.
            totals: metrics of the batches before.
            batch: one device's shard of the batch.

        Returns:
            The totals with this batch, and the logits of the whole batch, float32[B, 10].
        """
        images, labels, valid = batch
        logits, _ = network.apply(graph, *state.evaluated_weights, images, train=False)
        sums = metrics.compute(logits, labels.astype(jnp.int32), valid)
        if axis:
            sums, logits = psum_tree(sums, axis), lax.all_gather(logits, axis, tiled=True)
        return totals + sums, logits

    return evaluation_step


def psum_tree(tree: Any, axis: str) -> Any:
    """Sum arrays over the devices of a mesh axis in one all-reduce.

    The sum is computed in float32, so integers must stay below 2**24.
    """
    flat, unravel = ravel_pytree(jax.tree.map(lambda a: a.astype(jnp.float32), tree))
    totals = unravel(lax.psum(flat, axis))
    return jax.tree.map(lambda total, a: total.astype(a.dtype), totals, tree)

"""The training step and the evaluation step of one seed: pure functions over plain pytrees."""

from collections.abc import Callable
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
from jaxdrill.training.augmentation import augment, normalize
from jaxdrill.training.metrics import Sums
from jaxdrill.training.random import Stream, stream


@struct.dataclass
class TrainState:
    """All that a step changes."""

    step: jax.Array  # int32[], optimiser steps done
    params: Any  # float32 arrays
    batch_stats: Any  # float32 arrays, running mean and variance of each batch norm
    opt_state: optax.OptState  # momentum buffers or moments, and the schedule's count
    average: Any = None  # moving average of (params, batch_stats), if the recipe has one


@struct.dataclass
class Progress:
    """A run at any step: what a checkpoint holds. Every array of a group of seeds has the seeds as its first axis."""

    state: TrainState
    totals: Sums  # of the current epoch's training batches so far


TrainStep = Callable[[TrainState, jax.Array, jax.Array, jax.Array], tuple[TrainState, Sums]]
TrainData = tuple[jax.Array, jax.Array]  # images uint8[N, 28, 28, 1], labels uint8[N]


def make_state(
    config: Config, optimizer: optax.GradientTransformationExtraArgs, key: jax.Array
) -> TrainState:
    """The state before the first step, from a run's root key."""
    params, batch_stats = network.init(config.network, stream(key, Stream.INIT))
    average = (params, batch_stats) if config.average.decay else None
    return TrainState(jnp.int32(0), params, batch_stats, optimizer.init(params), average)


def evaluated_weights(state: TrainState) -> tuple[Any, Any]:
    """The parameters and batch statistics that are evaluated, predicted with and exported: the average, if any."""
    return (state.params, state.batch_stats) if state.average is None else state.average


def make_train_step(
    config: Config,
    graph: Any,
    optimizer: optax.GradientTransformationExtraArgs,
    axis: str | None = None,
) -> TrainStep:
    """The one training step of one seed, to be jit-compiled. `axis` names the mesh axis that shards the batch."""

    def train_step(
        state: TrainState, images: jax.Array, labels: jax.Array, key: jax.Array
    ) -> tuple[TrainState, Sums]:
        """Images uint8[B, 28, 28, 1], labels int32[B], both one device's shard of the batch, and the run's root key.
        The sums are those of the whole batch, before the update."""
        num_shards, shard_index = (lax.axis_size(axis), lax.axis_index(axis)) if axis else (1, 0)
        positions = shard_index * labels.size + jnp.arange(labels.size)  # in the whole batch

        def keys(
            which: Stream,
        ) -> jax.Array:  # an image's random numbers do not depend on how the batch is sharded
            return jax.vmap(jax.random.fold_in, (None, 0))(
                stream(key, which, state.step), positions
            )

        x = augment(config.augmentation, keys(Stream.AUGMENT), images)

        def loss(params: Any) -> tuple[jax.Array, tuple[Sums, Any]]:
            logits, batch_stats = network.apply(
                graph,
                params,
                state.batch_stats,
                x,
                train=True,
                keys=keys(Stream.DROPOUT),
                axis=axis,
            )
            total = metrics.training_loss(config.loss, logits, labels)
            return total / (num_shards * labels.size), (metrics.sums(logits, labels), batch_stats)

        gradient, (sums, batch_stats) = jax.grad(loss, has_aux=True)(state.params)
        if axis:
            gradient, sums = psum_tree((gradient, sums), axis)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        average = update_average(
            config.average.decay, state.step, state.average, (params, batch_stats)
        )
        return TrainState(state.step + 1, params, batch_stats, opt_state, average), sums

    return train_step


def make_launch(
    train_step: TrainStep,
    num_steps: int,
    steps_per_epoch: int,
    batch_size: int,
    shard: int,
    axis: str | None,
) -> Callable[..., tuple[Progress, jax.Array]]:
    """Several training steps of one seed, each on its batch, or the device's shard of it, from the data on the device.

    One step is no loop: in a loop CPU's convolutions are slow.
    """

    def step(
        progress: Progress, data: TrainData, order: jax.Array, key: jax.Array
    ) -> tuple[Progress, jax.Array]:
        first = progress.state.step % steps_per_epoch * batch_size
        first = first + lax.axis_index(axis) * shard if axis else first
        indices = lax.dynamic_slice(order, (first,), (shard,))
        images, labels = data[0][indices], data[1][indices].astype(jnp.int32)
        state, sums = train_step(progress.state, images, labels, key)
        return Progress(state, progress.totals + sums), sums.loss / sums.count.astype(jnp.float32)

    def scan(progress: Progress, *arguments: Any) -> tuple[Progress, jax.Array]:
        progress, losses = lax.scan(
            lambda progress, _: step(progress, *arguments), progress, length=num_steps
        )
        return progress, losses.mean()

    return step if num_steps == 1 else scan


def update_average(decay: float, step: jax.Array, average: Any, weights: Any) -> Any:
    """The moving average after a step, int32[] from 0. Early it is faster, as in TensorFlow: its decay is at most
    (1 + step) / (10 + step). Without a decay there is none."""
    if not decay:
        return None
    step = step.astype(jnp.float32)
    return optax.incremental_update(
        weights, average, 1 - jnp.minimum(decay, (1 + step) / (10 + step))
    )


def make_evaluation_step(
    graph: Any, axis: str | None = None
) -> Callable[..., tuple[Sums, jax.Array]]:
    """The evaluation of one batch by one seed; `axis` names the mesh axis that shards the batch."""

    def evaluation_step(
        state: TrainState, totals: Sums, data: Any, batch: jax.Array
    ) -> tuple[Sums, jax.Array]:
        """Adds batch number `batch` of the data (images, labels and validity, each with the batches first) to the
        totals, and gives its logits, float32[B, 10] of the whole batch. It returns no state."""
        images, labels, valid = jax.tree.map(lambda a: a[batch], data)
        params, batch_stats = evaluated_weights(state)
        logits, _ = network.apply(graph, params, batch_stats, normalize(images), train=False)
        sums = metrics.sums(logits, labels.astype(jnp.int32), valid)
        if axis:
            sums, logits = psum_tree(sums, axis), lax.all_gather(logits, axis, tiled=True)
        return totals + sums, logits

    return evaluation_step


def psum_tree(tree: Any, axis: str) -> Any:
    """The sums over the devices along a mesh axis, in one all-reduce; whole numbers must stay below 2**24."""
    flat, unravel = ravel_pytree(jax.tree.map(lambda a: a.astype(jnp.float32), tree))
    return jax.tree.map(lambda total, a: total.astype(a.dtype), unravel(lax.psum(flat, axis)), tree)

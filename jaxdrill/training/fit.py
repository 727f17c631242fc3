"""The training loop: `fit` yields one result an epoch."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from jaxdrill.errors import RunError
from jaxdrill.training import processes
from jaxdrill.training.metrics import Sums
from jaxdrill.training.program import Program
from jaxdrill.training.step import Progress


class NonFiniteLossError(RunError):
    """Training went astray."""


Watch = Callable[[Progress, int, np.ndarray, float], None]


@dataclass(frozen=True)
class EpochResult:
    """One epoch of a group of seeds; `train` is summed over the steps, each before its update, as in the notebooks."""

    epoch: int  # from 0
    step: int  # optimiser steps done
    progress: Progress  # after the epoch; training on uses it up
    learning_rate: float  # of the epoch's first step
    train: Sums  # of each seed
    test: Sums
    logits: np.ndarray  # of the test images, float32[S, N, 10]
    train_seconds: float  # since the epoch began, or was continued
    test_seconds: float


def fit(
    program: Program,
    seeds: Sequence[int],
    progress: Progress | None = None,
    watch: Watch = lambda progress, step, losses, seconds: None,
) -> Iterator[EpochResult]:
    """Trains seeds together to the recipe's last epoch, from the start or from any progress, with the same bits.

    `watch` is called after each launch with the progress, the steps done, each seed's mean loss, and the seconds of
    training since the epoch began or was continued; what it raises ends the run.

    Raises:
        NonFiniteLossError: a loss is not.
    """
    keys = program.root_keys(seeds)
    current = program.start(keys) if progress is None else progress
    done, steps_per_epoch = int(processes.to_host(current.state.step)[0]), program.steps_per_epoch
    for epoch in range(done // steps_per_epoch, program.config.epochs):
        began = time.perf_counter()
        learning_rate = float(
            str(np.asarray(program.schedule(epoch * steps_per_epoch)))
        )  # 0.01, not 0.009999999776
        orders = program.shuffle(keys, epoch)
        for launch in program.launches(done % steps_per_epoch):
            current, losses = program.train(current, orders, keys, launch)
            done += launch[0]
            if not np.isfinite(losses).all():
                bad = int(np.argmin(np.isfinite(losses)))
                raise NonFiniteLossError(
                    f"the loss of seed {seeds[bad]} is {losses[bad]} by step {done - 1} (epoch {epoch + 1}), "
                    f"learning rate {learning_rate:g}"
                )
            watch(current, done, losses, time.perf_counter() - began)
        trained = time.perf_counter()
        train, current = current.totals, program.reset(current)
        test, logits = program.evaluate(current.state)
        ended = time.perf_counter()
        seconds = trained - began, ended - trained
        yield EpochResult(epoch, done, current, learning_rate, train, test, logits, *seconds)

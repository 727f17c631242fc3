"""Schedules against PyTorch's, at both ends of every epoch."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdrill import config
from jaxdrill.config.config import Optimizer, Schedule
from jaxdrill.training.optimizer import make_optimizer, make_schedule

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "parity.npz")


@pytest.mark.parametrize(("step", "name"), [("5", "step"), ("5_exponential", "exponential")])
@pytest.mark.parametrize("steps_per_epoch", [469, 1, 7])
def test_learning_rate_agrees_with_pytorch_at_every_epoch(step, name, steps_per_epoch):
    recipe = config.load(step)
    schedule = make_schedule(recipe.schedule, recipe.optimizer.learning_rate, steps_per_epoch, 20)
    for within in (0, steps_per_epoch - 1):
        rates = schedule(jnp.arange(20) * steps_per_epoch + within)
        np.testing.assert_allclose(rates, GOLDEN[f"learning_rate/{name}"], rtol=2e-6)


def test_constant_learning_rate():
    schedule = make_schedule(Schedule(), 0.01, 469, 20)
    assert all(schedule(step) == 0.01 for step in (0, 468, 469, 9379))


def test_a_triangle_rises_to_its_peak_and_falls():
    """Over 5 epochs of 20 steps: up in the first fifth, down in the rest, also within an epoch."""
    schedule = make_schedule(Schedule(name="triangle", warmup=0.2), 0.4, 20, 5)
    rates = [float(schedule(step)) for step in (0, 4, 19, 20, 60, 99, 100)]
    np.testing.assert_allclose(rates, [0.02, 0.1, 0.4, 0.4, 0.2, 0.005, 0], rtol=1e-6)
    every = np.asarray(schedule(jnp.arange(101)))
    assert (np.diff(every[:20]) > 0).all() and (np.diff(every[20:]) < 0).all()
    names = ("constant", "step", "exponential", "triangle")
    found = [config.load("5", {"schedule.name": name}).schedule.has_horizon for name in names]
    assert found == [False, False, False, True]
    longer = make_schedule(Schedule(name="triangle", warmup=0.2), 0.4, 20, 10)
    assert float(longer(19)) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("warmup", "steps", "expected"),
    [
        (0.2, 1, [1.0]),
        (0.999, 1, [1.0]),
        (0.2, 2, [1.0, 1.0]),
        (0.001, 4, [1.0, 1.0, 2 / 3, 1 / 3]),
        (0.5, 4, [1 / 2, 1.0, 1.0, 1 / 2]),
        (0.999, 4, [1 / 4, 1 / 2, 3 / 4, 1.0]),
    ],
)
def test_no_step_of_a_triangle_has_the_rate_0(warmup, steps, expected):
    """Even if there is a single step, or the rise takes one step or all."""
    schedule = make_schedule(Schedule(name="triangle", warmup=warmup), 0.3, steps, 1)
    np.testing.assert_allclose(schedule(jnp.arange(steps)), 0.3 * np.array(expected), rtol=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_is_pytorchs(nesterov):
    """buffer = momentum * buffer + gradient; Nesterov uses gradient + momentum * buffer."""
    optimizer = make_optimizer(Optimizer(momentum=0.5, nesterov=nesterov), lambda count: 0.1)
    state, steps = optimizer.init(jnp.float32(0)), []
    for gradient in (1.0, 2.0):
        step, state = optimizer.update(jnp.float32(gradient), state, jnp.float32(0))
        steps.append(float(step))
    buffers = [1.0, 2.5]
    expected = [1 + 0.5 * 1.0, 2 + 0.5 * 2.5] if nesterov else buffers
    np.testing.assert_allclose(steps, [-0.1 * value for value in expected], rtol=1e-6)

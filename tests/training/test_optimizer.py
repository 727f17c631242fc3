"""Schedules against PyTorch's, at both ends of every epoch."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdrill import config, optim

GOLDEN = np.load(Path(__file__).parent / "golden" / "parity.npz")


@pytest.mark.parametrize(("step", "name"), [("5", "step"), ("5_exponential", "exponential")])
@pytest.mark.parametrize("steps_per_epoch", [469, 1, 7])
def test_learning_rate_agrees_with_pytorch_at_every_epoch(step, name, steps_per_epoch):
    recipe = config.load(step)
    schedule = optim.make_schedule(recipe.schedule, recipe.optimizer.learning_rate, steps_per_epoch)
    for within in (0, steps_per_epoch - 1):
        rates = schedule(jnp.arange(20) * steps_per_epoch + within)
        np.testing.assert_allclose(rates, GOLDEN[f"learning_rate/{name}"], rtol=2e-6)


def test_constant_learning_rate():
    schedule = optim.make_schedule(config.Schedule(), 0.01, 469)
    assert np.array_equal(schedule(jnp.arange(0, 10000, 469)), np.full(22, np.float32(0.01)))

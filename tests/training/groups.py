"""Helpers to train small groups of seeds in the tests."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from jaxdrill.config.layers import Conv
from jaxdrill.training.fit import fit

# Everything that training and evaluation treat differently, and compiled in 2 s instead of 4.
ONE_LAYER = (Conv(conv=10, kernel=28, batch_norm=True, dropout=0.1, relu=False),)


def changed(recipe, **fields):
    """Return the recipe with other values, such as `execution={"epoch": "scan"}`."""
    tables = {
        name: getattr(recipe, name).model_copy(update=value) if isinstance(value, dict) else value
        for name, value in fields.items()
    }
    return recipe.model_copy(update=tables)


def one(tree):
    """Return the arrays of a group's only seed."""
    return jax.tree.map(lambda a: a[0], tree)


def kept(tree):
    """Return a copy, because the next training step overwrites the state."""
    return jax.tree.map(jnp.copy, tree)


def results(trainer, dataset, seeds, state=None):
    """Return the result of every epoch, with a copy of its state."""
    return [
        dataclasses.replace(each, state=kept(each.state))
        for each in fit(trainer, dataset, seeds, state)
    ]


def state_after(trainer, dataset, seeds, step):
    """Return the state after a number of steps."""

    class Interrupted(Exception):
        pass

    found = []

    def interrupt(state, done, losses, seconds):
        if done == step:
            found.append(kept(state))
            raise Interrupted

    with pytest.raises(Interrupted):
        list(fit(trainer, dataset, seeds, watch=interrupt))
    return found[0]


def final(trainer, dataset, seeds):
    """Return the last epoch's training metrics, test metrics and parameters."""
    last = results(trainer, dataset, seeds)[-1]
    return last.train, last.test, last.state.params

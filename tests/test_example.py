"""The one-page example: equal to the package, and accurate on digits."""

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict
from PIL import Image

from examples import step_5
from jaxdrill import config
from jaxdrill.nn import network
from jaxdrill.training import metrics

FILE = Path(step_5.__file__)
KEY = jax.random.key(0, impl="rbg")  # The default, threefry, compiles slowly.


@pytest.fixture(scope="module")
def package() -> SimpleNamespace:
    """Return what the tests compare with. Nothing else in this file uses the package."""
    recipe = config.load("5")
    graph = network.make_graph(recipe.network)
    weights = network.init(recipe.network, jax.random.key(0))

    def apply(params, batch_stats, images, train=False):
        return network.apply(graph, params, batch_stats, images, train=train)

    def loss_fn(params, batch_stats, images, labels):
        logits, batch_stats = apply(params, batch_stats, images, train=True)
        return metrics.training_loss(recipe.loss, logits, labels) / len(labels), batch_stats

    return SimpleNamespace(recipe=recipe, weights=weights, apply=apply, loss_fn=loss_fn)


def renamed(tree):
    """Rename the package's layers: conv1 to conv7 become block1 to block7, and conv8 the head."""
    flat = {}
    for name, array in flatten_dict(tree, sep=".").items():
        name = name.replace("kernel", "conv.kernel").replace("conv8.conv", "head")
        flat[re.sub(r"^conv(\d)", r"block\1", name)] = array
    return unflatten_dict(flat, sep=".")


def predict(state, images):
    """Return the example's logits in evaluation mode."""
    return nnx.merge(state.graphdef, state.params, state.batch_stats)(images, train=False)


def random_batch(size):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (size, 28, 28, 1), dtype=np.uint8)
    return jnp.array(images), jnp.array(rng.integers(0, 10, size, dtype=np.int32))


def test_logits_loss_and_gradients_equal_the_packages(package):
    """Without dropout. Evaluation mode uses the batch statistics after one training batch."""
    images, labels = random_batch(32)
    grad = jax.jit(jax.value_and_grad(package.loss_fn, has_aux=True))
    (loss, stats), grads = grad(*package.weights, images, labels)
    logits, _ = jax.jit(package.apply)(package.weights[0], stats, images)
    expected = loss, renamed(stats), renamed(grads), logits

    state, (params, stats) = step_5.create_state(KEY, 1, 1), map(renamed, package.weights)
    chex.assert_trees_all_equal_shapes((state.params, state.batch_stats), (params, stats))
    grad = jax.jit(jax.value_and_grad(step_5.loss_fn, has_aux=True))
    (loss, stats), grads = grad(params, state.replace(batch_stats=stats), images, labels, None)
    logits = jax.jit(predict)(state.replace(params=params, batch_stats=stats), images)
    chex.assert_trees_all_close((loss, stats, grads, logits), expected, atol=1e-5, rtol=0)
    assert all(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(grads))


def test_hyperparameters_and_initial_weights_are_the_recipes(package):
    recipe, state = package.recipe, step_5.create_state(KEY, 1, 1)
    assert (recipe.epochs, recipe.batch_size) == (step_5.EPOCHS, step_5.BATCH_SIZE)
    assert recipe.augmentation.rotation_fill == step_5.FILL_VALUE
    net = nnx.merge(state.graphdef, state.params, state.batch_stats)
    rates = [getattr(net, f"block{number}").dropout.rate for number in range(1, 8)]
    assert rates == [layer.dropout for layer in recipe.network if layer.kind == "conv"][:7]
    assert sum(leaf.size for leaf in jax.tree.leaves(state.params)) == 9606
    for kernel in (leaf for leaf in jax.tree.leaves(state.params) if leaf.ndim == 4):
        assert 0.9 < np.abs(kernel).max() * np.prod(kernel.shape[:-1]) ** 0.5 <= 1


def test_the_optimizer_is_pytorchs_sgd_with_the_recipes_schedule(package):
    """The gradient is 1 in every step."""
    sgd, schedule, epochs = package.recipe.optimizer, package.recipe.schedule, package.recipe.epochs
    tx = step_5.create_state(KEY, epochs, steps_per_epoch=469).tx

    def step(opt_state, _):
        return tx.update(jnp.float32(1), opt_state)[::-1]

    with jax.numpy_dtype_promotion("standard"):  # optax's schedule adds int and float.
        _, updates = jax.lax.scan(step, tx.init(jnp.float32(0)), length=469 * epochs)
    steps = np.arange(len(updates))
    rates = sgd.learning_rate * schedule.factor ** (steps // (469 * schedule.every_epochs))
    buffers = (1 - sgd.momentum ** (steps + 1)) / (1 - sgd.momentum)
    np.testing.assert_allclose(updates, -rates * buffers, rtol=1e-4)


def test_rotation_equals_pils(digits):
    images = digits.train_images[:200]
    degrees = np.random.default_rng(0).uniform(-7, 7, 200).astype(np.float32)
    rotated = jax.vmap(step_5.rotate)(images.astype(np.float32), degrees)[..., 0]
    for image, angle, found in zip(images, degrees, np.asarray(rotated), strict=True):
        picture = Image.fromarray(image[..., 0])
        expected = picture.rotate(float(angle), Image.Resampling.NEAREST, fillcolor=1)
        assert np.mean(found == np.asarray(expected)) > 0.99


def test_every_image_gets_its_own_angle_in_every_step(package, monkeypatch):
    monkeypatch.setattr(step_5, "rotate", lambda image, degrees: degrees)
    monkeypatch.setattr(step_5, "loss_fn", lambda params, state, x, *_: (jnp.float32(0), x))
    state, limit = step_5.create_state(KEY, 1, 1), package.recipe.augmentation.rotation_degrees
    with jax.numpy_dtype_promotion("standard"):
        first, _ = step_5.train_step.__wrapped__(state, *random_batch(1000), KEY)
        second, _ = step_5.train_step.__wrapped__(first, *random_batch(1000), KEY)
    quantiles = np.quantile(first.batch_stats, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(quantiles / limit, [-1, -0.5, 0, 0.5, 1], atol=0.1)
    assert np.corrcoef(first.batch_stats, second.batch_stats)[0, 1] < 0.2


def test_every_image_is_evaluated_once():
    images, _ = random_batch(300)  # The last of three batches is padded.
    state = step_5.create_state(KEY, 1, 1)
    right = jax.jit(predict)(state, images).argmax(axis=-1)
    for wrong in (0, 1, 299):
        labels = jnp.where(jnp.arange(300) < 300 - wrong, right, (right + 1) % 10)
        assert step_5.evaluate(state, images, labels) == np.float32((300 - wrong) / 300)


@pytest.mark.slow
def test_three_epochs_on_digits_reach_95_percent():
    command = [sys.executable, FILE, "--data", "digits", "--epochs", "3"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    accuracies = re.findall(r"test accuracy (\S+)%", result.stdout)
    assert len(accuracies) == 3 and float(accuracies[-1]) >= 95


def test_it_fits_on_one_page():
    lines = FILE.read_text().splitlines()
    assert len(lines) <= 150 and max(map(len, lines)) <= 100

"""The training loop: epochs, exact evaluation, resuming, and losses that are not finite."""

import os
import re
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT
from groups import changed, kept, one, results, state_after

from jaxdrill.config.config import Average
from jaxdrill.data import FILES, Dataset
from jaxdrill.errors import RunError
from jaxdrill.nn import network
from jaxdrill.training import fit as loop
from jaxdrill.training import metrics, trainer
from jaxdrill.training.fit import fit
from jaxdrill.training.trainer import Trainer, root_keys


@pytest.fixture(scope="module")
def compiled(one_layer, digits):
    return Trainer(one_layer, digits)


@pytest.fixture(scope="module")
def pair(one_layer, digits):
    """Two seeds, one per device."""
    return Trainer(one_layer, digits, 2)


def logits_of(recipe, state, images):
    graph = network.make_graph(recipe.network)
    return network.apply(graph, *state.evaluated_weights, jnp.array(images), train=False)[0]


def test_every_image_is_trained_once_per_epoch_in_a_new_order(compiled, digits):
    key = root_keys([1])
    orders = [np.asarray(compiled.shuffle(key, jnp.int32(epoch)))[0] for epoch in (0, 0, 1)]
    for order in orders:
        assert np.array_equal(np.sort(order), np.arange(len(digits.train_labels)))
    assert np.array_equal(orders[0], orders[1])
    assert np.mean(orders[0] == orders[2]) < 0.02
    assert np.mean(orders[0] == np.sort(orders[0])) < 0.02


def test_an_epoch_counts_every_image(compiled, digits):
    found = results(compiled, digits, [1])
    assert [result.epoch for result in found] == [0, 1]
    for epoch, result in enumerate(found):
        assert int(one(result.train).count) == len(digits.train_labels) == 1437
        assert int(one(result.test).count) == 360
        steps = 3 * (epoch + 1)  # batches of 512, 512 and 413
        assert result.step == int(result.state.step[0]) == steps
    assert one(found[1].train).mean_loss < one(found[0].train).mean_loss


@pytest.mark.parametrize("evaluation_batch", [1000, 70, 7])
def test_evaluation_is_exact_for_any_batch(one_layer, digits, monkeypatch, evaluation_batch):
    monkeypatch.setattr(trainer, "EVALUATION_BATCH", evaluation_batch)
    compiled = Trainer(one_layer, digits)
    state = compiled.init(root_keys([1]))
    batches = loop.evaluation_batches(compiled, digits.test_images, digits.test_labels)
    sums, found = loop.evaluate(compiled, state, batches)
    logits = logits_of(one_layer, one(state), digits.test_images)
    expected = metrics.compute(logits, digits.test_labels.astype(np.int32))
    assert (int(one(sums).count), int(one(sums).correct)) == (360, int(expected.correct))
    np.testing.assert_allclose(one(sums).mean_loss, expected.mean_loss, rtol=1e-5)
    assert found.shape[:2] == (1, len(batches) * compiled.evaluation_size)
    np.testing.assert_allclose(found[0, :360], logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("evaluation_batch", "subset"), [(1000, 10_000), (70, 1000), (7, 360), (1000, 100)]
)
def test_training_images_are_evaluated_without_dropout_and_augmentation(
    one_layer, digits, monkeypatch, evaluation_batch, subset
):
    """All 1,437 images or evenly spaced ones; each counts once, whatever the batches."""
    monkeypatch.setattr(trainer, "EVALUATION_BATCH", evaluation_batch)
    monkeypatch.setattr(loop, "TRAINING_SUBSET", subset)
    compiled = Trainer(one_layer, digits)
    state = compiled.init(root_keys([1]))
    found = one(loop.evaluate_training(compiled, state, digits))
    indices = np.linspace(0, 1436, min(subset, 1437)).round().astype(int)
    assert len(set(indices.tolist())) == len(indices) and (indices[0], indices[-1]) == (0, 1436)
    logits = logits_of(one_layer, one(state), digits.train_images[indices])
    expected = metrics.compute(logits, digits.train_labels[indices].astype(np.int32))
    assert (int(found.count), int(found.correct)) == (len(indices), int(expected.correct))
    np.testing.assert_allclose(found.mean_loss, expected.mean_loss, rtol=1e-5)


def test_equal_seeds_are_paired_across_recipes(one_layer, compiled, digits):
    """With the same network, a seed has the same initial weights and the same order of images."""
    fields = {"augmentation": {"rotation_degrees": 0.0}, "optimizer": {"momentum": 0.5}}
    trainers = [compiled, Trainer(changed(one_layer, **fields), digits)]
    old, new = (each.init(root_keys([7])) for each in trainers)
    chex.assert_trees_all_equal((old.params, old.batch_stats), (new.params, new.batch_stats))
    orders = [np.asarray(each.shuffle(root_keys([7]), jnp.int32(3))) for each in trainers]
    np.testing.assert_array_equal(*orders)
    third = trainers[0].init(root_keys([8]))
    assert not np.array_equal(old.params["conv1"]["kernel"], third.params["conv1"]["kernel"])


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(compiled, digits):
    first, again, other = (
        [result.state for result in results(compiled, digits, [seed])] for seed in (1, 1, 2)
    )
    chex.assert_trees_all_equal(first, again)
    kernels = [states[-1].params["conv1"]["kernel"] for states in (first, other)]
    assert not np.array_equal(*kernels)


def test_the_random_generator_of_the_environment_has_no_effect(
    one_layer, compiled, digits, tmp_path
):
    """Neither another generator nor the older layout of Threefry."""
    code = """
import sys, numpy as np, jax
from jaxdrill import data
from jaxdrill.config.config import Config
from jaxdrill.training.fit import fit
from jaxdrill.training.trainer import Trainer
few = np.load(sys.argv[2])
digits = data.Dataset("digits", *(few[name] for name in data.FILES))
recipe = Config.model_validate_json(open(sys.argv[1]).read())
*_, last = fit(Trainer(recipe, digits), digits, [1])
np.save(sys.argv[3], last.logits)
"""
    np.savez(tmp_path / "few.npz", **{name: getattr(digits, name) for name in FILES})
    (tmp_path / "config.json").write_text(one_layer.model_dump_json())
    files = [tmp_path / name for name in ("config.json", "few.npz", "logits.npy")]
    environment = os.environ | {
        "JAX_DEFAULT_PRNG_IMPL": "rbg",
        "JAX_THREEFRY_PARTITIONABLE": "0",
        "JAX_NUM_CPU_DEVICES": "2",
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }
    subprocess.run([sys.executable, "-c", code, *files], check=True, cwd=ROOT, env=environment)
    expected = results(compiled, digits, [1])[-1].logits
    assert np.array_equal(np.load(tmp_path / "logits.npy"), expected)


@pytest.mark.parametrize("stop_at", [1, 2, 3, 4])
@pytest.mark.parametrize("seeds", [[1], [1, 2]])
def test_resuming_at_any_step_gives_the_same_bits(compiled, pair, digits, stop_at, seeds):
    each = compiled if len(seeds) == 1 else pair
    whole = results(each, digits, seeds)
    # There is no stop between the last batch and the evaluation: fit yields after it.
    state = kept(whole[0].state) if stop_at == 3 else state_after(each, digits, seeds, stop_at)
    rest = results(each, digits, seeds, state)
    assert [result.epoch for result in rest] == ([0, 1] if stop_at < 3 else [1])
    for result in rest:
        expected = whole[result.epoch]
        chex.assert_trees_all_equal(
            (result.state, result.train, result.test),
            (expected.state, expected.train, expected.test),
        )


def test_the_ema_of_the_weights_is_evaluated(one_layer, compiled, digits):
    averaged = Trainer(changed(one_layer, average=Average(decay=0.9).model_dump()), digits)
    last, plain = (results(each, digits, [1])[-1] for each in (averaged, compiled))
    assert plain.state.average is None
    chex.assert_trees_all_equal(last.state.params, plain.state.params)
    logits = logits_of(one_layer, one(last.state), digits.test_images)
    np.testing.assert_allclose(last.logits[0], logits, rtol=1e-4, atol=1e-4)
    assert not np.allclose(last.logits, plain.logits, atol=1e-2)
    rest = results(averaged, digits, [1], state_after(averaged, digits, [1], 2))
    chex.assert_trees_all_equal(rest[-1].state, last.state)


def test_the_diverging_seed_of_a_group_is_named(pair, digits):
    state = pair.init(root_keys([7, 8]))
    broken = jax.tree.map(lambda a: a.at[1].set(jnp.nan) if a.dtype == jnp.float32 else a, state)
    with pytest.raises(RunError, match=r"the loss of seed 8 is nan by step 0 \(epoch 1\)"):
        list(fit(pair, digits, [7, 8], jax.device_put(broken, pair.by_seed)))


def test_a_loss_that_is_not_finite_stops_at_once(one_layer, digits):
    wild, losses = changed(one_layer, optimizer={"learning_rate": 1e30}), []
    with pytest.raises(RunError) as error:
        list(
            fit(Trainer(wild, digits), digits, [1], watch=lambda s, n, loss, t: losses.append(loss))
        )
    stopped = int(re.search(r"by step (\d+)", str(error.value))[1])
    assert stopped == len(losses) < 3
    assert np.isfinite(losses).all()
    message = r"the loss of seed 1 is (nan|inf) by step \d \(epoch 1\), learning rate 1e\+30$"
    assert re.match(message, str(error.value))


def test_a_batch_may_be_the_whole_dataset(one_layer):
    arrays = np.zeros((5, 28, 28, 1), np.uint8), np.arange(5, dtype=np.uint8)
    few = Dataset("few", *arrays, *arrays)
    recipe = changed(one_layer, batch_size=5, epochs=1)
    (result,) = results(Trainer(recipe, few), few, [1])
    assert (int(one(result.train).count), int(one(result.test).count), result.step) == (5, 5, 1)

"""The training step against PyTorch, and the epoch, the evaluation and resuming against themselves."""

import dataclasses
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import parity_inputs
import pytest
from conftest import ROOT

from jaxdrill import config
from jaxdrill.config.config import Average, Optimizer, Schedule
from jaxdrill.config.layers import Conv, layer_table
from jaxdrill.data import FILES, Dataset
from jaxdrill.errors import RunError, UsageError
from jaxdrill.nn import network
from jaxdrill.training import devices, lowering, metrics, step
from jaxdrill.training.augmentation import normalize
from jaxdrill.training.fit import fit
from jaxdrill.training.optimizer import make_optimizer, make_schedule
from jaxdrill.training.program import Program
from jaxdrill.training.random import Stream, root_key, stream

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "parity.npz")


def network_with(name):
    """The step's recipe and graph, and its arrays as in the PyTorch run; and the names of its convolutions."""
    recipe = config.load(name)
    params, batch_stats = network.init(recipe.network, jax.random.key(0))
    convolutions = [row.name for row in layer_table(recipe.network) if row.name.startswith("conv")]
    for layer, new in zip(convolutions, parity_inputs.weights(name), strict=True):
        params[layer]["kernel"] = new["kernel"]
        if "scale" in new:
            params[layer]["batch_norm"] = {
                "scale": jnp.array(new["scale"]),
                "bias": jnp.array(new["bias"]),
            }
    return (
        recipe,
        network.make_graph(recipe.network),
        jax.tree.map(jnp.array, params),
        batch_stats,
        convolutions,
    )


@pytest.mark.parametrize("step", ["step_1", "step_2"])
@pytest.mark.parametrize("mode", ["train", "test"])
def test_logits_agree_with_pytorch(step, mode):
    _, graph, params, batch_stats, _ = network_with(step)
    x = normalize(jnp.array(parity_inputs.batches()[0][0]))
    logits, _ = network.apply(graph, params, batch_stats, x, train=mode == "train")
    np.testing.assert_allclose(logits, GOLDEN[f"{step}/logits_{mode}"], atol=1e-5)


@pytest.mark.parametrize("case", list(parity_inputs.OPTIMIZERS))
def test_20_training_steps_agree_with_pytorch(case):
    name, optimizer_name, momentum, learning_rate = parity_inputs.OPTIMIZERS[case]
    recipe, graph, params, batch_stats, convolutions = network_with(name)
    settings = Optimizer(name=optimizer_name, learning_rate=learning_rate, momentum=momentum)
    optimizer = make_optimizer(settings, make_schedule(Schedule(), settings.learning_rate, 1, 1))
    images, labels = parity_inputs.batches()
    losses = []
    chex.clear_trace_counter()
    # optax.adam mixes int32 and float32
    with jax.numpy_dtype_promotion("standard" if optimizer_name == "adam" else "strict"):
        state = step.TrainState(jnp.int32(0), params, batch_stats, optimizer.init(params))
        traced_once = chex.assert_max_traces(step.make_train_step(recipe, graph, optimizer), n=1)
        train_step = jax.jit(traced_once)
        for image_batch, label_batch in zip(images, labels, strict=True):
            state, sums = train_step(state, image_batch, label_batch, jax.random.key(0))
            losses.append(sums.mean_loss)
    np.testing.assert_allclose(losses, GOLDEN[f"{case}/losses"], rtol=1e-4)
    assert int(state.step) == parity_inputs.STEPS
    if name == "step_1":
        return
    rows = {row.name: row for row in layer_table(recipe.network)}
    for number, layer in enumerate(convolutions):
        np.testing.assert_allclose(
            state.params[layer]["kernel"], GOLDEN[f"{case}/kernel/{number}"], atol=1e-4
        )
        if "batch_norm" not in state.params[layer]:
            continue
        norm, stats = state.params[layer]["batch_norm"], state.batch_stats[layer]["batch_norm"]
        for leaf in ("scale", "bias"):
            np.testing.assert_allclose(norm[leaf], GOLDEN[f"{case}/{leaf}/{number}"], atol=1e-4)
        np.testing.assert_allclose(
            stats["mean"], GOLDEN[f"{case}/mean/{number}"], rtol=1e-3, atol=1e-4
        )
        # Ours is biased, PyTorch's is not: the same weighted sum of batch variances, but each times n / (n - 1).
        values = parity_inputs.BATCH * rows[layer].side ** 2
        start = 0.9**parity_inputs.STEPS
        unbiased = start + (stats["var"] - start) * values / (values - 1)
        np.testing.assert_allclose(unbiased, GOLDEN[f"{case}/var/{number}"], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(
            stats["var"], GOLDEN[f"{case}/var/{number}"], rtol=2e-3, atol=1e-4
        )


@pytest.fixture(scope="module")
def compiled(tiny, digits):
    return Program(tiny, digits)


@pytest.fixture(scope="module")
def pair(tiny, digits):
    """Two seeds, one a device."""
    return Program(tiny, digits, 2)


@pytest.fixture(scope="module")
def scanned(tiny, digits):
    return Program(changed(tiny, execution={"epoch": "scan"}), digits)


@pytest.fixture
def compiled_when_called(monkeypatch):
    """Programs compile only what a test calls."""
    original = Program._compile

    def lazily(self, lowered):
        compiled = cache(lambda: original(self, lowered))
        return lambda *arguments: compiled()(*arguments)

    monkeypatch.setattr(Program, "_compile", lazily)


def changed(recipe, **fields):
    """The recipe with other values: `execution={"epoch": "scan"}` changes fields of a table."""
    tables = {
        k: getattr(recipe, k).model_copy(update=v) if isinstance(v, dict) else v
        for k, v in fields.items()
    }
    return recipe.model_copy(update=tables)


def one(tree):
    """A group's only seed."""
    return jax.tree.map(lambda a: a[0], tree)


def kept(tree):
    """A copy: training on uses up a progress."""
    return jax.tree.map(jnp.copy, tree)


def results(program, seeds, progress=None):
    """Every epoch's result, with a progress that lasts."""
    return [
        dataclasses.replace(each, progress=kept(each.progress))
        for each in fit(program, seeds, progress)
    ]


def progress_after(program, seeds, step):
    """Where a run was cut after so many steps."""

    class Cut(Exception):
        pass

    found = []

    def cut(progress, done, losses, seconds):
        if done == step:
            found.append(kept(progress))
            raise Cut

    with pytest.raises(Cut):
        list(fit(program, seeds, watch=cut))
    return found[0]


def test_every_image_is_trained_once_an_epoch_in_a_new_order(compiled, digits):
    key = compiled.root_keys([1])
    orders = [np.asarray(compiled.shuffle(key, epoch))[0] for epoch in (0, 0, 1)]
    for order in orders:
        assert np.array_equal(np.sort(order), np.arange(len(digits.train_labels)))
    assert np.array_equal(orders[0], orders[1])
    assert np.mean(orders[0] == orders[2]) < 0.02
    assert np.mean(orders[0] == np.sort(orders[0])) < 0.02


def test_an_epoch_counts_every_image(compiled, digits):
    found = results(compiled, [1])
    assert [result.epoch for result in found] == [0, 1]
    for epoch, result in enumerate(found):
        assert int(one(result.train).count) == len(digits.train_labels) == 1437
        assert int(one(result.test).count) == 360
        assert (
            result.step == int(result.progress.state.step[0]) == (epoch + 1) * 3
        )  # batches of 512, 512 and 413
        assert int(one(result.progress.totals).count) == 0
    assert one(found[1].train).mean_loss < one(found[0].train).mean_loss


def test_batches_follow_the_order_and_the_last_one_is_short(digits):
    """A step that learns nothing but which labels it saw."""
    seen = []

    def spy_step(state, images, labels, key):
        seen.append((np.asarray(images), np.asarray(labels)))
        sums = metrics.Sums(jnp.float32(1), labels.sum(), jnp.int32(labels.size))
        return dataclasses.replace(state, step=state.step + 1), sums

    order = jnp.array(np.random.default_rng(0).permutation(1437).astype(np.int32))
    progress = step.Progress(
        step.TrainState(jnp.int32(3), {}, {}, ()), metrics.zero()
    )  # the second epoch
    data = jnp.array(digits.train_images), jnp.array(digits.train_labels)
    for size in (512, 512, 413):
        launch = step.make_launch(spy_step, 1, 3, 512, size, None)
        progress, _ = launch(progress, data, order, jax.random.key(0))
    assert np.array_equal(
        np.concatenate([labels for _, labels in seen]), digits.train_labels[order]
    )
    assert np.array_equal(
        np.concatenate([images for images, _ in seen]), digits.train_images[order]
    )


@pytest.mark.parametrize("evaluation_batch", [1000, 70, 7])
def test_evaluation_is_exact_for_any_batch(
    tiny, digits, monkeypatch, evaluation_batch, compiled_when_called
):
    monkeypatch.setattr(lowering, "EVALUATION_BATCH", evaluation_batch)
    compiled = Program(tiny, digits)
    state = compiled.start(compiled.root_keys([1])).state
    sums, found = compiled.evaluate(state)
    sums, state = one(sums), one(state)
    x = normalize(jnp.array(digits.test_images))
    logits, _ = network.apply(
        network.make_graph(tiny.network), state.params, state.batch_stats, x, train=False
    )
    expected = metrics.sums(logits, digits.test_labels.astype(np.int32))
    assert (int(sums.count), int(sums.correct)) == (360, int(expected.correct))
    np.testing.assert_allclose(sums.mean_loss, expected.mean_loss, rtol=1e-5)
    assert found.shape == (1, 360, 10)
    np.testing.assert_allclose(found[0], logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("evaluation_batch", "subset"), [(1000, 10_000), (70, 1000), (7, 360), (1000, 100)]
)
def test_training_images_are_evaluated_without_dropout_and_augmentation(
    tiny, digits, monkeypatch, evaluation_batch, subset, compiled_when_called
):
    """All 1,437 in parts of the 360 test images, or so many, evenly spaced; each counts once, whatever the batches."""
    monkeypatch.setattr(lowering, "EVALUATION_BATCH", evaluation_batch)
    monkeypatch.setattr(lowering, "TRAINING_SUBSET", subset)
    compiled = Program(tiny, digits)
    state = compiled.start(compiled.root_keys([1])).state
    found = one(compiled.evaluate_training(state))
    indices = np.linspace(0, 1436, min(subset, 1437)).round().astype(int)
    assert len(set(indices.tolist())) == len(indices) and (indices[0], indices[-1]) == (0, 1436)
    own = one(state)
    x = normalize(jnp.array(digits.train_images[indices]))
    logits, _ = network.apply(
        network.make_graph(tiny.network), own.params, own.batch_stats, x, train=False
    )
    expected = metrics.sums(logits, digits.train_labels[indices].astype(np.int32))
    assert (int(found.count), int(found.correct)) == (len(indices), int(expected.correct))
    np.testing.assert_allclose(found.mean_loss, expected.mean_loss, rtol=1e-5)


def test_seeds_of_the_same_number_are_paired_across_steps(tiny, digits, compiled_when_called):
    """Recipes of one network: a seed starts from the same weights, in the same order."""
    recipes = [
        tiny,
        changed(tiny, augmentation={"rotation_degrees": 0.0}, optimizer={"momentum": 0.5}),
    ]
    programs = [Program(recipe, digits) for recipe in recipes]
    old, new = (each.start(each.root_keys([7])).state for each in programs)
    chex.assert_trees_all_equal((old.params, old.batch_stats), (new.params, new.batch_stats))
    np.testing.assert_array_equal(
        *(np.asarray(each.shuffle(each.root_keys([7]), 3)) for each in programs)
    )
    other = programs[0].start(programs[0].root_keys([8])).state
    assert not np.array_equal(old.params["conv1"]["kernel"], other.params["conv1"]["kernel"])


def test_no_program_is_queued_behind_another(tiny, digits, monkeypatch):
    """On two CPU devices queued programs that sum over the devices deadlock, and XLA then aborts the process."""
    monkeypatch.setattr(lowering, "EVALUATION_BATCH", 7)
    compiled = Program(tiny, digits)
    ready = []

    def spy(original):
        def call(*arguments):
            ready.append(all(a.is_ready() for a in jax.tree.leaves(arguments[:2])))
            return original(*arguments)

        return call

    keys = compiled.root_keys([1])
    progress, orders = jax.block_until_ready((compiled.start(keys), compiled.shuffle(keys, 0)))
    monkeypatch.setattr(
        compiled, "compiled", {name: spy(compiled.executable(name)) for name in compiled.names()}
    )
    for launch in compiled.launches(0):
        progress, _ = compiled.train(progress, orders, keys, launch)
    compiled.evaluate(jax.block_until_ready(progress.state))
    assert len(ready) == 3 + 45 and all(ready)


def test_the_same_seed_gives_the_same_bits_and_another_does_not(compiled):
    first, again, other = (
        [result.progress for result in results(compiled, [seed])] for seed in (1, 1, 2)
    )
    chex.assert_trees_all_equal(first, again)
    assert not np.array_equal(
        first[-1].state.params["conv1"]["kernel"], other[-1].state.params["conv1"]["kernel"]
    )


def test_the_environments_random_generator_changes_nothing(tiny_recipe, compiled, digits, tmp_path):
    """Neither another one, nor the older layout of the same."""
    code = """
import sys, numpy as np, jax
from jaxdrill import config, data
from jaxdrill.training.fit import fit
from jaxdrill.training.program import Program
few = np.load(sys.argv[2])
digits = data.Dataset("digits", *(few[name] for name in data.FILES))
*_, last = fit(Program(config.load(sys.argv[1]), digits), [1])
np.save(sys.argv[3], last.logits)
"""
    np.savez(tmp_path / "few.npz", **{name: getattr(digits, name) for name in FILES})
    files = [tiny_recipe, tmp_path / "few.npz", tmp_path / "logits.npy"]
    environment = {
        "JAX_DEFAULT_PRNG_IMPL": "rbg",
        "JAX_THREEFRY_PARTITIONABLE": "0",
        "JAX_NUM_CPU_DEVICES": "2",
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }
    subprocess.run(
        [sys.executable, "-c", code, *files], check=True, cwd=ROOT, env=os.environ | environment
    )
    assert np.array_equal(np.load(tmp_path / "logits.npy"), results(compiled, [1])[-1].logits)


@pytest.mark.parametrize("stop_at", [1, 2, 3, 4])
@pytest.mark.parametrize("seeds", [[1], [1, 2]])
def test_continuing_from_any_step_gives_the_same_bits(compiled, pair, stop_at, seeds):
    each = compiled if len(seeds) == 1 else pair
    whole = results(each, seeds)
    # Between the last batch and the evaluation there is no stop: an epoch's end is where it is yielded.
    progress = kept(whole[0].progress) if stop_at == 3 else progress_after(each, seeds, stop_at)
    rest = results(each, seeds, progress)
    assert [result.epoch for result in rest] == ([0, 1] if stop_at < 3 else [1])
    for result in rest:
        expected = whole[result.epoch]
        chex.assert_trees_all_equal(
            (result.progress, result.train, result.test),
            (expected.progress, expected.train, expected.test),
        )


def test_a_progress_is_used_up(compiled):
    """Its memory serves the next one."""
    keys = compiled.root_keys([1])
    progress, orders = compiled.start(keys), compiled.shuffle(keys, 0)
    compiled.train(progress, orders, keys, next(compiled.launches(0)))
    assert all(
        leaf.is_deleted()
        for leaf in jax.tree.leaves((progress.state.params, progress.state.opt_state))
    )


def test_two_devices_compute_what_one_does(tiny, digits, compiled):
    """Dropout, rotation, order and batch norm are those of the whole batch, however many devices share it."""
    single = Program(tiny, digits, mesh=devices.make_mesh(1, 512, jax.devices()[:1]))
    assert (compiled.mesh.size, single.mesh.size, compiled.rest % 2) == (
        2,
        1,
        1,
    )  # they cannot share the last batch
    two, alone = (results(each, [1])[-1] for each in (compiled, single))
    chex.assert_trees_all_equal(two.train.count, alone.train.count)
    np.testing.assert_allclose(one(two.train).mean_loss, one(alone.train).mean_loss, rtol=1e-4)
    chex.assert_trees_all_close(
        two.progress.state.params, alone.progress.state.params, rtol=0, atol=1e-3
    )


def test_one_device_sums_over_no_others(tiny, digits, compiled, pair):
    """An all-reduce is only where a batch is sharded, and then two for batch norm and one for everything else."""

    def count(each):
        return each.compiled[next(each.launches(0))].as_text().count(" all-reduce(")

    assert count(compiled) > 0 and count(pair) == 0


def final(program, seeds):
    """The last epoch's training sums and test sums, and the parameters."""
    last = results(program, seeds)[-1]
    return last.train, last.test, last.progress.state.params


def test_however_an_epoch_runs_it_computes_the_same(compiled, scanned):
    assert [list(each.launches(0)) for each in (compiled, scanned)] == [
        [(1, 512), (1, 512), (1, 413)],
        [(2, 512), (1, 413)],
    ]
    steps, scan = (final(each, [1]) for each in (compiled, scanned))
    assert int(scan[0].count[0]) == 1437
    chex.assert_trees_all_close(steps, scan, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("convolution", ["xla", "im2col"])
def test_however_convolutions_are_computed_the_result_is_the_same(
    tiny, digits, compiled, convolution
):
    other = Program(changed(tiny, execution={"convolution": convolution}), digits)
    assert (compiled.execution.convolution, other.execution.convolution) == ("rows", convolution)
    chex.assert_trees_all_close(final(compiled, [1]), final(other, [1]), rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("seeds", "execution"),
    [
        ([5, 6], {}),  # one a device
        pytest.param([5, 6, 7], {}, marks=pytest.mark.slow),  # in turn on one device
        pytest.param(  # as on an accelerator: by vmap
            [5, 6, 7], {"epoch": "scan", "convolution": "im2col"}, marks=pytest.mark.slow
        ),
        ([5, 6, 7, 8], {"epoch": "scan", "convolution": "im2col"}),  # two on each of two devices
    ],
)
def test_seeds_trained_together_are_those_trained_alone(tiny, digits, compiled, seeds, execution):
    group = final(Program(changed(tiny, execution=execution), digits, len(seeds)), seeds)
    for n, seed in enumerate(seeds):
        mine = jax.tree.map(lambda a, n=n: a[n], group)
        chex.assert_trees_all_close(mine, one(final(compiled, [seed])), rtol=2e-3, atol=2e-3)


def test_a_scan_may_begin_within_an_epoch(compiled, scanned):
    """Progress from steps, continued by a scan."""
    whole = results(compiled, [1])
    rest = results(scanned, [1], progress_after(compiled, [1], 1))  # of 3 steps
    assert [result.step for result in rest] == [3, 6]
    assert int(one(rest[0].train).count) == 1437
    np.testing.assert_allclose(
        one(rest[1].train).mean_loss, one(whole[1].train).mean_loss, rtol=1e-3
    )


@pytest.mark.parametrize(
    ("precision", "algorithm"),
    [("float32", "HIGHEST"), ("tensorfloat32", "HIGH"), ("bfloat16", "DEFAULT")],
)
def test_products_have_the_precision_of_the_recipe(tiny, digits, precision, algorithm, monkeypatch):
    """Every product of a step."""
    monkeypatch.setattr(Program, "_compile", lambda self, name: self.lower(name))
    execution = {"matmul_precision": precision}
    text = Program(changed(tiny, execution=execution), digits).compiled[1, 512].as_text()
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    assert len(products) >= 5
    for line in products:
        assert re.findall(r"precision = \[(\w+), (\w+)\]", line) == [(algorithm, algorithm)]


def test_label_smoothing_is_trained_and_not_reported(tiny):
    """One step of SGD without momentum moves the weights by the gradient of the smoothed loss; the sums are plain."""
    layers = (Conv(conv=10, kernel=28, relu=False),)
    recipe = changed(
        tiny,
        network=layers,
        augmentation={"rotation_degrees": 0.0},
        loss={"label_smoothing": 0.2},
        optimizer={"momentum": 0.0, "learning_rate": 1.0},
    )
    optimizer = make_optimizer(recipe.optimizer, make_schedule(Schedule(), 1.0, 1, 1))
    state = step.make_state(recipe, optimizer, root_key(0))
    images, labels = (array[0] for array in parity_inputs.batches())
    train_step = jax.jit(step.make_train_step(recipe, network.make_graph(layers), optimizer))
    after, sums = train_step(state, images, jnp.array(labels), root_key(0))
    pixels = np.asarray(normalize(jnp.array(images)), np.float64).reshape(len(labels), -1)
    logits = pixels @ np.asarray(state.params["conv1"]["kernel"], np.float64).reshape(-1, 10)
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(
        sums.mean_loss, -np.log(chances[np.arange(64), labels]).mean(), rtol=1e-5
    )
    targets = 0.8 * np.eye(10)[labels] + 0.02
    gradient = pixels.T @ (chances - targets) / 64
    moved = np.asarray(state.params["conv1"]["kernel"] - after.params["conv1"]["kernel"]).reshape(
        -1, 10
    )
    np.testing.assert_allclose(moved, gradient, atol=1e-5)


def test_an_average_of_the_weights_is_evaluated(tiny, digits, compiled):
    averaged = Program(changed(tiny, average=Average(decay=0.9).model_dump()), digits)
    last, plain = results(averaged, [1])[-1], results(compiled, [1])[-1]
    assert plain.progress.state.average is None
    chex.assert_trees_all_equal(last.progress.state.params, plain.progress.state.params)
    params, batch_stats = one(step.evaluated_weights(last.progress.state))
    x = normalize(jnp.array(digits.test_images))
    logits, _ = network.apply(network.make_graph(tiny.network), params, batch_stats, x, train=False)
    np.testing.assert_allclose(last.logits[0], logits, rtol=1e-4, atol=1e-4)
    assert not np.allclose(last.logits, plain.logits, atol=1e-2)
    rest = results(averaged, [1], progress_after(averaged, [1], 2))
    chex.assert_trees_all_equal(rest[-1].progress, last.progress)


def test_the_average_by_hand():
    """Decays of 1/10, 2/11 and then 0.15."""
    average = {"a": jnp.float32(0)}
    for n, expected in enumerate([0.9, 0.9 * 2 / 11 + 9 / 11, 0]):
        decay = min(0.15 if n == 2 else 1, (1 + n) / (10 + n))
        if n == 2:
            expected = float(average["a"]) * decay + (1 - decay)
        average = step.update_average(
            0.15 if n == 2 else 0.99, jnp.int32(n), average, {"a": jnp.float32(1)}
        )
        np.testing.assert_allclose(average["a"], expected, rtol=1e-6)
    assert step.update_average(0.0, jnp.int32(0), None, {"a": jnp.float32(1)}) is None


def test_each_image_of_each_step_draws_anew(tiny, monkeypatch):
    """The angle and the dropout of each have a key that nothing else has."""
    recipe, drawn = changed(tiny, network=(Conv(conv=10, kernel=28, relu=False),)), []

    def spy_augment(augmentation, keys, images):
        drawn.append(keys)
        return normalize(images)

    def spy_apply(*arguments, keys, **options):
        drawn.append(keys)
        return original(*arguments, keys=keys, **options)

    original = network.apply
    monkeypatch.setattr(step, "augment", spy_augment)
    monkeypatch.setattr(network, "apply", spy_apply)
    optimizer = make_optimizer(recipe.optimizer, make_schedule(Schedule(), 0.01, 1, 1))
    train_step = step.make_train_step(recipe, network.make_graph(recipe.network), optimizer)
    state = step.make_state(recipe, optimizer, root_key(0))
    for _ in range(2):
        state, _ = train_step(
            state, jnp.zeros((200, 28, 28, 1), jnp.uint8), jnp.zeros(200, jnp.int32), root_key(0)
        )
    words = np.concatenate([jax.random.key_data(keys) for keys in drawn])
    assert len(drawn) == 4 and len(np.unique(words, axis=0)) == len(words) == 800


def test_the_diverging_seed_of_a_group_is_named(pair):
    progress = pair.start(pair.root_keys([7, 8]))
    broken = jax.tree.map(lambda a: a.at[1].set(jnp.nan) if a.dtype == jnp.float32 else a, progress)
    with pytest.raises(RunError, match=r"the loss of seed 8 is nan by step 0 \(epoch 1\)"):
        list(fit(pair, [7, 8], jax.device_put(broken, pair.sharding)))


def test_a_loss_that_is_not_finite_stops_at_once(tiny, digits, compiled_when_called):
    wild, steps = changed(tiny, optimizer={"learning_rate": 1e30}), []
    with pytest.raises(RunError) as error:
        list(
            fit(
                Program(wild, digits),
                [1],
                watch=lambda progress, step, losses, seconds: steps.append(losses),
            )
        )
    stopped = int(re.search(r"by step (\d+)", str(error.value))[1])
    assert stopped == len(steps) < 3
    assert np.isfinite(steps).all()
    message = r"the loss of seed 1 is (nan|inf) by step \d \(epoch 1\), learning rate 1e\+30$"
    assert re.match(message, str(error.value))


def test_a_batch_larger_than_the_data(tiny, digits):
    with pytest.raises(
        UsageError, match="batch_size is 2000; allowed: at most 1437, the training images of digits"
    ):
        Program(changed(tiny, batch_size=2000), digits)


def test_a_batch_may_be_all_of_the_data(tiny):
    few = np.zeros((5, 28, 28, 1), np.uint8), np.arange(5, dtype=np.uint8)
    recipe = changed(tiny, batch_size=5, epochs=1)
    (result,) = results(Program(recipe, Dataset("few", *few, *few)), [1])
    assert (int(one(result.train).count), int(one(result.test).count), result.step) == (5, 5, 1)


def test_streams_share_no_key():
    key = root_key(0)
    data = [
        tuple(np.asarray(jax.random.key_data(stream(key, which, n))))
        for which in Stream
        for n in range(50)
    ]
    assert len(set(data)) == len(data)

"""The training step against PyTorch, and the epoch, the evaluation and resuming against themselves."""

import dataclasses
import re
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import parity_inputs
import pytest

from jaxdrill import augment, config, metrics, models, optim, train
from jaxdrill.data import Dataset
from jaxdrill.errors import RunError, UsageError

GOLDEN = np.load(Path(__file__).parent / "golden" / "parity.npz")


def network_with(step):
    """The step's graph, batch statistics, and parameters as in the PyTorch run; and where each convolution stands."""
    recipe = dataclasses.replace(config.load(step.removeprefix("step_")), dropout=config.Dropout())
    params, batch_stats = models.init(recipe, jax.random.key(0))
    places = [n for n, layer in enumerate(recipe.network) if isinstance(layer, config.Conv)]
    layers = params["layers"]["layers"]
    for place, new in zip(places, parity_inputs.weights(step), strict=True):
        layers[place]["convolution"]["kernel"] = new["kernel"].reshape(layers[place]["convolution"]["kernel"].shape)
        if "scale" in new:
            layers[place]["batch_norm"] = {"scale": jnp.array(new["scale"]), "bias": jnp.array(new["bias"])}
    return recipe, models.make_graph(recipe), jax.tree.map(jnp.array, params), batch_stats, places


@pytest.mark.parametrize("step", ["step_1", "step_2"])
@pytest.mark.parametrize("mode", ["train", "test"])
def test_logits_agree_with_pytorch(step, mode):
    _, graph, params, batch_stats, _ = network_with(step)
    x = augment.normalize(jnp.array(parity_inputs.batches()[0][0]))
    logits, _ = models.apply(graph, params, batch_stats, x, train=mode == "train")
    np.testing.assert_allclose(logits, GOLDEN[f"{step}/logits_{mode}"], atol=1e-5)


@pytest.mark.parametrize("case", list(parity_inputs.OPTIMIZERS))
def test_20_training_steps_agree_with_pytorch(case):
    step, name, momentum, learning_rate = parity_inputs.OPTIMIZERS[case]
    recipe, graph, params, batch_stats, places = network_with(step)
    settings = config.Optimizer(name, learning_rate, momentum)
    optimizer = optim.make_optimizer(settings, optim.make_schedule(config.Schedule(), settings.learning_rate, 1))
    images, labels = parity_inputs.batches()
    losses = []
    # optax.adam mixes int32 and float32
    with jax.numpy_dtype_promotion("standard" if name == "adam" else "strict"):
        state = train.TrainState(jnp.int32(0), params, batch_stats, optimizer.init(params))
        train_step = jax.jit(train.make_train_step(recipe, graph, optimizer))
        for image_batch, label_batch in zip(images, labels, strict=True):
            state, sums = train_step(state, image_batch, label_batch, jax.random.key(0))
            losses.append(sums.mean_loss)
    np.testing.assert_allclose(losses, GOLDEN[f"{case}/losses"], rtol=1e-4)
    assert int(state.step) == parity_inputs.STEPS
    if step == "step_1":
        return
    layers, stats = state.params["layers"]["layers"], state.batch_stats["layers"]["layers"]
    for number, place in enumerate(places):
        expected = GOLDEN[f"{case}/kernel/{number}"]
        kernel = layers[place]["convolution"]["kernel"].reshape(expected.shape)
        np.testing.assert_allclose(kernel, expected, atol=1e-4)
        if "batch_norm" not in layers[place]:
            continue
        for leaf in ("scale", "bias"):
            np.testing.assert_allclose(layers[place]["batch_norm"][leaf], GOLDEN[f"{case}/{leaf}/{number}"], atol=1e-4)
        np.testing.assert_allclose(
            stats[place]["batch_norm"]["mean"], GOLDEN[f"{case}/mean/{number}"], rtol=1e-3, atol=1e-4
        )
        # Ours is biased, PyTorch's is not: the same weighted sum of batch variances, but each times n / (n - 1).
        values = parity_inputs.BATCH * models.layer_table(recipe)[place].side ** 2
        start = 0.9**parity_inputs.STEPS
        unbiased = start + (stats[place]["batch_norm"]["var"] - start) * values / (values - 1)
        np.testing.assert_allclose(unbiased, GOLDEN[f"{case}/var/{number}"], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(
            stats[place]["batch_norm"]["var"], GOLDEN[f"{case}/var/{number}"], rtol=2e-3, atol=1e-4
        )


@pytest.fixture(scope="module")
def program(tiny, digits):
    return train.Program(tiny, digits)


def test_every_image_is_trained_once_an_epoch_in_a_new_order(program, digits):
    key = program.root_keys([1])
    orders = [np.asarray(program.shuffle(key, epoch))[0] for epoch in (0, 0, 1)]
    for order in orders:
        assert np.array_equal(np.sort(order), np.arange(len(digits.train_labels)))
    assert np.array_equal(orders[0], orders[1])
    assert np.mean(orders[0] == orders[2]) < 0.02
    assert np.mean(orders[0] == np.sort(orders[0])) < 0.02


def test_an_epoch_counts_every_image(program, digits):
    results = list(train.fit(program, [1]))
    assert [result.epoch for result in results] == [0, 1]
    for epoch, result in enumerate(results):
        assert int(one(result.train).count) == len(digits.train_labels) == 1437
        assert int(one(result.test).count) == 360
        assert result.step == int(result.progress.state.step[0]) == (epoch + 1) * 3  # batches of 512, 512 and 413
        assert int(one(result.progress.totals).count) == 0
    assert one(results[1].train).mean_loss < one(results[0].train).mean_loss


def test_batches_follow_the_order_and_the_last_one_is_short(digits):
    """A step that learns nothing but which labels it saw."""
    seen = []

    def spy_step(state, images, labels, key):
        seen.append((np.asarray(images), np.asarray(labels)))
        return dataclasses.replace(state, step=state.step + 1), metrics.Sums(
            jnp.float32(1), labels.sum(), jnp.int32(labels.size)
        )

    order = jnp.array(np.random.default_rng(0).permutation(1437).astype(np.int32))
    progress = train.Progress(train.TrainState(jnp.int32(3), {}, {}, ()), metrics.zero())  # the second epoch
    for size in (512, 512, 413):
        batch_step = train.make_batch_step(spy_step, 3, 512, size, None)
        progress, _ = batch_step(progress, (jnp.array(digits.train_images), jnp.array(digits.train_labels)), order,
                                 jax.random.key(0))  # fmt: skip
    assert np.array_equal(np.concatenate([labels for _, labels in seen]), digits.train_labels[order])
    assert np.array_equal(np.concatenate([images for images, _ in seen]), digits.train_images[order])


@pytest.mark.parametrize("evaluation_batch", [1000, 70, 7])
def test_evaluation_is_exact_for_any_batch(tiny, digits, monkeypatch, evaluation_batch):
    monkeypatch.setattr(train, "EVALUATION_BATCH", evaluation_batch)
    program = train.Program(tiny, digits)
    state = program.start(program.root_keys([1])).state
    sums, found = program.evaluate(state)
    sums = one(sums)
    state = one(state)
    x = augment.normalize(jnp.array(digits.test_images))
    logits, _ = models.apply(models.make_graph(tiny), state.params, state.batch_stats, x, train=False)
    expected = metrics.sums(logits, digits.test_labels.astype(np.int32))
    assert (int(sums.count), int(sums.correct)) == (360, int(expected.correct))
    np.testing.assert_allclose(sums.mean_loss, expected.mean_loss, rtol=1e-5)
    assert found.shape == (1, 360, 10)
    np.testing.assert_allclose(found[0], logits, rtol=1e-4, atol=1e-5)


def test_seeds_of_the_same_number_are_paired_across_steps(digits):
    """Steps 2 to 5 have one network: a seed starts from the same weights, in the same order."""
    programs = [train.Program(config.load(step), digits) for step in ("2", "5")]
    old, new = (program.start(program.root_keys([7])).state for program in programs)
    chex.assert_trees_all_equal((old.params, old.batch_stats), (new.params, new.batch_stats))
    orders = [np.asarray(program.shuffle(program.root_keys([7]), 3)) for program in programs]
    np.testing.assert_array_equal(*orders)
    other = programs[0].start(programs[0].root_keys([8])).state
    assert not jax.tree.all(jax.tree.map(np.array_equal, old.params, other.params))


def test_no_program_is_queued_behind_another(tiny, digits, monkeypatch):
    """On two CPU devices queued programs that sum over the devices deadlock, and XLA then aborts the process."""
    monkeypatch.setattr(train, "EVALUATION_BATCH", 7)
    program = train.Program(tiny, digits)
    ready = []

    def spy(compiled):
        def call(*arguments):
            ready.append(all(a.is_ready() for a in jax.tree.leaves(arguments[:2])))
            return compiled(*arguments)

        return call

    keys = program.root_keys([1])
    progress, orders = jax.block_until_ready((program.start(keys), program.shuffle(keys, 0)))
    monkeypatch.setattr(program, "_compiled", {name: spy(each) for name, each in program._compiled.items()})
    for call in program.calls(0):
        progress, _ = program.train(progress, orders, keys, call)
    program.evaluate(jax.block_until_ready(progress.state))
    assert len(ready) == 3 + 45 and all(ready)


def one(tree):
    """A group's only seed."""
    return jax.tree.map(lambda a: a[0], tree)


def same(a, b):
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


def test_the_same_seed_gives_the_same_bits_and_another_does_not(program):
    first, again, other = ([result.progress for result in train.fit(program, [seed])] for seed in (1, 1, 2))
    assert same(first, again)
    assert not same(first[-1].state.params, other[-1].state.params)


@pytest.mark.parametrize("stop_at", [1, 2, 3, 4])
def test_continuing_from_any_step_gives_the_same_bits(program, stop_at):
    class Cut(Exception):
        pass

    kept = []

    def cut(progress, step, losses):
        if step == stop_at:
            kept.append(progress)
            raise Cut

    whole = list(train.fit(program, [1]))
    with pytest.raises(Cut):
        list(train.fit(program, [1], watch=cut))
    if (
        stop_at == 3
    ):  # between the last batch and the evaluation there is no stop: an epoch's end is where it is yielded
        kept = [whole[0].progress]
    rest = list(train.fit(program, [1], kept[0]))
    assert [result.epoch for result in rest] == ([0, 1] if stop_at < 3 else [1])
    for result in rest:
        expected = whole[result.epoch]
        assert same((result.progress, result.train, result.test), (expected.progress, expected.train, expected.test))


def test_two_devices_compute_what_one_does(tiny, digits, monkeypatch):
    """Dropout, rotation, order and batch norm are those of the whole batch, however many devices share it."""
    constant = dataclasses.replace(tiny, batch_size=480)  # 480, 480 and 477: the devices cannot share the last
    results = []
    for smallest_share in (32, 480):
        monkeypatch.setattr("jaxdrill.parallel.SMALLEST_SHARE", smallest_share)
        program = train.Program(constant, digits)
        *_, last = train.fit(program, [1])
        results.append((program.mesh.size, one(last.progress.state), one(last.train)))
    (two, state, sums), (single, alone, alone_sums) = results
    assert (two, single) == (2, 1)
    np.testing.assert_allclose(sums.mean_loss, alone_sums.mean_loss, rtol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), state.params, alone.params)


def final(recipe, digits, seeds, **execution):
    """The last epoch's training sums and test sums, and the parameters."""
    recipe = dataclasses.replace(recipe, execution=config.Execution(**execution))
    *_, last = train.fit(train.Program(recipe, digits, len(seeds)), seeds)
    return last.train, last.test, last.progress.state.params


@pytest.mark.parametrize("epoch", ["chunks", "scan"])
def test_however_an_epoch_runs_it_computes_the_same(tiny, digits, epoch, monkeypatch):
    monkeypatch.setattr(train, "CHUNK", 4)
    small = dataclasses.replace(tiny, batch_size=240)  # 5 full batches, and a rest of 237
    steps, other = (final(small, digits, [1], epoch=each) for each in ("steps", epoch))
    assert int(other[0].count[0]) == 1437
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-3), steps, other)


@pytest.mark.parametrize("convolution", ["pairs", "patches"])
def test_however_convolutions_are_computed_the_result_is_the_same(tiny, digits, convolution):
    plain, other = (final(tiny, digits, [1], convolution=each) for each in ("plain", convolution))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-3), plain, other)


@pytest.mark.parametrize("together", [2, 3, 4])  # one a device; all on one device; two on each device
def test_seeds_trained_together_are_those_trained_alone(tiny, digits, together):
    seeds = range(5, 5 + together)
    group = final(tiny, digits, seeds)
    for n, seed in enumerate(seeds):
        alone = jax.tree.map(lambda a: a[0], final(tiny, digits, [seed]))
        mine = jax.tree.map(lambda a, n=n: a[n], group)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3), mine, alone)


def test_a_resume_within_a_chunk(tiny, digits):
    """Progress from steps, continued by a scan, which then has to begin within an epoch."""
    kept = []
    program = train.Program(tiny, digits)
    whole = list(train.fit(program, [1], watch=lambda progress, step, losses: kept.append(progress)))
    scan = train.Program(dataclasses.replace(tiny, execution=config.Execution("scan")), digits)
    rest = list(train.fit(scan, [1], kept[0]))  # after the first of 3 steps
    assert [result.step for result in rest] == [3, 6]
    assert int(one(rest[0].train).count) == 1437
    np.testing.assert_allclose(one(rest[1].train).mean_loss, one(whole[1].train).mean_loss, rtol=1e-3)


def test_the_diverging_seed_of_a_group_is_named(tiny, digits):
    program = train.Program(tiny, digits, 2)
    progress = program.start(program.root_keys([7, 8]))
    broken = jax.tree.map(lambda a: a.at[1].set(jnp.nan) if a.dtype == jnp.float32 else a, progress)
    with pytest.raises(RunError, match="the loss of seed 8 is nan by step 0"):
        list(train.fit(program, [7, 8], jax.device_put(broken, program.sharding)))


def test_a_loss_that_is_not_finite_stops_at_once(tiny, digits):
    wild = dataclasses.replace(tiny, optimizer=config.Optimizer("sgd", 1e30, 0.9), dropout=config.Dropout())
    steps = []
    with pytest.raises(RunError) as error:
        list(train.fit(train.Program(wild, digits), [1], watch=lambda progress, step, losses: steps.append(losses)))
    step = int(re.search(r"by step (\d+)", str(error.value))[1])
    assert step == len(steps) < 3
    assert np.isfinite(steps).all()
    assert re.match(
        r"the loss of seed 1 is (nan|inf) by step \d \(epoch 0\), learning rate 1e\+30; try", str(error.value)
    )


def test_the_step_is_traced_once(tiny, digits, monkeypatch):
    traces = []
    original = models.apply
    monkeypatch.setattr(models, "apply", lambda *a, **k: traces.append(a[3].shape[0]) or original(*a, **k))
    list(train.fit(train.Program(tiny, digits), [1]))
    assert sorted(traces) == [180, 256, 413]


def test_a_batch_larger_than_the_data(tiny, digits):
    with pytest.raises(UsageError, match="batch_size is 2000; digits has only 1437 training images"):
        train.Program(dataclasses.replace(tiny, batch_size=2000), digits)


def test_a_batch_may_be_all_of_the_data(tiny):
    few = np.zeros((5, 28, 28, 1), np.uint8), np.arange(5, dtype=np.uint8)
    recipe = dataclasses.replace(tiny, batch_size=5, epochs=1)
    (result,) = train.fit(train.Program(recipe, Dataset("few", *few, *few)), [1])
    assert (int(one(result.train).count), int(one(result.test).count), result.step) == (5, 5, 1)


def test_streams_share_no_key():
    key = jax.random.key(0)
    data = [
        tuple(np.asarray(jax.random.key_data(train.stream(key, which, n)))) for which in train.Stream for n in range(50)
    ]
    assert len(set(data)) == len(data) == 200


@pytest.mark.parametrize("seed", [1])
def test_mnist_one_epoch(seed, mnist_dir):
    from jaxdrill import data

    recipe = dataclasses.replace(config.load("2"), epochs=1)
    (result,) = train.fit(train.Program(recipe, data.load("mnist", mnist_dir)), [seed])
    assert int(one(result.test).count) == 10_000
    assert int(one(result.train).count) == 60_000
    assert result.step == 469
    assert one(result.test).accuracy > 0.96  # the notebook's first epoch: 97.85 %

"""The training step against PyTorch and against calculations by hand."""

from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import parity_inputs
import pytest
from groups import changed
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxdrill import config
from jaxdrill.config.config import Optimizer, Schedule
from jaxdrill.config.layers import Conv, layer_table
from jaxdrill.nn import network
from jaxdrill.training import metrics, step
from jaxdrill.training.optimizer import make_optimizer, make_schedule
from jaxdrill.training.random import Stream, root_key, stream

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "parity.npz")
LINEAR = (Conv(conv=10, kernel=28, relu=False),)


def network_with(name):
    """Return a step's recipe, graph, arrays as in the PyTorch run, and names of convolutions."""
    recipe = config.load(name)
    params, batch_stats = network.init(recipe.network, jax.random.key(0))
    convolutions = [row.name for row in layer_table(recipe.network) if row.name.startswith("conv")]
    for layer, new in zip(convolutions, parity_inputs.weights(name), strict=True):
        params[layer]["kernel"] = new["kernel"]
        if "scale" in new:
            params[layer]["batch_norm"] = {key: jnp.array(new[key]) for key in ("scale", "bias")}
    graph = network.make_graph(recipe.network)
    return recipe, graph, jax.tree.map(jnp.array, params), batch_stats, convolutions


def new_state(params, batch_stats, optimizer):
    opt_state = optimizer.init(params)
    return step.TrainState(jnp.int32(0), params, batch_stats, opt_state, None, metrics.zero())


@pytest.mark.parametrize("name", ["step_1", "step_2"])
@pytest.mark.parametrize("mode", ["train", "test"])
def test_logits_agree_with_pytorch(name, mode):
    _, graph, params, batch_stats, _ = network_with(name)
    images = jnp.array(parity_inputs.batches()[0][0])
    logits, _ = jax.jit(network.apply, static_argnames=("graph", "train"))(
        graph, params, batch_stats, images, train=mode == "train"
    )
    np.testing.assert_allclose(logits, GOLDEN[f"{name}/logits_{mode}"], atol=1e-5)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=pytest.mark.slow)
        if case in ("step_1_sgd_0.9", "sgd_0.95")
        else case
        for case in parity_inputs.OPTIMIZERS
    ],
)
def test_20_training_steps_agree_with_pytorch(case):
    name, optimizer_name, momentum, learning_rate = parity_inputs.OPTIMIZERS[case]
    recipe, graph, params, batch_stats, convolutions = network_with(name)
    settings = Optimizer(name=optimizer_name, learning_rate=learning_rate, momentum=momentum)
    optimizer = make_optimizer(settings, make_schedule(Schedule(), settings.learning_rate, 1, 1))
    losses = []
    chex.clear_trace_counter()
    # optax.adam mixes int32 and float32.
    with jax.numpy_dtype_promotion("standard" if optimizer_name == "adam" else "strict"):
        state = new_state(params, batch_stats, optimizer)
        traced_once = chex.assert_max_traces(step.make_train_step(recipe, graph, optimizer), n=1)
        train_step = jax.jit(traced_once)
        for images, labels in zip(*parity_inputs.batches(), strict=True):
            state, sums = train_step(state, images, labels, jax.random.key(0))
            losses.append(sums.mean_loss)
    np.testing.assert_allclose(losses, GOLDEN[f"{case}/losses"], rtol=1e-4)
    assert int(state.step) == parity_inputs.STEPS
    if name == "step_1":
        return
    sides = {row.name: row.side for row in layer_table(recipe.network)}
    for number, layer in enumerate(convolutions):
        expected = {
            key: GOLDEN[f"{case}/{key}/{number}"]
            for key in ("kernel", "scale", "bias", "mean", "var")
            if f"{case}/{key}/{number}" in GOLDEN
        }
        values = parity_inputs.BATCH * sides[layer] ** 2
        assert_layer_agrees(state.params[layer], state.batch_stats.get(layer), expected, values)


def assert_layer_agrees(params, batch_stats, expected, values_per_channel):
    np.testing.assert_allclose(params["kernel"], expected["kernel"], atol=1e-4)
    if "batch_norm" not in params:
        return
    norm, stats = params["batch_norm"], batch_stats["batch_norm"]
    for leaf in ("scale", "bias"):
        np.testing.assert_allclose(norm[leaf], expected[leaf], atol=1e-4)
    np.testing.assert_allclose(stats["mean"], expected["mean"], rtol=1e-3, atol=1e-4)
    # PyTorch's running variance is unbiased: each term is n / (n - 1) times that of Flax.
    start = 0.9**parity_inputs.STEPS
    unbiased = start + (stats["var"] - start) * values_per_channel / (values_per_channel - 1)
    np.testing.assert_allclose(unbiased, expected["var"], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(stats["var"], expected["var"], rtol=2e-3, atol=1e-4)


def test_batches_follow_the_order_and_the_last_one_is_shorter(digits):
    """A step that only records which images it receives."""
    seen = []

    def record(state, images, labels, key):
        seen.append((np.asarray(images), np.asarray(labels)))
        sums = metrics.Metrics(jnp.float32(1), labels.sum(), jnp.int32(labels.size))
        return state.replace(step=state.step + 1), sums

    order = jnp.array(np.random.default_rng(0).permutation(1437).astype(np.int32))
    old = metrics.Metrics(jnp.float32(5), jnp.int32(5), jnp.int32(5))  # of the first epoch
    state = step.TrainState(jnp.int32(3), {}, {}, (), None, old)
    data = jnp.array(digits.train_images), jnp.array(digits.train_labels)
    for size in (512, 512, 413):
        batch_step = step.make_batch_step(record, 3, 512, size, None)
        state, loss = batch_step(state, data, order, jax.random.key(0))
        assert loss == np.float32(1 / size)
    found = [np.concatenate(arrays) for arrays in zip(*seen, strict=True)]
    assert np.array_equal(found[0], digits.train_images[order])
    assert np.array_equal(found[1], digits.train_labels[order])
    assert (float(state.metrics.loss), int(state.metrics.count)) == (3, 1437)


def test_label_smoothing_is_trained_and_not_reported(tiny):
    """One step of SGD without momentum follows the gradient of the smoothed loss."""
    recipe = changed(
        tiny,
        network=LINEAR,
        augmentation={"rotation_degrees": 0.0},
        loss={"label_smoothing": 0.2},
        optimizer={"momentum": 0.0, "learning_rate": 1.0},
    )
    optimizer = make_optimizer(recipe.optimizer, make_schedule(Schedule(), 1.0, 1, 1))
    state = step.init_state(recipe, optimizer, root_key(0))
    images, labels = (array[0] for array in parity_inputs.batches())
    train_step = jax.jit(step.make_train_step(recipe, network.make_graph(LINEAR), optimizer))
    after, sums = train_step(state, images, jnp.array(labels), root_key(0))
    pixels = np.asarray(network.normalize(jnp.array(images)), np.float64).reshape(len(labels), -1)
    logits = pixels @ np.asarray(state.params["conv1"]["kernel"], np.float64).reshape(-1, 10)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = -np.log(probabilities[np.arange(64), labels]).mean()
    np.testing.assert_allclose(sums.mean_loss, expected, rtol=1e-5)
    targets = 0.8 * np.eye(10)[labels] + 0.02
    gradient = pixels.T @ (probabilities - targets) / 64
    change = np.asarray(state.params["conv1"]["kernel"] - after.params["conv1"]["kernel"])
    np.testing.assert_allclose(change.reshape(-1, 10), gradient, atol=1e-5)


def test_the_average_by_hand():
    """The decays are 1/10, 2/11 and then 0.15."""
    average = {"a": jnp.float32(0)}
    for n, expected in enumerate([0.9, 0.9 * 2 / 11 + 9 / 11, 0]):
        decay = min(0.15 if n == 2 else 1, (1 + n) / (10 + n))
        if n == 2:
            expected = float(average["a"]) * decay + (1 - decay)
        limit = 0.15 if n == 2 else 0.99
        average = step.update_average(limit, jnp.int32(n), average, {"a": jnp.float32(1)})
        np.testing.assert_allclose(average["a"], expected, rtol=1e-6)
    assert step.update_average(0.0, jnp.int32(0), None, {"a": jnp.float32(1)}) is None


def test_each_image_of_each_step_has_its_own_keys(tiny, monkeypatch):
    """Augmentation and dropout have keys that nothing else has."""
    recipe, keys_used = changed(tiny, network=LINEAR), []

    def spy_augment(augmentation, keys, images):
        keys_used.append(keys)
        return images

    def spy_apply(*arguments, keys, **options):
        keys_used.append(keys)
        return original(*arguments, keys=keys, **options)

    original = network.apply
    monkeypatch.setattr(step, "augment", spy_augment)
    monkeypatch.setattr(network, "apply", spy_apply)
    optimizer = make_optimizer(recipe.optimizer, make_schedule(Schedule(), 0.01, 1, 1))
    train_step = step.make_train_step(recipe, network.make_graph(recipe.network), optimizer)
    state = step.init_state(recipe, optimizer, root_key(0))
    images, labels = jnp.zeros((200, 28, 28, 1), jnp.uint8), jnp.zeros(200, jnp.int32)
    for _ in range(2):
        state, _ = train_step(state, images, labels, root_key(0))
    words = np.concatenate([jax.random.key_data(keys) for keys in keys_used])
    assert len(keys_used) == 4 and len(np.unique(words, axis=0)) == len(words) == 800


def test_streams_share_no_key():
    keys = [stream(root_key(0), which, n) for which in Stream for n in range(50)]
    data = {tuple(np.asarray(jax.random.key_data(key))) for key in keys}
    assert len(data) == len(keys)


def test_psum_tree():
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(AxisType.Auto,))

    def total(x):
        return step.psum_tree({"a": x, "n": x[0].astype(jnp.int32)}, "batch")

    sharded = jax.shard_map(total, mesh=mesh, in_specs=P("batch"), out_specs=P(), check_vma=False)
    expected = {"a": jnp.array([2.0, 4.0]), "n": jnp.int32(2)}
    chex.assert_trees_all_equal(sharded(jnp.arange(4.0)), expected, strict=True)

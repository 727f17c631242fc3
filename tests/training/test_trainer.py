"""The compiled functions: on any devices, in any form, they compute the same."""

import importlib.util
import json
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
from groups import changed, final, one, results, state_after
from jax import export

from benchmarks import compile_ahead
from jaxdrill import config
from jaxdrill.training import devices, fit, trainer
from jaxdrill.training.trainer import Trainer, root_keys


@pytest.fixture(scope="module")
def compiled(one_layer, digits):
    return Trainer(one_layer, digits)


@pytest.fixture(scope="module")
def pair(one_layer, digits):
    """Two seeds, one per device."""
    return Trainer(one_layer, digits, 2)


@pytest.fixture(scope="module")
def scanned(one_layer, digits):
    return Trainer(changed(one_layer, execution={"epoch": "scan"}), digits)


def calls(each):
    """Return the functions that an epoch calls, by attribute, with their numbers of steps."""
    step, found = 0, []
    while step < each.steps_per_epoch:
        function, num_steps = each.next_function(step)
        found.append((next(n for n, f in vars(each).items() if f is function), num_steps))
        step += num_steps
    return found


def test_no_program_is_queued_behind_another(one_layer, digits, monkeypatch):
    """On two CPU devices, queued programs with all-reduces can deadlock, and XLA then aborts."""
    monkeypatch.setattr(trainer, "EVALUATION_BATCH", 7)
    compiled, ready = Trainer(one_layer, digits), []
    compiled.compile()
    call = trainer.Function.__call__

    def spy(function, *arguments):
        arrays = [a for a in jax.tree.leaves(arguments[:2]) if hasattr(a, "is_ready")]
        ready.append(all(a.is_ready() for a in arrays))
        return call(function, *arguments)

    monkeypatch.setattr(trainer.Function, "__call__", spy)
    next(fit.fit(compiled, digits, [1]))
    assert len(ready) == 2 + 3 + 45 and all(ready)


def test_the_state_is_donated(compiled, digits):
    """The next state uses its memory."""
    keys = root_keys([1])
    state, orders = compiled.init(keys), compiled.shuffle(keys, jnp.int32(0))
    data = jax.device_put((digits.train_images, digits.train_labels), compiled.replicated)
    compiled.step(state, data, orders, keys)
    leaves = jax.tree.leaves((state.params, state.opt_state))
    assert all(leaf.is_deleted() for leaf in leaves)


def test_two_devices_compute_what_one_does(one_layer, digits, compiled):
    """Dropout, rotation, order and batch norm do not depend on how a batch is sharded."""
    single = Trainer(one_layer, digits, mesh=devices.make_mesh(1, 512, jax.devices()[:1]))
    assert (compiled.mesh.size, single.mesh.size) == (2, 1)
    assert compiled.rest_size % 2 == 1  # so the devices do not share the last batch
    two, alone = (results(each, digits, [1])[-1] for each in (compiled, single))
    chex.assert_trees_all_equal(two.train.count, alone.train.count)
    np.testing.assert_allclose(one(two.train).mean_loss, one(alone.train).mean_loss, rtol=1e-4)
    chex.assert_trees_all_close(two.state.params, alone.state.params, rtol=0, atol=1e-3)


def test_only_a_sharded_batch_needs_all_reduces(compiled, pair):
    """There are two per batch norm, and one for everything else."""

    def count(each):
        return each.step.compile().as_text().count(" all-reduce(")

    assert count(compiled) > 0 and count(pair) == 0


def test_a_scanned_epoch_computes_the_same(compiled, scanned, digits):
    assert calls(compiled) == [("step", 1), ("step", 1), ("rest", 1)]
    assert calls(scanned) == [("epoch", 2), ("rest", 1)]
    steps, scan = (final(each, digits, [1]) for each in (compiled, scanned))
    assert int(scan[0].count[0]) == 1437
    chex.assert_trees_all_close(steps, scan, rtol=2e-3, atol=1e-3)


def test_a_scan_may_resume_within_an_epoch(compiled, scanned, digits):
    whole = results(compiled, digits, [1])
    rest = results(scanned, digits, [1], state_after(compiled, digits, [1], 1))
    assert [result.step for result in rest] == [3, 6]
    assert int(one(rest[0].train).count) == 1437
    found, expected = (one(each[1].train).mean_loss for each in (rest, whole))
    np.testing.assert_allclose(found, expected, rtol=1e-3)


@pytest.mark.parametrize("convolution", ["im2col", pytest.param("xla", marks=pytest.mark.slow)])
def test_every_form_of_convolution_computes_the_same(tiny, digits, convolution):
    compiled = Trainer(tiny, digits)
    other = Trainer(changed(tiny, execution={"convolution": convolution}), digits)
    assert (compiled.execution.convolution, other.execution.convolution) == ("rows", convolution)
    found, expected = (final(each, digits, [1]) for each in (other, compiled))
    chex.assert_trees_all_close(found, expected, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("seeds", "execution"),
    [
        ([5, 6], {}),  # one per device
        pytest.param([5, 6, 7], {}, marks=pytest.mark.slow),  # three on one device, by vmap
        pytest.param(  # as on a GPU
            [5, 6, 7], {"epoch": "scan", "convolution": "im2col"}, marks=pytest.mark.slow
        ),
        pytest.param(  # two on each of two devices
            [5, 6, 7, 8], {"epoch": "scan", "convolution": "im2col"}, marks=pytest.mark.slow
        ),
    ],
)
def test_seeds_trained_together_equal_seeds_trained_alone(
    tiny, one_layer, digits, seeds, execution
):
    recipe = changed(tiny, batch_size=512) if "convolution" in execution else one_layer
    single = Trainer(recipe, digits)
    together = Trainer(changed(recipe, execution=execution), digits, len(seeds))
    group = final(together, digits, seeds)
    for n, seed in enumerate(seeds):
        mine = jax.tree.map(lambda a, n=n: a[n], group)
        alone = one(final(single, digits, [seed]))
        chex.assert_trees_all_close(mine, alone, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("precision", "algorithm"),
    [("float32", "HIGHEST"), ("tensorfloat32", "HIGH"), ("bfloat16", "DEFAULT")],
)
def test_matrix_products_have_the_precision_of_the_recipe(tiny, digits, precision, algorithm):
    step = Trainer(changed(tiny, execution={"matmul_precision": precision}), digits).step
    with devices.numerics(step.precision):
        text = step.jitted.lower(*step.arguments).as_text()
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    assert len(products) >= 5
    for line in products:
        assert re.findall(r"precision = \[(\w+), (\w+)\]", line) == [(algorithm, algorithm)]


def describe(step, seeds, platform, **flags):
    """Describe a recipe's functions for a platform that may be absent."""
    mesh = devices.make_mesh(1, 1, jax.devices()[:1])
    recipe = config.load(step, {key.replace("__", "."): value for key, value in flags.items()})
    return Trainer(recipe, compile_ahead.mnist(), seeds, mesh, platform)


AFFINE = {"augmentation__scale": "0.07", "augmentation__interpolation": "bilinear"}
FAST = [("tpu", "5", 8, AFFINE)]
SLOW = [
    (platform, *case)
    for platform in ("cuda", "rocm", "tpu")
    for case in (("5", 1, {}), ("5", 8, {}), ("4_adam", 8, {}), ("5", 8, AFFINE))
    if (platform, *case) not in FAST
]


@pytest.mark.parametrize(
    ("platform", "step", "seeds", "flags"),
    [*FAST, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)],
)
def test_every_function_is_lowered_for_absent_devices(platform, step, seeds, flags):
    described = describe(step, seeds, platform, **flags)
    assert calls(described) == [("epoch", 468), ("rest", 1)] and len(described.functions()) == 5
    with devices.numerics("float32"), jax.numpy_dtype_promotion("standard"):  # for optax's Adam
        for function in described.functions():
            exported = export.export(function.jitted, platforms=[platform])(*function.arguments)
            assert exported.platforms == (platform,)


def test_only_a_tpu_rotates_without_a_gather():
    """The other gathers select the batch from the training images and labels."""
    gathers = {}
    for platform in ("cuda", "tpu"):
        rest = describe("5", 1, platform).rest
        with devices.numerics("float32"):
            text = export.export(rest.jitted, platforms=[platform])(*rest.arguments).mlir_module()
        gathers[platform] = text.count('"stablehlo.gather"(')
    assert gathers["cuda"] == gathers["tpu"] + 1


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed (.[tpu])"
)
@pytest.mark.parametrize(("topology", "mesh"), [("v5e:1x1", [1, 1]), ("v5e:2x2", [2, 2])])
def test_an_evaluation_and_an_epoch_compile_for_a_tpu(topology, mesh):
    case = {"step": "step_2", "topology": topology, "mesh": mesh, "seeds": 2, "convolution": "auto"}
    command = [sys.executable, "-m", "benchmarks.compile_ahead", "--case", json.dumps(case)]
    environment = os.environ | compile_ahead.ENVIRONMENT
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert 1e8 < found["epoch"]["bytes"] < 2e9 and found["epoch"]["flop"] > 1e8
    assert found["epoch"]["roofline_seconds"] > found["epoch"]["bytes"] / 1e12

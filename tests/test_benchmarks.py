"""The benchmarks run, and the programs that they compare do the same work."""

import dataclasses
import json
import subprocess
import sys
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT

from benchmarks import (
    compile_ahead,
    false_verdicts,
    networks,
    other_contenders,
    precision,
    workers,
)
from jaxdrill import config, data
from jaxdrill.config.layers import count_parameters
from jaxdrill.nn.convolution import convolve


@pytest.mark.slow
def test_the_accelerator_benchmark_is_complete(tiny_recipe, tmp_path, digits):
    pack, out = tmp_path / "pack.npz", tmp_path / "out.json"
    np.savez(pack, **{name: getattr(digits, name) for name in data.FILES})
    command = [sys.executable, "-m", "benchmarks.accelerator", "--pack", pack, "--out", out]
    command += ["--step", tiny_recipe, "--drill", tiny_recipe]
    command += ["--epochs", 2, "--many", 2, "--drill-seeds", 2, "--ceiling", 64]
    subprocess.run(list(map(str, command)), check=True, cwd=ROOT, timeout=300)
    report = json.loads(out.read_text())
    assert "left_out" not in report and report["sha256"] == digits.sha256
    assert report["drill_tiny"]["seeds"] == 2 and np.shape(
        report["drill_tiny"]["test_accuracies"]
    ) == (2, 2)
    assert min(report["many_seeds"]["test_accuracies"][1]) > 0.2  # Chance is 0.1.
    assert report["summary"]["one_seed_seconds"] > 0 and report["summary"]["drill_seconds"] > 0
    assert report["work_of_a_step"]["flop"] > 1e6
    assert report["one_epoch_scan_xla_2_seeds"]["execution"]["epoch"] == "scan"


@pytest.mark.slow
@pytest.mark.parametrize("step", ["1", "3", "6"])
def test_contenders_train_the_same_network(step, digits):
    recipe = config.load(step)
    flax = other_contenders.Flax(recipe, digits)
    from flax import nnx

    expected = count_parameters(recipe.network)
    assert (
        sum(leaf.size for leaf in jax.tree.leaves(nnx.state(flax.network, nnx.Param))) == expected
    )
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (.[bench])")
    network = networks.torch_network(recipe)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.slow
def test_contenders_rotate_each_image_once_per_epoch(digits):
    recipe = config.load("5")
    some = {key: getattr(digits, key)[:300] for key in ("train_images", "train_labels", "groups")}
    few = dataclasses.replace(digits, **some)
    batches = list(other_contenders.Flax(recipe, few).batches())
    assert [len(labels) for _, labels in batches] == [128, 128, 44]
    assert np.array_equal(
        np.sort(np.concatenate([y for _, y in batches])), np.sort(few.train_labels)
    )
    assert batches[0][0].shape == (128, 28, 28, 1) and batches[0][0].dtype == np.float32


@pytest.mark.slow
def test_two_commits_are_compared(mnist_dir, tmp_path):
    """Compare this commit with itself, in two rounds of one batch each."""
    setting = workers.Setting(mnist_dir, 2, (), ROOT)
    started = workers.start(setting, setting.names(), "2", 64)
    found = workers.rounds(started, "64", setting.rounds)
    assert list(found) == ["baseline", "jaxdrill"] and found["jaxdrill"]["ratio"] == 1
    assert len(found["baseline"]["seconds"]) == 2 and found["baseline"]["ratio"] > 0
    assert all(peak > 1e8 for peak in workers.peaks(started).values())


def test_convolution_rounds_its_factors_forward_and_backward():
    def bfloat16(a):
        return a.astype(jnp.bfloat16).astype(jnp.float32)

    x, kernel, dy = (
        jax.random.normal(jax.random.key(n), shape)
        for n, shape in enumerate([(3, 8, 8, 4), (3, 3, 3, 5), (5, 6, 6, 4)])
    )

    @partial(jax.jit, static_argnums=0)
    def value_and_gradients(function, x, kernel, dy):
        y, gradients = jax.vjp(lambda *a: function(*a, 0, "xla"), x, kernel)
        return y, gradients(dy)

    y, gradients = value_and_gradients(precision.convolve, x, kernel, dy)
    of_rounded = value_and_gradients(convolve, *map(bfloat16, (x, kernel, dy)))
    chex.assert_trees_all_equal((y, gradients), of_rounded)
    assert not np.array_equal(y, convolve(x, kernel, 0, "xla"))


def test_the_roofline_time_of_the_drill():
    """Ten seeds of each recipe, with ten batches of evaluation per epoch."""
    one = {"seeds": 1, "convolution": "auto", "topology": "v5e:1x1"}
    results = [
        {
            "step": step,
            **one,
            "epoch": {"roofline_seconds": 1e-3},
            "evaluation": {"roofline_seconds": 1e-2},
        }
        for step in config.steps()
    ]
    # The seven recipes of steps 1 to 5, then 6, 6_fast, 6_one and 6_small.
    batches = 7 * 20 * 469 + 15 * 938 + 5 * 938 + 1_875 + 15 * 1_875
    expected = 10 * (batches * 1e-3 + (7 * 20 + 15 + 5 + 1 + 15) * 10 * 1e-2) / 60
    assert compile_ahead.drill_minutes(results) == pytest.approx(expected)
    assert compile_ahead.drill_minutes(results[1:]) is None


def test_every_recipe_was_compiled_for_a_tpu():
    """Check the bytes per training step and the compiler's memory: one seed, one v5e chip."""
    found = json.loads((ROOT / "results" / "benchmarks" / "tpu_v5e_compiled.json").read_text())
    alone = {"seeds": 1, "convolution": "auto", "topology": "v5e:1x1", "mesh": [1, 1]}
    results = {each["step"]: each for each in found["results"] if alone.items() <= each.items()}
    assert set(results) == set(config.steps())
    for step, each in results.items():
        # Step 1 is limited by its multiplications, not by memory bandwidth.
        limit = 820e6 if step == "step_1" else 500e6 if step.startswith("step_6") else 350e6
        assert each["epoch"]["bytes"] < limit and each["peak_host_bytes"] < 4e9, step
    assert found["drill_roofline_minutes"] == pytest.approx(
        compile_ahead.drill_minutes(found["results"])
    )


def test_simulated_drills_are_counted():
    """In 20 drills of 10 seeds, a gain of 0.3 percentage points is always significant."""
    found = false_verdicts.count(20, 10, 0.003, seed=0)
    assert (found["drills"], found["found"], found["means"], found["differences"]) == (
        20,
        20,
        220,
        200,
    )
    assert 200 <= found["means_covered"] < 220 and 180 <= found["differences_covered"] < 200
    # 1.4841 x 0.05 percentage points x sqrt(2)
    assert np.median(found["detectable"]) == pytest.approx(0.0010494, rel=0.1)
    (*_, last) = false_verdicts.simulate(3, 0.0, np.random.default_rng(0))
    assert last.change.tests == 10 and last.change.baseline == "step_5"


def test_the_measured_error_rates_are_nominal():
    """Check the false verdicts (5 %), the 95 % intervals, and the power (80 %)."""
    file = ROOT / "results" / "benchmarks" / "false_verdicts.json"
    rows = json.loads(file.read_text())["results"]
    assert [row["seeds"] for row in rows] == [3, 10, 30]
    assert all(row["drills"] >= 5000 for row in rows)
    for row in rows:
        assert row["drills_with_a_false_verdict_percent"] <= 5
        assert 94 <= row["coverage_of_means_percent"] <= 96
        assert 94 <= row["coverage_of_differences_percent"] <= 96
        assert 78 <= row["detected_percent"] <= 82

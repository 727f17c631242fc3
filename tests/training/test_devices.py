"""Sharing seeds and batches between devices, and compiling for them."""

import json
import os
import subprocess
import sys

import jax
import pytest
from conftest import ROOT

from jaxdrill import config
from jaxdrill.config.config import Execution
from jaxdrill.errors import RunError
from jaxdrill.main import main
from jaxdrill.training import devices


@pytest.mark.parametrize(
    ("seeds", "batch_size", "shape"),
    [
        (1, 128, (1, 2)),
        (1, 64, (1, 2)),
        (1, 63, (1, 1)),
        (1, 33, (1, 1)),
        (1, 1, (1, 1)),
        (1, 1001, (1, 1)),
        (2, 128, (2, 1)),
        (3, 128, (1, 2)),
        (4, 1, (2, 1)),
    ],
)
def test_devices_share_seeds_then_a_batch_evenly_or_not_at_all(seeds, batch_size, shape):
    mesh = devices.make_mesh(seeds, batch_size)
    assert (mesh.axis_names, mesh.devices.shape) == (("seeds", "batch"), shape)


@pytest.mark.parametrize(
    ("seeds", "batch_size", "count", "shape"),
    [
        (3, 128, 4, (3, 1)),
        (2, 128, 4, (2, 2)),
        (1, 128, 8, (1, 4)),
        (10, 128, 8, (5, 1)),
        (2, 96, 8, (2, 3)),
    ],
)
def test_meshes_of_more_devices(seeds, batch_size, count, shape):
    """As many as divide the seeds, then as many for a seed as leave each 32 images; in order, and no more."""
    found = devices.make_mesh(
        seeds, batch_size, [Device("gpu", None, n) for n in range(count)]
    ).devices
    assert [device.id for device in found.ravel()] == list(range(shape[0] * shape[1]))
    assert found.shape == shape


@pytest.mark.parametrize(("batch_size", "shards"), [(128, 1), (256, 2), (512, 4)])
def test_a_tpus_shard_fills_its_vectors(batch_size, shards):
    assert (
        devices.make_mesh(1, batch_size, [Device("tpu", None, n) for n in range(4)]).shape["batch"]
        == shards
    )


def test_too_small_a_shard_is_not_worth_a_device(monkeypatch):
    monkeypatch.setitem(devices.MIN_SHARD, "cpu", 65)
    assert devices.make_mesh(1, 128).size == 1
    assert devices.make_mesh(1, 128, jax.devices()[:1]).size == 1


@pytest.mark.parametrize(
    ("count", "num_devices", "per_device", "together", "sizes"),
    [
        (3, 4, 1, 0, [3]),  # a seed a device, and a device idle
        (3, 2, 1, 0, [2, 1]),  # in turn, never two on a CPU device
        (5, 4, 1, 0, [4, 1]),
        (5, 2, 1, 1, [1, 1, 1, 1, 1]),
        (5, 2, 1, 4, [2, 2, 1]),
        (10, 8, 32, 0, [10]),  # two on each of five
        (11, 8, 32, 0, [10, 1]),
        (40, 1, 32, 0, [32, 8]),
        (10, 1, 4, 0, [4, 4, 2]),
        (6, 1, 32, 4, [4, 2]),
    ],
)
def test_seeds_are_grouped_evenly(count, num_devices, per_device, together, sizes):
    groups = devices.plan_groups(range(7, 7 + count), num_devices, per_device, together)
    assert [len(group) for group in groups] == sizes
    assert [seed for group in groups for seed in group] == list(range(7, 7 + count))
    for size in sizes:
        used = max(n for n in range(1, num_devices + 1) if size % n == 0)
        assert size // used <= per_device


def test_strategies_by_platform():
    best = {"cpu": ("steps", "rows"), "gpu": ("scan", "im2col"), "tpu": ("scan", "xla")}
    for platform, (epoch, convolution) in best.items():
        expected = Execution(epoch=epoch, convolution=convolution)
        assert devices.resolve(Execution(), platform) == expected
    own = Execution(epoch="steps", seeds_together=5, convolution="xla", matmul_precision="bfloat16")
    assert devices.resolve(own, "tpu") == own


class Device:
    """One that reports so many bytes of memory, or nothing."""

    def __init__(self, platform, limit, number=0):
        self.platform, self.limit, self.id, self.process_index = platform, limit, number, 0
        self.device_kind, self.client = platform, None

    def memory_stats(self):
        return self.limit and {"bytes_limit": self.limit}


def test_as_many_seeds_as_the_memory_holds():
    large, small = config.load("1"), config.load("5")
    assert devices.max_seeds_per_device(large, Device("cpu", 2**40)) == 1
    assert devices.max_seeds_per_device(small, Device("gpu", None)) == 32
    assert devices.max_seeds_per_device(small, Device("gpu", 80 * 2**30)) == 32
    assert devices.max_seeds_per_device(large, Device("gpu", 80 * 2**30)) == 32
    fitting = devices.max_seeds_per_device(large, Device("gpu", 8 * 2**30))
    assert 4 <= fitting < 32
    assert 32 * devices.seed_bytes(large, "im2col") > 10 * 2**30
    assert devices.max_seeds_per_device(large, Device("gpu", 2**20)) == 1
    assert devices.max_seeds_per_device(small, Device("tpu", None)) == 1
    together = config.load("1", {"execution.seeds_together": "30"})
    assert (
        fitting < devices.max_seeds_per_device(together, Device("tpu", 8 * 2**30)) < 30
    )  # xla, not im2col


@pytest.mark.parametrize(
    ("device", "seeds", "lower"),
    [
        (Device("gpu", 80 * 2**30), 30, "--execution.seeds-together 15"),
        (Device("gpu", 2 * 2**30), 30, "--execution.seeds-together 2"),
        (Device("tpu", 2 * 2**30), 30, "--execution.seeds-together 1"),
        (Device("cpu", None), 8, "--execution.seeds-together 1"),
        (Device("cpu", None), 1, "a smaller --batch-size"),
    ],
)
def test_a_device_out_of_memory_is_one_line_with_what_fits(device, seeds, lower, monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [device])
    message = f"out of memory for {seeds} seed.*. Pass {lower}\\.$"
    with (
        pytest.raises(RunError, match=message) as error,
        devices.explain_out_of_memory(config.load("1"), seeds),
    ):
        raise jax.errors.JaxRuntimeError(
            "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 bytes.\nx"
        )
    assert "\n" not in str(error.value)
    with (
        pytest.raises(jax.errors.JaxRuntimeError),
        devices.explain_out_of_memory(config.load("1"), seeds),
    ):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")


@pytest.mark.parametrize(
    ("platform", "error", "line"),
    [
        (
            "",
            RuntimeError("ABORTED: The TPU is already in use by process with pid 7."),
            "Another process uses the TPU (ABORTED: The TPU is already in use by process with pid 7). End that process",
        ),
        (
            "cuda",
            AssertionError(),
            "JAX cannot use the platform cuda: no plugin for it is installed. "
            "Install JAX for that platform",
        ),
        (
            "",
            RuntimeError("No devices"),
            "JAX cannot use the platform of this machine: No devices. "
            "Install JAX for that platform",
        ),
    ],
)
def test_no_device_is_one_line(platform, error, line, monkeypatch):
    def refuse():
        raise error

    monkeypatch.setattr(jax, "devices", refuse)
    before = jax.config.jax_platforms
    jax.config.update("jax_platforms", platform)
    try:
        with pytest.raises(RunError) as raised:
            devices.available_devices()
    finally:
        jax.config.update("jax_platforms", before)
    assert f"{raised.value}" == f"{line}, or set JAX_PLATFORMS=cpu."


@pytest.mark.parametrize("platform", ["tpu", "cuda", "abacus"])
def test_the_command_without_the_platform_asked_for(platform, tmp_path):
    command = [
        sys.executable,
        "-m",
        "jaxdrill.main",
        "--data",
        "digits",
        "--workdir",
        f"{tmp_path / 'run'}",
    ]
    environment = os.environ | {"JAX_PLATFORMS": platform, "TPU_SKIP_MDS_QUERY": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1 and platform in done.stderr
    assert "Traceback" not in done.stderr and done.stderr.splitlines()[-1].startswith("jaxdrill: ")
    assert not (tmp_path / "run").exists()


def test_windows_has_no_such_library(monkeypatch):
    def refuse(name):
        raise TypeError("LoadLibrary() argument 1 must be str, not None")

    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(devices.ctypes, "CDLL", refuse)
    devices.set_up(0)


def test_a_process_that_runs_jax_already_is_told():
    code = """
import jax
jax.devices()
from jaxdrill.training import devices
devices.cores = lambda: 3
devices.set_up(0)
"""
    environment = {
        k: v for k, v in os.environ.items() if k not in ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS")
    }
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=ROOT, env=environment, capture_output=True
    )
    assert b"JAX already runs with 1 device(s) instead of 3" in done.stderr


@pytest.mark.parametrize(("activation_bytes", "calls"), [(2**26, 2), (2**26 + 1, 3)])
def test_memory_is_kept_between_steps(activation_bytes, calls):
    given = []
    devices.keep_memory(lambda option, value: given.append((option, value)) or 1, activation_bytes)
    assert given == [(-3, 2**30), (-1, 2**31 - 1), (-8, 1)][:calls]


@pytest.mark.parametrize(
    ("environment", "count"),
    [
        ({}, "len(__import__('os').sched_getaffinity(0))"),
        ({"JAX_NUM_CPU_DEVICES": "3"}, "3"),
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=5"}, "5"),
    ],
)
def test_each_core_is_a_device_unless_the_user_counts(environment, count, monkeypatch):
    for name in ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    code = f"""
import jax
from jaxdrill.training import devices
devices.set_up(0)
assert len(jax.devices("cpu")) == {count}, jax.devices("cpu")
devices.set_up(0)  # once more, with JAX running: nothing happens
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("own", [True, False])
def test_compiled_programs_are_kept_where_the_user_says(own, monkeypatch, tmp_path):
    folder = tmp_path / "mine" if own else tmp_path / "jaxdrill"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if own:
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(folder))
    else:
        monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    code = f"""
import jax
from jaxdrill.training import devices
devices.set_up(0)
assert jax.config.jax_compilation_cache_dir.startswith({str(folder)!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_a_place_to_keep_them_programs_are_compiled_anew(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    code = """
import jax
from jaxdrill.training import devices
devices.set_up(0)
assert jax.config.jax_compilation_cache_dir is None
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_any_number_of_devices_trains_alike(tiny_recipe, tmp_path):
    """50 steps with batch norm and dropout on 1, 2, 4 and 8 devices are equal but for rounding, which grows.

    Pools average: which of two nearly equal values is the maximum may depend on rounding, and changes whole gradients.
    """
    recipe = tmp_path / "averages.toml"
    recipe.write_text(tiny_recipe.read_text().replace('"max"', '"average"'))
    code = """
import jax, numpy as np, sys
from dataclasses import replace
from jaxdrill import config, data
from jaxdrill.training import devices
from jaxdrill.training.fit import fit
from jaxdrill.training.trainer import Trainer
jax.config.update("jax_num_cpu_devices", 8)
recipe = config.load(sys.argv[1], {"batch_size": "256", "epochs": "10", "optimizer.learning_rate": "0.01"})
digits = data.load("digits")
digits = replace(digits, **{key: getattr(digits, key)[:1280] for key in ("train_images", "train_labels", "groups")})
found = {}
for count in (1, 2, 4, 8):
    mesh = devices.make_mesh(1, 256, jax.devices()[:count])
    assert mesh.size == count
    losses = []
    for result in fit(Trainer(recipe, digits, 1, mesh), digits, [3], watch=lambda p, s, loss, t: losses.append(loss[0])):
        pass
    found[count] = np.array(losses), jax.device_get((result.state, result.logits))
    assert len(losses) == 50 and losses[-1] < losses[0]
for losses, state in found.values():
    np.testing.assert_allclose(losses, found[1][0], rtol=2e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=5e-4, atol=5e-4), state, found[1][1])
"""
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", code, recipe], check=True, cwd=ROOT, env=environment)


@pytest.mark.slow
def test_a_run_continues_on_another_number_of_devices(tiny_recipe, tmp_path, capsys):
    """And says that its results are then not identical to those of the other."""
    train = ["--step", str(tiny_recipe), "--workdir", str(tmp_path), "--epochs"]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "4"}
    subprocess.run(
        [sys.executable, "-m", "jaxdrill.main", *train, "1"], check=True, cwd=ROOT, env=environment
    )
    assert main([*train, "2"]) == 0
    said = "digits seed 1: The devices changed from 1 x 4 cpu to 1 x 2 cpu. "
    said += "Results are statistically equivalent to those of one layout, not identical."
    assert said in capsys.readouterr().out
    assert main(["--step", str(tiny_recipe), "--workdir", str(tmp_path / "other")]) == 0
    found, other = (
        [
            json.loads(line)["train_loss"]
            for line in (folder / "metrics.jsonl").read_text().splitlines()
        ]
        for folder in (tmp_path, tmp_path / "other")
    )
    assert found == pytest.approx(other, rel=2e-3)

"""Settings of the process for CPU devices, caches and memory; other device counts."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

from jaxdrill.main import main
from jaxdrill.training import devices


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
    """50 steps on 1, 2, 4 and 8 devices are equal except for rounding, which grows.

    The pools compute averages, because rounding can decide which of two values is the maximum.
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
flags = {"batch_size": "256", "epochs": "10", "optimizer.learning_rate": "0.01"}
recipe = config.load(sys.argv[1], flags)
digits = data.load("digits")
names = "train_images", "train_labels", "groups"
digits = replace(digits, **{name: getattr(digits, name)[:1280] for name in names})
found = {}
for count in (1, 2, 4, 8):
    mesh = devices.make_mesh(1, 256, jax.devices()[:count])
    assert mesh.size == count
    losses, trainer = [], Trainer(recipe, digits, 1, mesh)
    for result in fit(trainer, digits, [3], watch=lambda p, s, loss, t: losses.append(loss[0])):
        pass
    found[count] = np.array(losses), jax.device_get((result.state, result.logits))
    assert len(losses) == 50 and losses[-1] < losses[0]
for losses, state in found.values():
    np.testing.assert_allclose(losses, found[1][0], rtol=2e-5)
    for a, b in zip(*map(jax.tree.leaves, (state, found[1][1])), strict=True):
        np.testing.assert_allclose(a, b, rtol=5e-4, atol=5e-4)
"""
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", code, recipe], check=True, cwd=ROOT, env=environment)


@pytest.mark.slow
def test_a_run_continues_on_another_number_of_devices(tiny_recipe, tmp_path, capsys):
    """And says that its results are then not identical to those of the other."""
    recipe = ["--step", str(tiny_recipe), "--batch-size", "512", "--workdir"]
    train = [*recipe, str(tmp_path), "--epochs"]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "4"}
    subprocess.run(
        [sys.executable, "-m", "jaxdrill.main", *train, "1"], check=True, cwd=ROOT, env=environment
    )
    assert main([*train, "2"]) == 0
    said = "digits seed 1: The devices changed from 1 x 4 cpu to 1 x 2 cpu. "
    said += "Results are equal in distribution to those of one layout, but not bit-identical."
    assert said in capsys.readouterr().out
    assert main([*recipe, str(tmp_path / "other")]) == 0
    found, other = (
        [
            json.loads(line)["train_loss"]
            for line in (folder / "metrics.jsonl").read_text().splitlines()
        ]
        for folder in (tmp_path, tmp_path / "other")
    )
    assert found == pytest.approx(other, rel=2e-3)

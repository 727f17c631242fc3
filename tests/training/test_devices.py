"""Sharing seeds and batches between devices, and compiling for them."""

import subprocess
import sys

import jax
import pytest

from jaxdrill import parallel
from jaxdrill.config import Execution


@pytest.mark.parametrize(
    ("seeds", "batch_size", "shape"),
    [(1, 128, (1, 2)), (1, 64, (1, 2)), (1, 63, (1, 1)), (1, 33, (1, 1)), (1, 1, (1, 1)), (1, 1001, (1, 1)),
     (2, 128, (2, 1)), (3, 128, (1, 2)), (4, 1, (2, 1))],
)  # fmt: skip
def test_devices_share_seeds_then_a_batch_evenly_or_not_at_all(seeds, batch_size, shape):
    mesh = parallel.make_mesh(seeds, batch_size)
    assert (mesh.axis_names, mesh.devices.shape) == (("seeds", "batch"), shape)


def test_too_small_a_share_is_not_worth_a_device(monkeypatch):
    monkeypatch.setattr(parallel, "SMALLEST_SHARE", 65)
    assert parallel.make_mesh(1, 128).size == 1


def test_strategies_by_backend(monkeypatch):
    assert parallel.resolve(Execution(), 8) == Execution("steps", 2, "pairs")
    assert parallel.resolve(Execution("chunks", 5, "plain"), 8) == Execution("chunks", 5, "plain")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert parallel.resolve(Execution(), 8) == Execution("scan", 32, "patches")
    assert parallel.resolve(Execution(), 1) == Execution("scan", 32, "plain")
    assert parallel.compiler_options.__wrapped__() == {}


def test_an_option_that_this_compiler_lacks_is_left_out(monkeypatch):
    monkeypatch.setattr(parallel, "CPU_OPTIONS", {"xla_no_such_option": True, "xla_cpu_enable_fast_min_max": False})
    assert parallel.compiler_options.__wrapped__() == {"xla_cpu_enable_fast_min_max": False}


@pytest.mark.parametrize(("activation_bytes", "calls"), [(2**26, 2), (2**26 + 1, 3)])
def test_memory_is_kept_between_steps(activation_bytes, calls):
    given = []
    parallel._keep_memory(lambda option, value: given.append((option, value)) or 1, activation_bytes)
    assert given == [(-3, 2**30), (-1, 2**31 - 1), (-8, 1)][:calls]


@pytest.mark.parametrize(
    ("environment", "count"),
    [({}, "len(__import__('os').sched_getaffinity(0))"), ({"JAX_NUM_CPU_DEVICES": "3"}, "3"),
     ({"XLA_FLAGS": "--xla_force_host_platform_device_count=5"}, "5")],
)  # fmt: skip
def test_each_core_is_a_device_unless_the_user_counts(environment, count, monkeypatch):
    for name in ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    code = f"""
import jax
from jaxdrill import parallel
parallel.set_up(0)
assert len(jax.devices("cpu")) == {count}, jax.devices("cpu")
parallel.set_up(0)  # once more, with JAX running: nothing happens
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("own", [True, False])
def test_compiled_programs_are_kept_where_the_user_says(own, monkeypatch, tmp_path):
    folder = tmp_path / "mine" if own else tmp_path / "jaxdrill"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if own:
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(folder))
    code = f"""
import jax
from jaxdrill import parallel
parallel.set_up(0)
assert jax.config.jax_compilation_cache_dir.startswith({str(folder)!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_a_place_to_keep_them_programs_are_compiled_anew(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    code = """
import jax
from jaxdrill import parallel
parallel.set_up(0)
assert jax.config.jax_compilation_cache_dir is None
"""
    subprocess.run([sys.executable, "-c", code], check=True)

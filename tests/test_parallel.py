"""Sharing batches between devices."""

import subprocess
import sys

import pytest

from jaxdrill import parallel


@pytest.mark.parametrize(("batch_size", "devices"), [(128, 2), (64, 2), (63, 1), (33, 1), (1, 1), (1001, 1)])
def test_devices_share_a_batch_evenly_or_not_at_all(batch_size, devices):
    mesh = parallel.make_mesh(batch_size)
    assert (mesh.axis_names, mesh.size) == (("batch",), devices)


def test_too_small_a_share_is_not_worth_a_device(monkeypatch):
    monkeypatch.setattr(parallel, "SMALLEST_SHARE", 65)
    assert parallel.make_mesh(128).size == 1


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
parallel.use_cpu_cores()
assert len(jax.devices("cpu")) == {count}, jax.devices("cpu")
parallel.use_cpu_cores()  # once more, with JAX running: nothing happens
"""
    subprocess.run([sys.executable, "-c", code], check=True)

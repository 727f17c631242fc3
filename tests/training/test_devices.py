"""Sharing seeds and batches between devices, and compiling for them."""

import os
import subprocess
import sys

import jax
import pytest
from conftest import ROOT

from jaxdrill import config
from jaxdrill.config.config import Execution
from jaxdrill.errors import RunError, UsageError
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
    """Devices divide the seeds first, then a batch into shards of at least 32 images."""
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


@pytest.mark.parametrize(
    ("seeds", "batch_size", "idle"),
    [(1, 128, None), (2, 1, 2), (3, 128, 3), (1, 33, 1), (6, 31, 3), (5, 128, None)],
)
def test_a_process_without_a_device_is_rejected(seeds, batch_size, idle):
    """Each of four processes has one device."""
    four = [Device("gpu", None, n, process=n) for n in range(4)]
    if idle is None:
        assert devices.make_mesh(seeds, batch_size, four).size == 4
        return
    with pytest.raises(UsageError, match=f"of 4 devices, so process {idle} has nothing to comp"):
        devices.make_mesh(seeds, batch_size, four)


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

    def __init__(self, platform, limit, number=0, process=0):
        self.platform, self.limit, self.id, self.process_index = platform, limit, number, process
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
            "Another process uses the TPU "
            "(ABORTED: The TPU is already in use by process with pid 7)"
            ". End that process",
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

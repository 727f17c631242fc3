"""The devices of this machine, JAX's settings for them, and the layout of seeds and batches."""

import contextlib
import ctypes
import hashlib
import importlib
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from jaxdrill.config.config import Config, Execution
from jaxdrill.config.layers import infer_shapes
from jaxdrill.errors import RunError, UsageError, print_error

# Minimum images per device. With fewer, communication costs more than sharding saves. The vectors
# of a TPU hold 128 images and are padded if there are fewer. The value for GPUs is a guess.
MIN_SHARD = {"cpu": 16, "gpu": 32, "tpu": 128}
MAX_SEEDS_PER_DEVICE = 32  # on GPU and TPU
MEMORY_FRACTION = 0.8  # of a device's memory that its seeds may need
ARENA_BYTES = 2**26  # size of glibc's memory for one thread; larger arrays do not fit into it


def available_devices() -> Sequence[Any]:
    """Return the devices of the backend in use.

    Raises:
        RunError: the requested platform has no device, or another process uses the devices.
    """
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:  # without a GPU plugin JAX only asserts
        reason = f"{error}".strip().rstrip(".") or "no plugin for it is installed"
        if "already in use" in reason or "lockfile" in reason:
            what = f"Another process uses the TPU ({reason}). End that process"
        else:
            name = jax.config.jax_platforms or "of this machine"  # type: ignore
            what = f"JAX cannot use the platform {name}: {reason}. Install JAX for that platform"
        raise RunError(f"{what}, or set JAX_PLATFORMS=cpu.") from error


def resolve(execution: Execution, platform: str) -> Execution:
    """Replace every `auto` by the best value for a platform (benchmarks/NOTES.md)."""
    best = {
        "epoch": "steps" if platform == "cpu" else "scan",
        "convolution": {"cpu": "rows", "tpu": "xla"}.get(platform, "im2col"),
    }
    automatic = {name: value for name, value in best.items() if getattr(execution, name) == "auto"}
    return execution.model_copy(update=automatic)


def seed_bytes(config: Config, convolution: str) -> int:
    """Estimate the memory that training one seed needs, bytes.

    Each activation needs its value, its gradient and two intermediates. `im2col` also needs the
    patches of the largest layer and their gradient. The estimate is 1.0 to 2.2 times what XLA
    allocates on CPU for steps 1 and 5 (benchmarks/NOTES.md).
    """
    shapes = infer_shapes(config.network)
    patches = max(after.patches - before.patches for before, after in pairwise(shapes))
    values = 4 * shapes[-1].activations + (2 * patches if convolution == "im2col" else 0)
    return 4 * config.batch_size * values


def max_seeds_per_device(config: Config, device: Any) -> int:
    """Return the number of seeds that a device trains together.

    It is 1 on CPU, where `vmap` is slow. It is 1 on TPU, where one seed fits into fast memory
    (benchmarks/NOTES.md), unless `seeds_together` is set. Otherwise it is what the device's memory
    holds, at most MAX_SEEDS_PER_DEVICE.
    """
    if device.platform == "cpu":
        return 1
    if device.platform == "tpu" and not config.execution.seeds_together:
        return 1
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if not limit:
        return MAX_SEEDS_PER_DEVICE
    convolution = resolve(config.execution, device.platform).convolution
    fitting = int(MEMORY_FRACTION * limit) // seed_bytes(config, convolution)
    return max(1, min(MAX_SEEDS_PER_DEVICE, fitting))


def plan_groups(
    seeds: Sequence[int], num_devices: int, max_per_device: int, max_together: int = 0
) -> list[list[int]]:
    """Split seeds into groups that are trained together.

    Each device that a group uses trains the same number of its seeds.

    Args:
        seeds: in order.
        num_devices: available devices.
        max_per_device: maximum number of seeds on a device.
        max_together: maximum number of seeds in a group; 0 for no limit.
    """
    groups, rest = [], list(seeds)
    while rest:
        size = min(len(rest), num_devices * max_per_device, max_together or len(rest))
        per_device = -(-size // num_devices)
        size = size // per_device * per_device
        groups.append(rest[:size])
        rest = rest[size:]
    return groups


def make_mesh(num_seeds: int, batch_size: int, devices: Sequence[Any] | None = None) -> Mesh:
    """Return a mesh with the axes `seeds` and `batch`.

    It has the largest number of devices that divides the seeds, and then the largest that divides a
    batch into shards of at least MIN_SHARD images.

    Raises:
        UsageError: a process has none of these devices.
    """
    devices = jax.devices() if devices is None else devices
    over_seeds = max(n for n in range(1, len(devices) + 1) if num_seeds % n == 0)
    min_shard = MIN_SHARD.get(devices[0].platform, 32)
    max_shards = max(1, min(len(devices) // over_seeds, batch_size // min_shard))
    shards = max(n for n in range(1, max_shards + 1) if batch_size % n == 0)
    used = np.array(devices[: over_seeds * shards]).reshape(over_seeds, shards)
    working = {device.process_index for device in used.flat}
    if idle := {device.process_index for device in devices} - working:
        work = f"{num_seeds} seed(s) with batches of {batch_size} images use {used.size}"
        raise UsageError(
            f"{work} of {len(devices)} devices, so process {min(idle)} has nothing to compute. "
            "Start fewer processes, or pass another --seeds, --batch-size or "
            "--execution.seeds-together."
        )
    return Mesh(used, ("seeds", "batch"), axis_types=(AxisType.Auto, AxisType.Auto))


@contextlib.contextmanager
def explain_out_of_memory(config: Config, num_seeds: int) -> Iterator[None]:
    """Raise a RunError that names a smaller setting if a device is out of memory."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        found = available_devices()
        fitting = max(1, min(num_seeds // 2, len(found) * max_seeds_per_device(config, found[0])))
        fix = f"--execution.seeds-together {fitting}" if num_seeds > 1 else "a smaller --batch-size"
        what = f"{num_seeds} seed(s) with batches of {config.batch_size}"
        raise RunError(f"the device is out of memory for {what}. Pass {fix}.") from error


@contextlib.contextmanager
def single_precision() -> Iterator[None]:
    """Disable 64-bit types, so that JAX_ENABLE_X64 does not change results. Also a decorator."""
    if hasattr(jax, "enable_x64"):
        context = jax.enable_x64(False)
    else:  # before jax 0.8
        context = importlib.import_module("jax.experimental").disable_x64()
    with context:
        yield


@contextlib.contextmanager
def numerics(precision: str) -> Iterator[None]:
    """Set what decides the bits of a traced function, whatever the environment says."""
    with (
        single_precision(),
        jax.default_matmul_precision(precision),
        jax.threefry_partitionable(True),
    ):
        yield


def set_up_for(configs: Sequence[Config]) -> None:
    """Call `set_up` for the config with the largest activations.

    Raises:
        UsageError: a network does not fit the images.
    """
    set_up(max(4 * infer_shapes(c.network)[-1].activations * c.batch_size for c in configs))


def set_up(activation_bytes: int) -> None:
    """Make each CPU core a device, cache compiled programs on disk, and keep freed memory.

    These settings hold for the whole process, so the commands call this function and the Python API
    does not. Settings by the user take precedence. Call it before JAX runs: later the number of
    devices cannot change, and a warning says so.

    Args:
        activation_bytes: size of the outputs of all layers for one batch.
    """
    make_cores_devices()
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore
        # Without a writable folder, or without a home folder, every start compiles.
        with contextlib.suppress(OSError, RuntimeError):
            (folder := _cache_folder()).mkdir(parents=True, exist_ok=True)
            jax.config.update("jax_compilation_cache_dir", str(folder))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    tune_memory(activation_bytes)


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def make_cores_devices() -> None:
    """Make each CPU core a device, unless the user has set the number of devices.

    Two devices of one core take about half the time of one device with two cores on these small
    layers: a core does not wait for the other one after each operation.
    """
    by_user = "device_count" in os.environ.get("XLA_FLAGS", "")
    if by_user or jax.config.jax_num_cpu_devices > 0:  # type: ignore
        return
    try:
        jax.config.update("jax_num_cpu_devices", cores())
    except RuntimeError:
        count = len(jax.local_devices())
        if jax.default_backend() == "cpu" and count != cores():
            print_error(
                f"warning: JAX already runs with {count} device(s) instead of {cores()}, so "
                "results are equal in distribution, but not bit-identical. Call this first, or "
                f"set JAX_NUM_CPU_DEVICES={cores()}."
            )


def tune_memory(activation_bytes: int) -> bool:
    """Call `keep_memory` with the process's glibc. Return False if it has another C library."""
    try:
        mallopt = ctypes.CDLL(None).mallopt if sys.platform == "linux" else None
    except (OSError, AttributeError):
        mallopt = None
    if mallopt:
        keep_memory(mallopt, activation_bytes)
    return mallopt is not None


def keep_memory(mallopt: Callable[[int, int], int], activation_bytes: int) -> None:
    """Make glibc keep the memory of freed arrays, so that each step need not request it again."""
    mallopt(-3, 2**30)  # M_MMAP_THRESHOLD, bytes
    mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD, bytes
    if activation_bytes > ARENA_BYTES:
        # M_ARENA_MAX: all threads share the one arena that can grow. Small arrays take 10 % longer.
        mallopt(-8, 1)


def _cache_folder() -> Path:
    """Return a folder for this kind of processor. Programs for another one may crash."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        flags = next(line for line in lines if line.startswith("flags"))
    except (OSError, ValueError, StopIteration):
        flags = platform.processor()
    kind = hashlib.sha256(flags.encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "jaxdrill" / f"xla_{kind}"

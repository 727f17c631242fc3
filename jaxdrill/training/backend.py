"""JAX made ready for this machine, and the devices that it has."""

import contextlib
import ctypes
import hashlib
import importlib
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxdrill.config.config import Config
from jaxdrill.config.layers import infer_shapes
from jaxdrill.errors import RunError, print_error

ARENA_BYTES = 2**26  # of glibc's memory for one thread; a larger array never fits in


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def set_up_for(configs: Sequence[Config]) -> None:
    """Call `set_up` for the largest of some recipes.

    Raises:
        UsageError: a network does not fit the images.
    """
    set_up(
        max(
            4 * infer_shapes(config.network)[-1].activations * config.batch_size
            for config in configs
        )
    )


def set_up(activation_bytes: int) -> None:
    """Make each CPU core a device and cache compiled programs on disk, unless the user has set either; keep memory.

    These settings hold for the whole process, so the commands call this function and the Python API does not. Call it
    before JAX runs; later the number of devices cannot change, and a warning says so.

    Args:
        activation_bytes: the size of the outputs of all layers for one batch.
    """
    make_cores_devices()
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore
        # A folder that cannot be written, or no home folder: every start compiles.
        with contextlib.suppress(OSError, RuntimeError):
            (folder := _cache_folder()).mkdir(parents=True, exist_ok=True)
            jax.config.update("jax_compilation_cache_dir", str(folder))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    tune_memory(activation_bytes)


def make_cores_devices() -> None:
    """Makes each CPU core that this process may use a device, unless the user has set a number. Once JAX runs, it only
    warns of another number.

    Two devices of one core each take about half the time of one device of two cores on these small layers: each core
    runs its own part of every operation instead of waiting for the other.
    """
    if jax.config.jax_num_cpu_devices > 0 or "device_count" in os.environ.get("XLA_FLAGS", ""):  # type: ignore
        return
    try:
        jax.config.update("jax_num_cpu_devices", cores())
    except RuntimeError:
        if jax.default_backend() == "cpu" and (count := len(jax.local_devices())) != cores():
            print_error(
                f"warning: JAX already runs with {count} device(s) instead of {cores()}, so results are statistically "
                f"equivalent, not identical. Call this first, or set JAX_NUM_CPU_DEVICES={cores()}."
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
    """Has glibc keep the memory of large arrays between steps, where it would return it and fetch it anew each time."""
    mallopt(-3, 2**30)  # M_MMAP_THRESHOLD, bytes
    mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD, bytes
    if activation_bytes > ARENA_BYTES:
        mallopt(
            -8, 1
        )  # M_ARENA_MAX: all threads share the arena that can grow; it costs small arrays a tenth


def _cache_folder() -> Path:
    """A folder for this kind of processor: a program for another one could stop at an unknown instruction."""
    try:
        flags = next(
            line
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("flags")
        )
    except (OSError, ValueError, StopIteration):
        flags = platform.processor()
    kind = hashlib.sha256(flags.encode()).hexdigest()[:12]
    return (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        / "jaxdrill"
        / f"xla_{kind}"
    )


@contextlib.contextmanager
def single_precision() -> Iterator[None]:
    """Trace and run programs with the same bits whether or not JAX_ENABLE_X64 is set. Also a decorator."""
    if hasattr(jax, "enable_x64"):
        context = jax.enable_x64(False)
    else:  # before jax 0.8
        context = importlib.import_module("jax.experimental").disable_x64()
    with context:
        yield


def available_devices() -> Sequence[Any]:
    """Return the devices of the backend in use.

    Raises:
        RunError: there is no device of the requested platform, or another process uses the devices.
    """
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:  # without a plugin for GPUs JAX only asserts
        reason = f"{error}".strip().rstrip(".") or "no plugin for it is installed"
        if "already in use" in reason or "lockfile" in reason:
            what = f"Another process uses the TPU ({reason}). End that process"
        else:
            platform = jax.config.jax_platforms or "of this machine"  # type: ignore
            what = (
                f"JAX cannot use the platform {platform}: {reason}. Install JAX for that platform"
            )
        raise RunError(f"{what}, or set JAX_PLATFORMS=cpu.") from error

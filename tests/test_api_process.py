"""A library call does not change the process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from jaxdrill.runs import progress

# The state that a library call must not change. Imports come first: they may register handlers.
UNCHANGED = """
import ctypes, locale, os, random, signal, sys, threading, warnings
import jax, numpy as np, sklearn.model_selection, tensorflow_datasets
import jaxdrill
from jaxdrill.data import digits as digits_module

digits = digits_module.load_arrays()
digits_module.load_arrays = lambda: (digits[0][:64], digits[1][:64], *digits[2:])


class Memory(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "a o s h mapped u f d b k".split()]


def mapped(size):
    # Return the bytes that malloc maps separately for a large array. mallopt sets the limit.
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        return None
    libc.mallinfo2.restype, libc.malloc.restype = Memory, ctypes.c_void_p
    before = libc.mallinfo2().mapped
    address = libc.malloc(ctypes.c_size_t(size))
    after = libc.mallinfo2().mapped
    libc.free(ctypes.c_void_p(address))
    return after - before


def state():
    return {
        "environment": dict(os.environ), "folder": os.getcwd(), "jax": dict(jax.config.values),
        "warnings": list(warnings.filters), "streams": (sys.stdout, sys.stderr),
        "path": list(sys.path),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "locale": locale.setlocale(locale.LC_ALL), "threads": threading.enumerate(),
        "random": (random.getstate(), str(np.random.get_state())), "memory": mapped(2**26),
    }


before = state()
jaxdrill.train(sys.argv[1], "run", data="digits", batch_size=32, epochs=1)
after = state()
assert jax.device_count() == 1, jax.devices()
for name in before:
    assert before[name] == after[name], (name, before[name], after[name])
assert jaxdrill.tune_memory() == (mapped(2**26) is not None)
assert before["memory"] is None or before["memory"] > 0 == mapped(2**26)
"""


def test_a_signal_handler_that_python_cannot_restore_stays(monkeypatch):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with monkeypatch.context() as patch:
        patch.setattr(signal, "getsignal", lambda number: None)
        with progress.stop_on_signal():
            patch.undo()
            assert {number: signal.getsignal(number) for number in before} == before
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.mark.slow
def test_training_does_not_change_the_process(tmp_path):
    """The process has none of the settings of the command."""
    recipe = tmp_path / "one.toml"
    recipe.write_text("network = [{ conv = 10, kernel = 28 }]")
    unset = (
        "JAX_COMPILATION_CACHE_DIR",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS",
        "JAX_NUM_CPU_DEVICES",
        "XLA_FLAGS",
        "CRC32C_SW_MODE",
    )
    environment = {key: value for key, value in os.environ.items() if key not in unset} | {
        "JAX_PLATFORMS": "cpu"
    }
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, (f"{ROOT}", os.environ.get("PYTHONPATH")))
    )
    done = subprocess.run(
        [sys.executable, "-c", UNCHANGED, recipe],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert Path(tmp_path / "run" / "weights" / "seed_1.safetensors").exists()

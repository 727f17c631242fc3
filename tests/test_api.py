"""The Python API: what its arguments mean, what it prints, and that it leaves the process as it was."""

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from runs_on_disk import CURVES, write_run, write_trained

import jaxdrill
from jaxdrill.errors import LOGGER, UsageError
from jaxdrill.runs import progress

STEPS = "1, 2, 3, 4, 4_adam, 5, 5_exponential, 6, 6_fast, 6_one, 6_small, all, or a .toml file"
# What a library call must leave as it was. The imports come first: a package may register itself when it is imported.
UNCHANGED = """
import ctypes, locale, os, random, signal, sys, threading, warnings
import jax, numpy as np, sklearn.model_selection, tensorflow_datasets
import jaxdrill
from jaxdrill.data import embedded

digits = embedded.digits()
embedded.digits = lambda: (digits[0][:64], digits[1][:64], *digits[2:])


class Memory(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "a o s h mapped u f d b k".split()]


def mapped(size):
    # The bytes that malloc maps apart for a large array, as mallopt decides.
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
        "warnings": list(warnings.filters), "streams": (sys.stdout, sys.stderr), "path": list(sys.path),
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


@pytest.mark.parametrize(
    ("step", "fields", "message"),
    [
        (
            "5",
            {"learning_rate": 0.1},
            "learning_rate is unknown; did you mean optimizer__learning_rate?",
        ),
        (
            "5",
            {"optimizer__learning_rat": 0.1},
            "optimizer__learning_rat is unknown; did you mean optimizer__learning_rate?",
        ),
        (
            "5",
            {"optimizer_learning_rate": 0.1},
            "optimizer_learning_rate is unknown; did you mean optimizer__learning_rate?",
        ),
        ("5", {"work_dir": "x"}, "work_dir is unknown; did you mean workdir?"),
        ("5", {"data__dir": "x"}, "data__dir is unknown; did you mean data_dir?"),
        ("5", {"name": "x"}, "name is unknown; did you mean optimizer__name?"),
        (
            "5",
            {"optimizer__learning_rate": -1},
            "optimizer__learning_rate is -1; allowed: a number above 0",
        ),
        (
            "5",
            {"optimizer__learning_rate": "fast"},
            "optimizer__learning_rate is 'fast'; allowed: a number above 0",
        ),
        ("5", {"optimizer__nesterov": 1}, "optimizer__nesterov is 1; allowed: true or false"),
        (
            "5",
            {"optimizer__name": "sdg"},
            "optimizer__name is 'sdg'; allowed: one of sgd, adam; did you mean sgd?",
        ),
        ("5", {"epochs": True}, "epochs is True; allowed: a whole number of at least 1"),
        ("5", {"epochs": 2.0}, "epochs is 2.0; allowed: a whole number of at least 1"),
        ("5", {"epochs": None}, "epochs is None; allowed: a whole number of at least 1"),
        ("5", {"epochs": [1]}, "epochs is [1]; allowed: a whole number of at least 1"),
        ("5", {"goal": None}, "goal is None; allowed: text"),
        (
            "5",
            {"seed": 2**32 - 1, "seeds": 2},
            "seeds is 2; allowed: at most 1, because seed is 4294967295 and seed + "
            "seeds must not exceed 4294967296 (2**32)",
        ),
        (
            "all",
            {},
            "train() trains one step, and step is all. Call it for each name of config.steps().",
        ),
        (7, {}, f"there is no step 7 (steps: {STEPS})"),
        (None, {}, f"there is no step None; did you mean 6_one? (steps: {STEPS})"),
    ],
)
def test_a_wrong_argument_is_the_commands_error(step, fields, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as error:
        jaxdrill.train(step, **fields)
    assert f"{error.value}" == message
    assert list(tmp_path.iterdir()) == []


def test_a_step_may_be_a_number(few_digits, tmp_path):
    message = "batch_size is 1438; allowed: at most 1437, the training images of digits"
    for step in (5, "5", "step_5"):
        with pytest.raises(UsageError) as error:
            jaxdrill.train(step, tmp_path / "run", data="digits", batch_size=1438)
        assert f"{error.value}" == message


@pytest.fixture
def silence():
    """Messages below a level are off until the test ends."""
    yield LOGGER.setLevel
    LOGGER.setLevel(logging.INFO)


@pytest.mark.slow
def test_values_mean_what_they_say(few_digits, tiny_recipe, tmp_path, capsys, silence):
    """In the recipe that is trained and in the command that is kept. Then silence, and the folder's other name."""
    rate, momentum = np.float32(0.1), 1e-3
    fields = {
        "optimizer__learning_rate": rate,
        "optimizer__momentum": momentum,
        "optimizer__nesterov": True,
        "epochs": np.int64(1),
        "batch_size": "512",
        "average__decay": 0,
    }
    run = jaxdrill.train(tiny_recipe, tmp_path / "run", **fields)
    config, metadata = (
        json.loads((run / name).read_text()) for name in ("config.json", "run.json")
    )
    assert config["optimizer"]["learning_rate"] == float(rate) != 0.1
    assert (config["optimizer"]["momentum"], config["optimizer"]["nesterov"]) == (momentum, True)
    assert (config["epochs"], config["batch_size"], config["average"]) == (1, 512, {"decay": 0.0})
    assert metadata["command"] == [
        "python",
        "-m",
        "jaxdrill.main",
        "--step",
        str(tiny_recipe),
        "--optimizer.learning-rate",
        f"{float(rate)}",
        "--optimizer.momentum",
        "0.001",
        "--optimizer.nesterov",
        "true",
        "--epochs",
        "1",
        "--batch-size",
        "512",
        "--average.decay",
        "0",
        "--workdir",
        f"{run}",
    ]
    assert "digits seed 1 epoch  1 of 1" in capsys.readouterr().out

    silence(logging.ERROR)
    assert jaxdrill.train(tiny_recipe, f"{run}", epochs=1, restart=True) == run
    assert capsys.readouterr() == ("", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run.old_1"]
    config, metadata = (
        json.loads((run / name).read_text()) for name in ("config.json", "run.json")
    )
    assert config["optimizer"]["learning_rate"] == 0.01 and metadata["earlier_sessions"] == []


def test_a_report_of_one_path_and_of_none(tmp_path):
    run = write_run(tmp_path / "runs" / "step_5", "5", {1: CURVES[1]})
    assert jaxdrill.write_report(str(run)) == run / "report.html"
    assert jaxdrill.write_report(run.parent, tmp_path / "out") == tmp_path / "out" / "report.html"
    for none in ([], ()):
        with pytest.raises(UsageError) as error:
            jaxdrill.write_report(none)
        assert (
            f"{error.value}"
            == "runs is empty. Pass a run folder, or a folder that contains run folders."
        )


def test_messages_can_be_sent_elsewhere(tmp_path, capsys, monkeypatch):
    told = []

    class Kept(logging.Handler):
        def emit(self, record):
            told.append((record.levelname, record.getMessage()))

    monkeypatch.setattr(LOGGER, "handlers", [Kept()])
    run = write_run(tmp_path / "run", "5", {1: CURVES[1]})
    jaxdrill.write_report(run)
    why = "the spread over seeds is unknown, so no change is certain"
    assert told == [("WARNING", f"{run} has a single seed: {why}.")]
    assert capsys.readouterr() == ("", "")


def test_the_users_logging_stays(tmp_path):
    """A handler and a level that were set before the import."""
    code = """
import logging, sys
mine = logging.StreamHandler(sys.stdout)
logging.getLogger("jaxdrill").addHandler(mine)
logging.getLogger("jaxdrill").setLevel(logging.ERROR)
import jaxdrill.errors
assert jaxdrill.errors.LOGGER.handlers == [mine] and jaxdrill.errors.LOGGER.propagate
jaxdrill.errors.say("progress")
jaxdrill.errors.print_error("warning")
jaxdrill.errors.print_error("error", 1)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("error\n", "")


@pytest.mark.parametrize("shape", [(0, 28, 28), (0, 28, 28, 1), (2, 28, 28)])
def test_probabilities_of_any_number_of_images(shape, tmp_path):
    probabilities = jaxdrill.load(write_trained(tmp_path, "2"))(np.zeros(shape, np.uint8))
    assert (probabilities.dtype, probabilities.shape) == (np.float32, (shape[0], 10))


def test_a_signal_handler_that_python_cannot_restore_stays(monkeypatch):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with monkeypatch.context() as patch:
        patch.setattr(signal, "getsignal", lambda number: None)
        with progress.stop_on_signal():
            patch.undo()
            assert {number: signal.getsignal(number) for number in before} == before
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.mark.slow
def test_training_leaves_the_process_as_it_was(tmp_path):
    """In a process where nothing is set that the command would set."""
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

"""The Python API: its arguments and its messages."""

import json
import logging
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from runs_on_disk import CURVES, write_run, write_trained

import jaxdrill
from jaxdrill.errors import LOGGER, UsageError

STEPS = "1, 2, 3, 4, 4_adam, 5, 5_exponential, 6, 6_fast, 6_one, 6_small, all, or a .toml file"


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
            "optimizer__learning_rate is -1; allowed: a number > 0",
        ),
        (
            "5",
            {"optimizer__learning_rate": "fast"},
            "optimizer__learning_rate is 'fast'; allowed: a number > 0",
        ),
        ("5", {"optimizer__nesterov": 1}, "optimizer__nesterov is 1; allowed: true or false"),
        (
            "5",
            {"optimizer__name": "sdg"},
            "optimizer__name is 'sdg'; allowed: one of sgd, adam; did you mean sgd?",
        ),
        ("5", {"epochs": True}, "epochs is True; allowed: an integer > 0"),
        ("5", {"epochs": 2.0}, "epochs is 2.0; allowed: an integer > 0"),
        ("5", {"epochs": None}, "epochs is None; allowed: an integer > 0"),
        ("5", {"epochs": [1]}, "epochs is [1]; allowed: an integer > 0"),
        ("5", {"seeds": []}, "seeds is []; allowed: an integer > 0, or different seeds >= 0"),
        ("5", {"seeds": [1, 1]}, "seeds is [1, 1]; allowed: an integer > 0, or different seeds"),
        ("5", {"seeds": [1, -1]}, "seeds is [1, -1]; allowed: an integer > 0, or different seeds"),
        ("5", {"seeds": ["1"]}, "seeds is ['1']; allowed: an integer > 0, or different seeds"),
        ("5", {"seeds": [1, 2], "seed": 1}, "seed has no effect if seeds is a list. Remove seed."),
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
        (7, {}, f"step 7 does not exist (steps: {STEPS})"),
        (None, {}, f"step None does not exist; did you mean 6_one? (steps: {STEPS})"),
    ],
)
def test_a_wrong_argument_has_the_message_of_the_command(
    step, fields, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as error:
        jaxdrill.train(step, **fields)
    assert f"{error.value}".startswith(message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seeds", [[1, 2, 7], (1, 2, 7), np.array([1, 2, 7]), "1,2,7"])
def test_a_list_of_seeds(seeds, tmp_path, monkeypatch):
    monkeypatch.setattr("jaxdrill.runs.session.train", lambda *given, **_: given)
    config, *_, command = jaxdrill.train("5", seeds=seeds)
    assert (config.seed, config.seeds, config.seed_list) == (1, (1, 2, 7), [1, 2, 7])
    assert command == ["jaxdrill", "train", "--step", "5", "--seeds", "1,2,7"]
    config, *_, command = jaxdrill.train("5", seeds=range(4, 5))
    assert config.seed_list == [4] and command[-2:] == ["--seeds", "4,"]


def test_a_step_may_be_a_number(few_digits, tmp_path):
    message = "batch_size is 1438; allowed: at most 1437, the training images of digits"
    for step in (5, "5", "step_5"):
        with pytest.raises(UsageError) as error:
            jaxdrill.train(step, tmp_path / "run", data="digits", batch_size=1438)
        assert f"{error.value}" == message


@pytest.fixture
def silence():
    """Return a function that disables messages below a level until the test ends."""
    yield LOGGER.setLevel
    LOGGER.setLevel(logging.INFO)


@pytest.mark.slow
def test_values_are_trained_and_recorded(few_digits, tiny_recipe, tmp_path, capsys, silence):
    """Also: messages can be disabled, and restart renames the folder."""
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
        "jaxdrill",
        "train",
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
    why = "the spread over seeds is unknown, so no change can be tested"
    assert told == [("WARNING", f"{run} has a single seed: {why}.")]
    assert capsys.readouterr() == ("", "")


def test_the_users_logging_stays(tmp_path):
    """A handler and a level are set before the import."""
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

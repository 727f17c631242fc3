"""Folders that training does not touch, and the messages about them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from runs_in_parts import both, contents, stop_in

from jaxdrill.data import digits as digits_module
from jaxdrill.errors import RunError
from jaxdrill.runs import reader
from jaxdrill.runs.folder import FORMAT, START_OVER
from jaxdrill.runs.resume import locked

OLDER = "was written by another version of jaxdrill (its format is {}, this one reads 3). Use that "
OLDER += f"version to read or resume it. {START_OVER}"

pytestmark = pytest.mark.usefixtures("few_digits", "compiled_once")


@pytest.mark.parametrize("seeds", [[], [2, 3], ["1"], [None], {}])
def test_a_wrong_list_of_seeds_is_reported(copy, command, seeds, capsys):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"seed": 1, "seeds": seeds}))
    assert command(*both(copy, "--epochs", 3)) in (1, 2)
    error = capsys.readouterr().err
    assert "seeds is " in error and error.count("\n") == 1
    with pytest.raises(RunError, match=r"is damaged .*seeds is "):
        reader.read(copy)


def test_a_run_of_another_version_is_not_changed(copy, command, capsys):
    metadata = json.loads((copy / "run.json").read_text())
    del metadata["format"]
    (copy / "run.json").write_text(json.dumps(metadata))
    assert command(*both(copy, "--epochs", 3)) == 1
    assert capsys.readouterr().err == f"jaxdrill: {copy} {OLDER.format(1)}\n"


def test_a_checkpoint_beyond_the_requested_epochs_is_rejected(
    command, tmp_path, monkeypatch, capsys
):
    """Otherwise the weights of a part of epoch 2 would be written as those of epoch 1."""
    with monkeypatch.context() as patch:
        stop_in(patch, 4)
        assert command(tmp_path) == 143
    before = contents(tmp_path)
    capsys.readouterr()
    assert command(tmp_path, "--epochs", 1) == 2
    error = capsys.readouterr().err
    assert "seed 1 in epoch 2, beyond the 1 requested. Pass --epochs 2" in error
    assert error.count("\n") == 1
    assert contents(tmp_path) == before
    assert command(tmp_path) == 0 and reader.read(tmp_path).epochs == 2


@pytest.mark.parametrize("lost", ["config.json", "run.json"])
def test_the_checkpoint_contains_the_identity_of_the_run_too(copy, command, capsys, lost):
    (copy / lost).unlink()
    flags = both(copy, "--epochs", 3)
    assert command(*flags, "--optimizer.learning-rate", 0.02) == 2
    message = "holds a run with optimizer.learning_rate = 0.01; now it is 0.02"
    assert message in capsys.readouterr().err
    assert command(*flags) == 0 and reader.read(copy).epochs == 3


def test_another_dataset_of_the_same_name_is_rejected(copy, command, digits, monkeypatch, capsys):
    test = digits.test_images, digits.test_labels
    other = digits.train_images[::-1].copy(), digits.train_labels, *test
    monkeypatch.setattr(digits_module, "load_arrays", lambda: other)
    assert command(*both(copy, "--epochs", 3)) == 2
    assert "holds a run with dataset_sha256 = " in capsys.readouterr().err


def test_a_locked_folder_is_rejected(copy, command, capsys):
    with locked(copy):
        assert command(copy, "--epochs", 3) == 1
    error = capsys.readouterr().err
    assert f"Another process is training into {copy}" in error and error.count("\n") == 1


def test_the_lock_of_a_killed_process_is_released(copy, command):
    code = f"""
import filelock, time
with filelock.FileLock({str(copy / ".lock")!r}):
    print("locked", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(RunError, match="Another process"), locked(copy):
            pass
        other.kill()
    with locked(copy):
        pass


def test_a_schedule_with_a_horizon_is_not_resumed_for_more_epochs(copy, command, capsys):
    config = json.loads((copy / "config.json").read_text())
    config["schedule"]["name"] = "triangle"
    (copy / "config.json").write_text(json.dumps(config))
    assert command(*both(copy, "--schedule.name", "triangle", "--epochs", 3)) == 2
    message = "holds a run with epochs = 2; now it is 3 (its schedule ends with the last epoch)"
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--optimizer.learning-rate 0.02", "optimizer.learning_rate = 0.01; now it is 0.02."),
        ("--batch-size 64", "batch_size = 479; now it is 64."),
        (
            "--execution.matmul-precision bfloat16",
            "execution.matmul_precision = float32; now it is bfloat16.",
        ),
        ("--hold-out 100", "evaluate_on = test; now it is validation."),
    ],
)
def test_a_folder_of_another_run_is_not_changed(finished, command, capsys, flags, message):
    before = contents(finished)
    assert command(finished, "--seed", 3, *flags.split()) == 2
    error = f"jaxdrill: {finished} holds a run with {message} {START_OVER}\n"
    assert capsys.readouterr().err == error
    assert contents(finished) == before


def test_a_folder_with_more_epochs_is_not_changed(finished, command, capsys):
    before = contents(finished)
    assert command(finished, "--seed", 3, "--epochs", 1) == 2
    message = "holds seed 3 in epoch 2, beyond the 1 requested. Pass --epochs 2 to keep that run."
    assert capsys.readouterr().err == f"jaxdrill: {finished} {message} {START_OVER}\n"
    assert contents(finished) == before


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("run.json", f'{{"format": {FORMAT - 1}}}', OLDER.format(FORMAT - 1)),
        ("config.json", "{}", f"/config.json does not contain a recipe). {START_OVER}"),
    ],
)
def test_a_run_that_cannot_be_resumed_can_be_archived(copy, command, capsys, file, text, message):
    (copy / file).write_text(text)
    before = contents(copy)
    assert command(*both(copy)) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"jaxdrill: {copy} ") and error.endswith(f"{message}\n")
    assert contents(copy) == before
    assert command(copy, "--restart", "--epochs", 1) == 0


def test_a_damaged_config_json_without_a_checkpoint_is_not_replaced(command, tmp_path, capsys):
    """Nothing shows that the folder is a run folder."""
    (tmp_path / "config.json").write_text('{"half')
    assert command(tmp_path) == 2
    message = "is not a run folder, but contains config.json, which training would replace. "
    message += "Choose another --workdir."
    assert capsys.readouterr().err.endswith(f"{tmp_path} {message}\n")
    assert (tmp_path / "config.json").read_text() == '{"half'


def test_a_workdir_that_cannot_be_used_is_reported(command, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("mine")
    for workdir in (file, file / "below", Path("/proc/jaxdrill")):
        assert command(workdir) == 1
        error = capsys.readouterr().err
        assert f"The workdir {workdir} cannot be used: " in error and error.count("\n") == 1
    assert file.read_text() == "mine"


def test_a_loss_that_is_not_finite_ends_the_run(command, tmp_path, capsys):
    assert command(tmp_path, "--optimizer.learning-rate", "1e30") == 1
    error = capsys.readouterr().err
    assert "by step" in error and error.count("\n") == 1
    assert "learning rate 1e+30; nothing was saved. Start over with a smaller" in error
    files = {".lock", "config.json", "run.json", "tensorboard"}
    assert {path.name for path in tmp_path.iterdir()} == files


def test_a_batch_larger_than_the_data_is_rejected(command, tmp_path, capsys):
    assert command(tmp_path / "run", "--batch-size", 1438) == 2
    message = "batch_size is 1438; allowed: at most 1437, the training images of digits"
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()

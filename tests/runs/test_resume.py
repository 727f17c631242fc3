"""Stop runs and resume them: no result changes, and nothing is lost."""

import json
import os
import shutil
import signal
import time

import pytest
from runs_in_parts import both, contents, rows, stop_in, without_seconds

from jaxdrill import array_files
from jaxdrill.main import main
from jaxdrill.runs import checkpoints, group, reader
from jaxdrill.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("few_digits", "compiled_once")


def test_more_epochs_resume_a_run(finished, command, tmp_path):
    assert command(*both(tmp_path / "run", "--epochs", 1)) == 0
    assert len(rows(tmp_path / "run")) == 2
    assert command(*both(tmp_path / "run")) == 0
    assert without_seconds(tmp_path / "run") == without_seconds(finished)


def test_seeds_that_the_command_does_not_name_are_left_unchanged(copy, command, capsys):
    """Seed 3 alone resumes from the checkpoint of both seeds; naming both trains seed 4 too."""
    weights = (copy / "weights" / "seed_4.safetensors").read_bytes()
    assert command(copy, "--seed", 3, "--epochs", 3) == 0
    said = capsys.readouterr()
    assert "also contains seed(s) 4, which stay unchanged" in said.out
    found = [(row["seed"], row["epoch"]) for row in rows(copy)]
    assert found == [(3, 0), (3, 1), (3, 2), (4, 0), (4, 1)]
    assert (copy / "weights" / "seed_4.safetensors").read_bytes() == weights
    run = reader.read(copy)
    assert (run.seeds, run.epochs, run.left_out) == ([3], 3, [4])
    assert command(*both(copy, "--epochs", 3)) == 0
    run = reader.read(copy)
    assert (run.seeds, run.left_out) == ([3, 4], [])


@pytest.mark.slow
def test_execution_settings_may_change(command, tmp_path):
    assert command(tmp_path, "--epochs", 1) == 0
    assert command(tmp_path, "--execution.epoch", "scan", "--execution.convolution", "im2col") == 0
    assert [row["step"] for row in rows(tmp_path)] == [3, 6]


def test_a_crash_between_row_and_checkpoint_loses_nothing(finished, command, tmp_path, monkeypatch):
    saves, save = [], checkpoints.Checkpoints.save

    def crash(self, *arguments):
        saves.append(arguments)
        if len(saves) == 2:
            raise KeyboardInterrupt  # The process ends here.
        save(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.Checkpoints, "save", crash)
        patch.setattr(checkpoints.Checkpoints, "due", lambda self: True)
        assert command(*both(tmp_path)) == 130
    assert len(rows(tmp_path)) == 4
    assert command(*both(tmp_path)) == 0
    assert without_seconds(tmp_path) == without_seconds(finished)


def test_the_seconds_of_a_stopped_epoch_are_counted_once(
    finished, command, tmp_path, monkeypatch, capsys
):
    """A group is stopped in its second epoch and resumed. The results do not change."""
    with monkeypatch.context() as patch:
        stop_in(patch, 4)
        assert command(*both(tmp_path)) == 143
    assert "stopped at step 4 of digits seeds 3 to 4. The state is saved" in capsys.readouterr().err
    saved = checkpoints.latest(tmp_path / "checkpoints" / "seeds_3_to_4")
    first = json.loads((tmp_path / "run.json").read_text())["seconds"]["train"]
    assert saved.step == 4 and 0 < saved.metadata["epoch_seconds"] < first
    assert command(*both(tmp_path)) == 0
    assert without_seconds(tmp_path) == without_seconds(finished)
    total = json.loads((tmp_path / "run.json").read_text())["seconds"]
    assert total["train"] > first
    epochs = sum(row["seconds"] for row in rows(tmp_path))
    assert epochs == pytest.approx(total["train"] + total["evaluation"], abs=0.01)


@pytest.mark.parametrize("where", ["predictions", "compiling", "before the second group"])
def test_a_signal_outside_the_training_loop_stops_the_run(
    command, tmp_path, monkeypatch, capsys, where
):
    """No further seed is trained, the exit code is 130, and the same command finishes the run."""
    holder, name = {
        "predictions": (group.folder, "write_predictions"),
        "compiling": (Trainer, "compile"),
        "before the second group": (group.SeedGroup, "_write_last"),
    }[where]
    original = getattr(holder, name)

    def signalled(*arguments, **named):
        os.kill(os.getpid(), signal.SIGINT)
        return original(*arguments, **named)

    flags = tmp_path, "--seeds", 2, "--execution.seeds-together", 1
    with monkeypatch.context() as patch:
        patch.setattr(holder, name, signalled)
        assert command(*flags) == 130
    assert "jaxdrill: stopped" in capsys.readouterr().err.splitlines()[-1]
    metrics = tmp_path / "metrics.jsonl"
    trained = {row["seed"] for row in rows(tmp_path)} if metrics.exists() else set()
    assert trained == (set() if where == "compiling" else {1})
    assert command(*flags) == 0 and reader.read(tmp_path).seeds == [1, 2]


@pytest.mark.parametrize("damage", ["half a last line", "without the first", "empty"])
def test_metrics_are_repaired_from_the_checkpoints(copy, command, capsys, damage):
    file = copy / "metrics.jsonl"
    text = file.read_text()
    first = text.index("\n") + 1
    damaged = {"half a last line": text[:-30], "without the first": text[first:], "empty": ""}
    file.write_text(damaged[damage])
    assert command(*both(copy)) == 0
    assert "metrics.jsonl was damaged; repaired from the checkpoints" in capsys.readouterr().err
    assert file.read_text() == text and reader.read(copy).seeds == [3, 4]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("weights/seed_3.safetensors", b"{"),
        ("predictions/seed_4.npz", b"PK"),
        ("run.json", None),
        ("config.json", None),
        ("images.npz", None),
        ("metrics.jsonl", None),
    ],
)
def test_the_same_command_writes_damaged_or_deleted_files_again(
    finished, copy, command, name, content
):
    """The messages about such files say so."""

    def metrics():
        return {k: a.tolist() for k, a in reader.read(copy).metrics.items() if k != "seconds"}

    before = metrics()
    (copy / name).unlink()
    if content:
        (copy / name).write_bytes(content)
    assert command(*both(copy)) == 0
    assert metrics() == before
    assert without_seconds(copy) == without_seconds(finished)
    file = "weights/seed_3.safetensors"
    arrays, again = (array_files.read(folder / file)[0] for folder in (finished, copy))
    assert arrays.keys() == again.keys()
    assert all((arrays[key] == again[key]).all() for key in arrays)


def damage(file):
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)


def test_a_damaged_checkpoint_costs_an_epoch_and_changes_no_result(
    finished, command, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(checkpoints.Checkpoints, "due", lambda self: True)
    with monkeypatch.context() as patch:
        stop_in(patch, 4)
        assert command(*both(tmp_path)) == 143
    files = sorted((tmp_path / "checkpoints" / "seeds_3_to_4").iterdir())
    assert [file.name for file in files] == ["step_3.safetensors", "step_4.safetensors"]
    damage(files[1])
    capsys.readouterr()
    assert command(*both(tmp_path)) == 0
    said = capsys.readouterr()
    assert f"{files[1]} is damaged" in said.err
    assert "The checkpoint of step 3 is used instead." in said.err
    assert "resuming in epoch 2 of 2, at step 3" in said.out
    assert without_seconds(tmp_path) == without_seconds(finished)


def test_without_an_undamaged_checkpoint_nothing_is_changed(copy, command, capsys):
    for file in (copy / "checkpoints" / "seeds_3_to_4").iterdir():
        damage(file)
    before = contents(copy)
    assert command(*both(copy, "--epochs", 3)) == 1
    error = capsys.readouterr().err
    assert "Delete this folder to train its seeds again" in error and error.count("\n") == 1
    assert contents(copy) == before


def test_run_folders_may_have_unusual_names(finished, command, tmp_path):
    run = tmp_path / "with spaces" / "mit Umläuten-漢字" / "-dash" / "a'b\"c $HOME;*"
    assert command(*both(run)) == 0
    assert without_seconds(run) == without_seconds(finished)
    assert main(["check", str(run), "--min-accuracy", "0"]) == 0


def test_a_run_whose_folder_was_moved_is_resumed(finished, command, tmp_path):
    assert command(*both(tmp_path / "here", "--epochs", 1)) == 0
    (tmp_path / "far").mkdir()
    shutil.move(tmp_path / "here", tmp_path / "far" / "there")
    assert command(*both(tmp_path / "far" / "there")) == 0
    assert without_seconds(tmp_path / "far" / "there") == without_seconds(finished)


def test_a_clock_that_was_set_back_does_not_matter(finished, command, tmp_path, monkeypatch):
    """All files have a date in the future, and the clock runs backwards."""
    assert command(*both(tmp_path, "--epochs", 1)) == 0
    for file in tmp_path.rglob("*"):
        os.utime(file, (4e9, 4e9))
    now = iter(range(10**9, 0, -1))
    monkeypatch.setattr(time, "time", lambda: float(next(now)))
    assert command(*both(tmp_path)) == 0
    assert without_seconds(tmp_path) == without_seconds(finished)

"""What can happen to a run: nothing is lost, and the person is told. The long form is `python tests/soak/run.py`."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from conftest import ROOT
from runs_in_parts import both, contents, rows, stop_in, without_seconds
from soak.trial import small_disk

from jaxdrill import data
from jaxdrill.main import main
from jaxdrill.runs import checkpoints, group
from jaxdrill.runs.reader import find, read

TRIAL = [sys.executable, f"{ROOT / 'tests' / 'soak' / 'trial.py'}"]
DISKS = subprocess.run(small_disk(Path("/mnt"), 1, ["true"]), capture_output=True).returncode == 0
needs_disks = pytest.mark.skipif(not DISKS, reason="unshare cannot mount a small disk here")

few = pytest.mark.usefixtures("few_digits")


@pytest.mark.slow
def test_killed_inside_each_kind_of_write(tmp_path):
    """By the system, 64 bytes into the file; the same command then leaves what an undisturbed run leaves."""
    done = subprocess.run(
        [*TRIAL, tmp_path, "--each-kind", "--faults", "kill_inside"], capture_output=True, text=True
    )
    assert done.returncode == 0 and '"kill_inside": 8' in done.stdout, done.stdout + done.stderr


@pytest.mark.slow
@needs_disks
def test_a_full_disk_at_each_kind_of_write(tmp_path):
    trial = small_disk(tmp_path, 4, [*TRIAL, f"{tmp_path}", "--each-kind", "--faults", "full"])
    done = subprocess.run(trial, capture_output=True, text=True)
    assert done.returncode == 0 and '"full": 8' in done.stdout, done.stdout + done.stderr


@needs_disks
def test_a_folder_that_is_read_only(tiny_recipe, tmp_path):
    """The command ends before it trains, in one line."""
    train = [
        sys.executable,
        "-m",
        "jaxdrill.main",
        "--step",
        f"{tiny_recipe}",
        "--workdir",
        f"{tmp_path / 'run'}",
    ]
    shell = 'mount -o remount,ro,bind "$0" && cd "$1" && shift && exec "$@"'
    bound = small_disk(tmp_path, 1, ["sh", "-c", shell, f"{tmp_path}", f"{ROOT}", *train])
    done = subprocess.run(bound, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert (
        "run cannot be used: Read-only file system" in done.stderr and done.stderr.count("\n") == 1
    )


def damage(file):
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)


@few
def test_a_damaged_checkpoint_costs_an_epoch_and_no_bit(
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
    assert f"{files[1]} is damaged" in said.err and "before it, of step 3, is used" in said.err
    assert "continuing in epoch 2 of 2, at step 3" in said.out
    assert without_seconds(tmp_path) == without_seconds(finished)


@few
def test_without_a_whole_checkpoint_nothing_is_changed(copy, command, capsys):
    for file in (copy / "checkpoints" / "seeds_3_to_4").iterdir():
        damage(file)
    before = contents(copy)
    assert command(*both(copy, "--epochs", 3)) == 1
    error = capsys.readouterr().err
    assert "delete it to start these seeds afresh" in error and error.count("\n") == 1
    assert contents(copy) == before


@few
@pytest.mark.parametrize("name", ["with spaces", "mit Umläuten-漢字", "-dash", "a'b\"c $HOME;*"])
def test_odd_names(finished, command, tmp_path, name, capsys):
    assert command(*both(tmp_path / name)) == 0
    assert without_seconds(tmp_path / name) == without_seconds(finished)
    assert main(["check", str(tmp_path / name), "--min-accuracy", "0"]) == 0


@few
def test_a_run_that_was_moved_continues(finished, command, tmp_path):
    assert command(*both(tmp_path / "here", "--epochs", 1)) == 0
    (tmp_path / "far").mkdir()
    shutil.move(tmp_path / "here", tmp_path / "far" / "there")
    assert command(*both(tmp_path / "far" / "there")) == 0
    assert without_seconds(tmp_path / "far" / "there") == without_seconds(finished)


@few
def test_a_clock_set_back(finished, command, tmp_path, monkeypatch):
    """Files of tomorrow, and a clock that then runs backwards."""
    assert command(*both(tmp_path, "--epochs", 1)) == 0
    for file in tmp_path.rglob("*"):
        os.utime(file, (4e9, 4e9))
    now = iter(range(10**9, 0, -1))
    monkeypatch.setattr(time, "time", lambda: float(next(now)))
    assert command(*both(tmp_path)) == 0
    assert without_seconds(tmp_path) == without_seconds(finished)


@few
def test_restart_keeps_the_old_folder(copy, command, capsys):
    before = contents(copy)
    flags = both(copy, "--optimizer.learning-rate", 0.02)
    assert command(*flags) == 2
    for number in (1, 2):
        assert command(*flags, "--restart") == 0
        assert f"{copy} is now {copy}.old_{number}" in capsys.readouterr().err
    aside = copy.with_name(f"{copy.name}.old_1")
    assert {name.replace(f"{aside}/", ""): c for name, c in contents(aside).items()} == {
        name.replace(f"{copy}/", ""): c for name, c in before.items()
    }
    assert read(copy).config.optimizer.learning_rate == 0.02
    assert find([copy.parent]) == [(copy, True)], "a report of all runs has each once"
    assert "--restart" not in (copy / "run.json").read_text(), (
        "the advice to repeat a command must not restart it"
    )


@few
@pytest.mark.parametrize(
    "name",
    ["thesis.txt", "config.json", "checkpoints/epoch_1.pt", "checkpoints/seed_1/mine.safetensors"],
)
def test_restart_leaves_a_folder_that_is_not_a_run(command, tmp_path, capsys, name):
    """Also if it has a lock, or files of other programs with the names of a run's files."""
    mine = tmp_path / "mine"
    file = mine / name
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    (mine / ".lock").touch()
    before = contents(tmp_path)
    assert command(mine, "--restart") == 2
    assert capsys.readouterr().err == (
        f"jaxdrill: {mine} is not a run folder, so --restart does not rename it. Choose another --workdir.\n"
    )
    assert contents(tmp_path) == before


@few
def test_restart_of_a_folder_without_files_begins_there(command, tmp_path):
    assert command(tmp_path / "new", "--restart", "--epochs", 1) == 0
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".lock").touch()
    assert command(tmp_path / "empty", "--restart", "--epochs", 1) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "new"]


@few
@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "config.json", "images.npz", "weights/seed_1.safetensors"]
)
def test_training_does_not_replace_files_of_other_programs(command, tmp_path, capsys, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text('{"loss": 1}')
    assert command(tmp_path) == 2
    assert capsys.readouterr().err == (
        f"jaxdrill: {tmp_path} is not a run folder, but holds {name.split('/')[0]}, which training would replace. "
        "Choose another --workdir.\n"
    )
    assert (tmp_path / name).read_text() == '{"loss": 1}'


@few
def test_a_loss_that_becomes_infinite_keeps_the_last_finite_state(
    command, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(checkpoints.Checkpoints, "due", lambda self: True)
    assert command(tmp_path, "--epochs", 1) == 0
    kept = (tmp_path / "checkpoints" / "seed_1" / "step_3.safetensors").read_bytes()
    original = group.checkpoints.select

    def spoilt(*arguments):
        progress = original(*arguments)
        progress.state.params["conv1"]["kernel"][:] = (
            1e30  # the loss is finite once more, and its gradient is not
        )
        return progress

    monkeypatch.setattr(group.checkpoints, "select", spoilt)
    capsys.readouterr()
    assert command(tmp_path, "--epochs", 2) == 1
    error = capsys.readouterr().err
    assert (
        f"; {tmp_path / 'checkpoints' / 'seed_1'} keeps the state before; begin again with a smaller"
        in error
    )
    assert error.count("\n") == 1 and "--restart" in error
    assert [file.name for file in (tmp_path / "checkpoints" / "seed_1").iterdir()] == [
        "step_3.safetensors"
    ]
    assert (tmp_path / "checkpoints" / "seed_1" / "step_3.safetensors").read_bytes() == kept
    assert len(rows(tmp_path)) == 1


@few
def test_weights_that_are_not_finite_are_never_saved(command, tmp_path, monkeypatch, capsys):
    """Though every loss was: they are those before the last update."""
    fit = group.fit

    def spoilt(*arguments):
        for result in fit(*arguments):
            kernel = result.progress.state.params["conv2"]["kernel"]
            result.progress.state.params["conv2"]["kernel"] = kernel.at[..., 0].set(float("nan"))
            yield result

    monkeypatch.setattr(group, "fit", spoilt)
    assert command(tmp_path) == 1
    assert (
        "is not finite after step 3 of digits seed 1; nothing was saved" in capsys.readouterr().err
    )
    assert not (tmp_path / "checkpoints").exists()


@few
def test_start_up_removes_only_temporary_files_of_jaxdrill(copy, command):
    ours = [
        ".jaxdrill-run.json.4711.tmp",
        "metrics.jsonl.4711.tmp",
        "weights/seed_3.safetensors.4711.tmp",
        "weights/.jaxdrill-seed_3.safetensors.4711.tmp",
        "predictions/seed_12.npz.4711.tmp",
        "checkpoints/seeds_3_to_4/step_3.safetensors.4711.tmp",
    ]
    users = [
        "notes.tmp",
        "notes.2024.tmp",
        "weights/mine.2024.tmp",
        "seed_3.pdf.1.tmp",
        "notes/run.json.4711.tmp",
        "notes/.jaxdrill-run.json.4711.tmp",
        "x.jaxdrill-run.json.4711.tmp",
        ".jaxdrill-notes.tmp",
    ]
    (copy / "notes").mkdir()
    for name in ours + users:
        (copy / name).write_text(name)
    assert command(*both(copy)) == 0
    assert [name for name in ours if (copy / name).exists()] == []
    assert {name: (copy / name).read_text() for name in users} == dict(
        zip(users, users, strict=True)
    )


@few
def test_verify(finished, capsys, monkeypatch):
    assert main(["verify", str(finished)]) == 0
    first, *lines, said = capsys.readouterr().out.splitlines()
    assert first == f"{finished}: checking 2 epoch(s) of seed(s) 3, 4"
    assert lines[0] == f"{finished}: training them in one go"
    assert lines[1:] == [
        f"{finished}: the same, stopped and continued ({n})" for n in range(1, len(lines))
    ]
    assert said.startswith("2 epoch(s) of seed(s) 3, 4: the same bits, stopped and continued ")
    assert said.endswith(" times; they are the run's own numbers") and " continued 0 " not in said
    digits = data.digits.load_arrays()
    monkeypatch.setattr(data.digits, "load_arrays", lambda: (255 - digits[0], *digits[1:]))
    assert main(["verify", str(finished), "--epochs", "1"]) == 0
    assert "the run's own numbers are others: it was made by " in capsys.readouterr().out


@few
def test_verify_finds_what_is_not_continued(finished, capsys, monkeypatch):
    """Here the momentum, as if it had not been saved."""
    original = group.checkpoints.select

    def forgetful(*arguments):
        progress = original(*arguments)
        for leaf in (progress.state.opt_state[0].trace["conv1"]["kernel"],):
            leaf[:] = 0
        return progress

    monkeypatch.setattr(group.checkpoints, "select", forgetful)
    assert main(["verify", str(finished), "--epochs", "1"]) == 3
    assert "differ in rows and state" in capsys.readouterr().err


def test_verify_of_other_things(tmp_path, capsys):
    assert main(["verify", str(tmp_path)]) == 1
    assert "is no run folder" in capsys.readouterr().err
    (tmp_path / "config.json").write_text("[")
    assert main(["verify", str(tmp_path)]) == 1
    assert main(["verify", str(tmp_path), "--epochs", "0"]) == 2


@few
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stop_in_the_middle_of_verify(finished, monkeypatch, tmp_path, capsys, number, code):
    """It promises nothing that needs the folder, which is deleted."""
    monkeypatch.setattr(tempfile, "tempdir", f"{tmp_path}")
    stop_in(monkeypatch, 2, number)
    assert main(["verify", str(finished)]) == code
    last = capsys.readouterr().err.splitlines()[-1]
    assert (
        last == "jaxdrill: verify was interrupted. Nothing was kept; run it again from the start."
    )
    assert not list(tmp_path.iterdir()), "what it trained is removed"


@few
def test_a_loss_that_is_not_finite_in_verify(finished, monkeypatch, tmp_path, capsys):
    """It does not advise to restart in the folder that is deleted."""
    shutil.copytree(finished, tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["optimizer"]["learning_rate"] = 1e30
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    assert main(["verify", f"{tmp_path / 'run'}"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("jaxdrill: verify could not train: the loss of seed 3 is nan by step ")
    assert line.endswith("learning rate 1e+30. Nothing was kept; run it again from the start.")


@few
def test_a_file_that_cannot_be_written_in_verify(finished, capsys):
    """The system refuses to let a file grow as large as a checkpoint."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        assert main(["verify", str(finished)]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    error = capsys.readouterr().err
    assert (
        error.startswith("jaxdrill: verify could not train: [Errno 27] File too large: '")
        and error.count("\n") == 1
    )
    assert error.endswith(".safetensors'. Nothing was kept; run it again from the start.\n")

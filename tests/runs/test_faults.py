"""Kills, full disks and infinite values: nothing is lost. `python tests/soak/run.py` tests more."""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from runs_in_parts import rows
from soak.trial import small_disk

from jaxdrill.runs import checkpoints, group

TRIAL = [sys.executable, f"{ROOT / 'tests' / 'soak' / 'trial.py'}"]
DISKS = subprocess.run(small_disk(Path("/mnt"), 1, ["true"]), capture_output=True).returncode == 0
few = pytest.mark.usefixtures("few_digits", "compiled_once")
needs_disks = pytest.mark.skipif(not DISKS, reason="unshare cannot mount a small disk here")


def run(command):
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow
def test_a_kill_inside_each_kind_of_write_loses_nothing(tmp_path):
    """The system kills the process after 64 bytes. Then the same command finishes the run."""
    done = run([*TRIAL, tmp_path, "--each-kind", "--faults", "kill_inside"])
    assert done.returncode == 0 and '"kill_inside": 8' in done.stdout, done.stdout + done.stderr


@pytest.mark.slow
@needs_disks
def test_a_full_disk_at_each_kind_of_write_loses_nothing(tmp_path):
    faults = [f"{tmp_path}", "--each-kind", "--faults", "full"]
    done = run(small_disk(tmp_path, 4, [*TRIAL, *faults]))
    assert done.returncode == 0 and '"full": 8' in done.stdout, done.stdout + done.stderr


@needs_disks
def test_a_read_only_folder_is_reported_before_training(tiny_recipe, tmp_path):
    train = [sys.executable, "-m", "jaxdrill.main"]
    train += ["--step", f"{tiny_recipe}", "--workdir", f"{tmp_path / 'run'}"]
    shell = 'mount -o remount,ro,bind "$0" && cd "$1" && shift && exec "$@"'
    done = run(small_disk(tmp_path, 1, ["sh", "-c", shell, f"{tmp_path}", f"{ROOT}", *train]))
    assert done.returncode == 1, done.stderr
    assert "run cannot be used: Read-only file system" in done.stderr
    assert done.stderr.count("\n") == 1


@few
def test_an_infinite_loss_keeps_the_last_finite_state(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(checkpoints.Checkpoints, "due", lambda self: True)
    assert command(tmp_path, "--epochs", 1) == 0
    saved = tmp_path / "checkpoints" / "seed_1" / "step_3.safetensors"
    before = saved.read_bytes()
    original = group.checkpoints.select

    def spoilt(*arguments):
        state = original(*arguments)
        # The loss is finite once more, and its gradient is not.
        state.params["conv1"]["kernel"][:] = 1e30
        return state

    monkeypatch.setattr(group.checkpoints, "select", spoilt)
    capsys.readouterr()
    assert command(tmp_path, "--epochs", 2) == 1
    error = capsys.readouterr().err
    assert f"; {saved.parent} contains the state before. Start over with a smaller" in error
    assert error.count("\n") == 1 and "--restart" in error
    assert list(saved.parent.iterdir()) == [saved]
    assert saved.read_bytes() == before
    assert len(rows(tmp_path)) == 1


@few
def test_weights_that_are_not_finite_are_not_saved(command, tmp_path, monkeypatch, capsys):
    """All losses are finite: they are computed before the last update."""
    fit = group.fit.fit

    def spoilt(*arguments, **options):
        for result in fit(*arguments, **options):
            params = result.state.params["conv2"]
            params["kernel"] = params["kernel"].at[..., 0].set(float("nan"))
            yield result

    monkeypatch.setattr(group.fit, "fit", spoilt)
    assert command(tmp_path) == 1
    message = "is not finite after step 3 of digits seed 1; nothing was saved"
    assert message in capsys.readouterr().err
    assert not (tmp_path / "checkpoints").exists()

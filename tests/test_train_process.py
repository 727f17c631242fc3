"""The command `jaxdrill train` as a process, and trainings that signals stop."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

from jaxdrill import data
from jaxdrill.data import digits as digits_module
from jaxdrill.main import main


def start(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "jaxdrill", "train", *arguments]
    paths = {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.Popen(
        command,
        cwd=cwd,
        env=os.environ | paths,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def test_the_default_folder_names_a_dataset_that_is_not_mnist(
    tiny_recipe, few_digits, tmp_path, monkeypatch
):
    """Otherwise a run on MNIST would be rejected after a run on digits."""
    monkeypatch.chdir(tmp_path)
    command = ["--step", str(tiny_recipe), "--epochs", "1"]
    assert main([*command, "--data", "digits"]) == 0
    monkeypatch.setattr(
        "jaxdrill.data.load", lambda *_: few_digits.__class__("mnist", *digits_module.load_arrays())
    )
    assert main([*command, "--data", "mnist"]) == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["tiny", "tiny_digits"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_between_steps_stops_the_drill(number, tmp_path, monkeypatch, capsys):
    """The signal arrives while the first step loads its data."""

    def load(*_):
        os.kill(os.getpid(), number)
        return few

    few = data.Dataset("digits", *(array[:600] for array in digits_module.load_arrays()))
    monkeypatch.setattr("jaxdrill.data.load", load)
    assert main(["--step", "all", "--workdir", str(tmp_path)]) == 128 + number
    assert capsys.readouterr().err.splitlines()[-1] == "jaxdrill: stopped before training began"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_epoch_of_mnist(mnist_dir, tmp_path, capsys):
    command = [
        "--step",
        "5",
        "--epochs",
        "1",
        "--data-dir",
        str(mnist_dir),
        "--workdir",
        str(tmp_path / "run"),
    ]
    assert main(command) == 0
    (row,) = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert row["test_examples"] == 10_000 and row["step"] == 469
    assert row["test_accuracy"] >= 0.96
    images = capsys.readouterr().out
    assert "step_5 on mnist: 9,606 parameters, 60,000 training and 10,000 test images" in images


def test_a_whole_run_without_a_network(tmp_path):
    """`--data auto` with an empty cache: one warning, digits in every line, no bar in a pipe."""
    (tmp_path / "one.toml").write_text("epochs = 2\nnetwork = [{ conv = 10, kernel = 28 }]")
    code, out, err = finish(
        start("--step", "one.toml", "--data", "auto", "--offline", cwd=tmp_path)
    )
    assert code == 0, err
    assert err.count("\n") == 1 and "training on digits instead" in err
    numbers = [line for line in out.splitlines() if "%" in line and line.startswith("digits")]
    assert len(numbers) == 2 and all(
        line.startswith("digits seed 1 epoch ") and " of 2 " in line for line in numbers
    )
    assert re.fullmatch(r"compiled for 1 seed\(s\) in \d+\.\d s", out.splitlines()[1])
    assert out.split("\n\n")[1].splitlines()[-1].split()[:5] == [
        "one",
        "digits",
        "7,840",
        "0.01",
        "2",
    ]
    assert "|" not in out
    assert "report: jaxdrill report runs/one_digits\n" in out
    assert (
        json.loads((tmp_path / "runs" / "one_digits" / "run.json").read_text())["dataset"]
        == "digits"
    )


@pytest.mark.slow
def test_a_signal_in_the_middle_of_an_epoch(tiny_recipe, tmp_path, capsys):
    """The run is resumed to the same bits as a run without a stop."""
    command = ["--step", str(tiny_recipe), "--batch-size", "32", "--epochs", "2"]
    process = start(*command, "--workdir", str(tmp_path / "cut"))
    first_epoch = tmp_path / "cut" / "checkpoints" / "seed_1" / "step_360.safetensors"
    while not first_epoch.exists() and process.poll() is None:
        time.sleep(0.01)
    time.sleep(0.1)  # into the second epoch, of 360 steps
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert code == 130, err
    last = err.splitlines()[-1]
    assert last.startswith("jaxdrill: stopped at step ") and "Rerun the command to resume." in last
    assert "Traceback" not in err
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == [
        ".lock",
        "checkpoints",
        "config.json",
        "metrics.jsonl",
        "run.json",
        "tensorboard",
    ]
    stopped_at = int(last.split()[4])
    assert 360 < stopped_at < 720 and stopped_at % 360
    assert main([*command, "--workdir", str(tmp_path / "cut")]) == 0
    assert f"step {stopped_at}" in capsys.readouterr().out
    assert main([*command, "--workdir", str(tmp_path / "whole")]) == 0
    cut, whole = (
        [
            json.loads(line) | {"seconds": 0}
            for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        ]
        for name in ("cut", "whole")
    )
    assert cut == whole and len(whole) == 2


@pytest.mark.slow
def test_the_progress_bar_on_a_terminal(tiny_recipe, tmp_path):
    """A pseudoterminal shows a bar with loss, accuracy and remaining time."""
    import pty
    import termios

    controller, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (40, 120))
    command = [
        sys.executable,
        "-m",
        "jaxdrill.main",
        "--step",
        str(tiny_recipe),
        "--batch-size",
        "32",
        "--workdir",
        "w",
    ]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    shown = b""
    while True:
        try:
            shown += os.read(controller, 4096)
        except OSError:
            break
    os.close(controller)
    assert process.wait(timeout=60) == 0
    text = shown.decode()
    assert re.search(
        r"compiling for 1 seed\(s\): 0 s.*compiled for 1 seed\(s\) in \d+\.\d s\r\n", text, re.S
    )
    for part in (
        "digits seed 1 epoch 1 of 2:",
        "digits seed 1 epoch 2 of 2:",
        "loss=",
        "accuracy=",
        "/720 [",
        "<",
    ):
        assert part in text
    assert "digits seed 1 epoch  1 of 2 " in text


def test_a_wheel_finds_the_recipes_from_any_folder(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    names = sorted(
        path.name for path in (tmp_path / "installed" / "jaxdrill" / "configs").iterdir()
    )
    assert names == sorted(path.name for path in (ROOT / "configs").iterdir())
    assert (tmp_path / "installed" / "jaxdrill" / "py.typed").is_file()
    code, out, err = finish(
        start("--step", "2", "--dry-run", cwd=tmp_path, PYTHONPATH=str(tmp_path / "installed"))
    )
    assert code == 0, err
    assert out.split()[-1] == "9,606"

"""The command as a person types it, as a process of its own where that matters."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from importlib import import_module
from pathlib import Path

import pytest
from conftest import ROOT

import jaxdrill
from jaxdrill import config, data
from jaxdrill.errors import RunError, exit_code
from jaxdrill.main import main


def start(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "jaxdrill.main", *arguments]
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


def test_help_shows_every_field_with_its_default_and_loads_no_jax():
    code = (
        "import sys; from jaxdrill.main import main\n"
        "try: main(['--step', '4', '--help'])\n"
        "except SystemExit as exit: assert exit.code == 0\n"
        "assert 'jax' not in sys.modules and 'numpy' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    text = " ".join(done.stdout.split())
    assert "recipe (defaults of step_4)" in text
    momentum = "coefficient of the momentum buffer; only with name sgd; a number from 0 to below 1 (default: 0.95)"
    assert f"--optimizer.momentum X {momentum}" in text
    assert "rises; only with name triangle; a number above 0 and below 1 (default: 0.2)" in text
    assert "--execution.matmul-precision X" in text and "(default: float32)" in text
    assert "--schedule.name X" in text and "(default: constant)" in text
    for flag in (
        "--step",
        "--workdir",
        "--data-dir",
        "--offline",
        "--dry-run",
        "--seed",
        "--seeds",
        "--epochs",
    ):
        assert f"{flag} " in text
    assert "check RUN --min-accuracy X" in text


@pytest.mark.parametrize("step", [*config.steps(), "all"])
def test_help_of_each_step(step, capsys):
    with pytest.raises(SystemExit) as exited:
        main(["--step", step, "--help"])
    assert exited.value.code == 0
    assert f"(default: {config.load(step if step != 'all' else '5').goal})" in " ".join(
        capsys.readouterr().out.split()
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--step", "7"], "there is no step 7"),
        (["--step", "step_4_adm"], "there is no step step_4_adm; did you mean 4_adam?"),
        (["--step", "4-adam"], "there is no step 4-adam; did you mean 4_adam?"),
        (["--step", "none.toml"], "there is no recipe none.toml"),
        (["--batchsize", "3"], "--batchsize is unknown; did you mean --batch-size?"),
        (
            ["--learning-rate=3"],
            "--learning-rate is unknown; did you mean --optimizer.learning-rate?",
        ),
        (
            ["--optimizer.learning-rate=-1"],
            "--optimizer.learning-rate is -1; allowed: a number above 0",
        ),
        (
            ["--optimizer.learning-rate", "-1"],
            "--optimizer.learning-rate is -1; allowed: a number above 0",
        ),
        (["--epochs"], "argument --epochs: expected one argument"),
        (["--dropout.rate", "1"], "--dropout.rate is unknown"),
        (
            ["--hold-out", "5", "--data", "digits"],
            "hold_out is 5; allowed for digits: 0, or from 80",
        ),
        (["--evaluate-on", "validation", "--data", "digits"], "no images are held out"),
        (["--batch-size", "0"], "--batch-size is 0"),
        (
            ["--data", "mnit"],
            "data is mnit; did you mean mnist?; allowed: auto, mnist, fashion_mnist, kmnist, digits, or any name",
        ),
        (["--data", "digits", "--data-dir", "x"], "which digits does not use"),
    ],
)
def test_wrong_usage(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("jaxdrill: ") and message in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--optimizer.lr", "--optimizer.learning-rate"),
        ("--optim.lr=0.1", "--optimizer.learning-rate"),
        ("--lr", "--optimizer.learning-rate"),
        ("--learning_rate", "--optimizer.learning-rate"),
        ("--optimizer.learning_rate", "--optimizer.learning-rate"),
        ("--lerning-rate", "--optimizer.learning-rate"),
        ("--batchsize", "--batch-size"),
        ("--Batch_Size", "--batch-size"),
        ("--bs", "--batch-size"),
        ("--epoch", "--epochs"),
        ("--num-epochs", "--epochs"),
        ("--momentum", "--optimizer.momentum"),
        ("--beta1", "--optimizer.beta-1"),
        ("--rotation", "--augmentation.rotation-degrees"),
        ("--schedule.epochs", "--schedule.every-epochs"),
        ("--dryrun", "--dry-run"),
        ("report", "python -m jaxdrill.report"),
        ("predict", "python -m jaxdrill.predict"),
        ("raport", "python -m jaxdrill.report"),
        ("chek", "python -m jaxdrill.main check"),
        ("train", "python -m jaxdrill.main"),
        ("3", "--step 3"),
        ("step_4_adam", "--step 4_adam"),
        ("mine.toml", "--step mine.toml"),
    ],
)
def test_an_unknown_word_names_what_was_meant(typed, meant, capsys):
    """As the first word, and as the last."""
    expected = f"jaxdrill: {typed.split('=')[0]} is unknown; did you mean {meant}? (--help shows every flag)\n"
    for arguments in ([typed, "--epochs", "3"], ["--step", "4", typed]):
        assert main(arguments) == 2
        assert capsys.readouterr().err == expected


def test_help_of_another_command_is_not_that_of_training(capsys):
    assert main(["report", "--help"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and "did you mean python -m jaxdrill.report?" in said.err


@pytest.mark.parametrize("typed", ["--dropout.rate", "--output", "hello", "--gpu"])
def test_a_word_like_no_other_gets_no_guess(typed, capsys):
    assert main(["--step", "4", typed]) == 2
    assert capsys.readouterr().err == f"jaxdrill: {typed} is unknown (--help shows every flag)\n"


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        (
            "main",
            ["check", "runs", "--min-acc", "0.9"],
            "--min-acc is unknown; did you mean --min-accuracy?",
        ),
        ("main", ["verify", "runs", "--epoch=1"], "--epoch is unknown; did you mean --epochs?"),
        ("report", ["--output", "x"], "--output is unknown; did you mean --out?"),
        ("predict", ["run", "image", "--jsn"], "--jsn is unknown; did you mean --json?"),
        ("export", ["run", "--too", "onnx"], "--too is unknown; did you mean --to?"),
        ("page", ["--seed", "3"], "--seed is unknown; did you mean --seeds?"),
    ],
)
def test_every_command_names_the_flag_that_was_meant(command, arguments, message, capsys):
    """Also where a required flag is missing only because it is misspelt."""
    assert import_module(f"jaxdrill.{command}").main(arguments) == 2
    assert capsys.readouterr().err == f"jaxdrill: {message} (--help shows every flag)\n"


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("main", []),
        ("main", ["check"]),
        ("main", ["verify"]),
        *((name, []) for name in ("report", "export", "page")),
    ],
)
def test_the_version_of_every_command(command, arguments, capsys):
    with pytest.raises(SystemExit) as exited:
        import_module(f"jaxdrill.{command}").main([*arguments, "--version"])
    assert exited.value.code == 0
    assert capsys.readouterr().out == f"jaxdrill {jaxdrill.__version__}\n" == "jaxdrill 0.1.0\n"


@pytest.mark.parametrize(
    ("arguments", "flag", "needed"),
    [
        (
            ["--step", "4_adam", "--optimizer.momentum", "0.95"],
            "--optimizer.momentum",
            "--optimizer.name sgd",
        ),
        (
            ["--optimizer.name", "adam", "--optimizer.nesterov", "true"],
            "--optimizer.nesterov",
            "--optimizer.name sgd",
        ),
        (
            ["--optimizer.nesterov", "true", "--optimizer.momentum", "0"],
            "--optimizer.nesterov",
            "--optimizer.momentum above 0",
        ),
        (["--optimizer.beta-2", "0.9"], "--optimizer.beta-2", "--optimizer.name adam"),
        (
            ["--step", "4", "--schedule.factor", "0.5"],
            "--schedule.factor",
            "--schedule.name step or exponential",
        ),
        (
            ["--step", "5_exponential", "--schedule.every-epochs", "3"],
            "--schedule.every-epochs",
            "--schedule.name step",
        ),
        (["--schedule.warmup", "0.5"], "--schedule.warmup", "--schedule.name triangle"),
        (
            ["--step", "3", "--augmentation.rotation-fill", "0"],
            "--augmentation.rotation-fill",
            "--augmentation.rotation-degrees, --augmentation.scale or --augmentation.shift-pixels above 0",
        ),
        (
            ["--step", "all", "--schedule.warmup", "0.5", "--schedule.name", "step"],
            "--schedule.warmup",
            "--schedule.name triangle",
        ),
    ],
)
def test_a_flag_without_an_effect(arguments, flag, needed, capsys):
    assert main([*arguments, "--dry-run"]) == 2
    expected = (
        f"jaxdrill: {flag} has no effect: it needs {needed}. Remove it, or add what it needs.\n"
    )
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    "arguments",
    [
        ["--step", "4_adam", "--optimizer.beta-1", "0.8"],
        ["--step", "4_adam", "--optimizer.name", "sgd", "--optimizer.momentum", "0.5"],
        ["--step", "3", "--augmentation.scale", "0.1", "--augmentation.interpolation", "bilinear"],
        ["--schedule.name", "triangle", "--schedule.warmup", "0.5"],
        ["--step", "all", "--optimizer.momentum", "0.5"],  # in all steps but one
    ],
)
def test_a_flag_with_an_effect(arguments, capsys):
    assert main([*arguments, "--dry-run"]) == 0
    said = capsys.readouterr()
    assert said.err == "" and f"  {arguments[-2]} {arguments[-1]}\n" in said.out


@pytest.mark.parametrize(
    ("toml", "flags", "warned"),
    [
        ('name = "adam"\nmomentum = 0.5', [], True),
        ("momentum = 0.5", [], False),  # nothing beside it says that it has no effect
        ('name = "sgd"\nmomentum = 0.5', [], False),
        ('name = "adam"\nmomentum = 0.5', ["--optimizer.name", "sgd"], False),
    ],
)
def test_a_recipes_field_without_an_effect_is_worth_one_warning(
    toml, flags, warned, tmp_path, capsys
):
    """What it inherits is not: step 4 with Adam has step 4's momentum."""
    path = tmp_path / "mine.toml"
    path.write_text(f'extends = "step_4_adam"\n[optimizer]\n{toml}\n')
    assert main(["--step", str(path), "--dry-run", *flags]) == 0
    what = "optimizer.momentum has no effect: it needs optimizer.name sgd. Remove it, or add what it needs."
    assert capsys.readouterr().err == (f"jaxdrill: warning: {path}: {what}\n" if warned else "")


def test_a_warning_about_a_recipe_is_printed_once(tmp_path, capsys):
    path = tmp_path / "mine.toml"
    path.write_text("network = [{ conv = 10, kernel = 28, relu = true }]")
    assert main(["--step", str(path), "--dry-run"]) == 0
    warning = f"warning: {path}: the last convolution has relu = true, so no logit is below 0"
    assert capsys.readouterr().err == f"jaxdrill: {warning}\n"


@pytest.mark.parametrize(
    "toml",
    ["epochs = ", 'extends = "mine"', 'extends = "none"', "network = [{ conv = 10, kernel = 29 }]"],
)
def test_a_wrong_recipe(toml, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(toml)
    assert main(["--step", "mine.toml"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["mine.toml"]


def test_a_dataset_that_cannot_be_had(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["--data", "mnist", "--offline"]) == 1
    assert main(["--data-dir", "nowhere"]) == 1
    assert capsys.readouterr().err.count("\n") == 2
    assert list(tmp_path.iterdir()) == []


def test_dry_run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["--step", "5", "--dry-run", "--optimizer.learning-rate", "0.02"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  --optimizer.learning-rate 0.02" in lines and "  --schedule.name step" in lines
    table = [" ".join(line.split()) for line in lines]
    assert "3x3 conv relu batch_norm dropout 0.05 26x26x10 3x3 110" in table
    assert "6x6 average pool 1x1x16 32x32 0" in table
    assert table[-1] == "total 9,606"
    assert main(["--step", "all", "--dry-run"]) == 0
    totals = [line.split()[-1] for line in capsys.readouterr().out.splitlines() if "total" in line]
    assert totals == ["194,884"] + ["9,606"] * 6 + ["9,598", "9,400", "9,598", "2,878"]
    assert list(tmp_path.iterdir()) == []


def test_all_steps_into_one_workdir(tmp_path, monkeypatch, capsys):
    """And the report is offered for the folder, quoted for the shell."""
    seen = []

    def train(config, workdir, stop, data_dir, offline, command, parent, restart):
        seen.append((config.name, workdir, parent))
        return workdir or parent / config.name

    monkeypatch.setattr("jaxdrill.runs.session.train", train)
    monkeypatch.setattr("jaxdrill.report.summary", lambda folders, width: "the table")
    assert main(["--step", "all", "--workdir", str(tmp_path / "my runs")]) == 0
    assert seen == [(name, None, tmp_path / "my runs") for name in config.steps()]
    assert capsys.readouterr().out.endswith(
        f"report: python -m jaxdrill.report '{tmp_path / 'my runs'}'\n"
    )
    assert main(["--step", "3"]) == 0
    assert seen[-1] == ("step_3", None, Path("runs"))
    assert main(["--step", "step_3", "--workdir", "elsewhere"]) == 0
    assert seen[-1][:2] == ("step_3", Path("elsewhere"))
    assert capsys.readouterr().out.endswith("report: python -m jaxdrill.report elsewhere\n")


def test_a_table_that_cannot_be_made_is_no_success(tmp_path, monkeypatch, capsys):
    def fail(folders, width):
        raise RunError("the table cannot be made")

    monkeypatch.setattr("jaxdrill.runs.session.train", lambda *_: tmp_path)
    monkeypatch.setattr("jaxdrill.report.summary", fail)
    assert main(["--step", "3"]) == 1
    assert capsys.readouterr().err == "jaxdrill: the table cannot be made\n"


def test_the_default_folder_names_a_dataset_that_is_not_mnist(
    tiny_recipe, few_digits, tmp_path, monkeypatch
):
    """So that MNIST's run is not refused after one on the stand-in."""
    monkeypatch.chdir(tmp_path)
    command = ["--step", str(tiny_recipe), "--epochs", "1"]
    assert main([*command, "--data", "digits"]) == 0
    monkeypatch.setattr(
        "jaxdrill.data.load", lambda *_: few_digits.__class__("mnist", *data.digits.load_arrays())
    )
    assert main([*command, "--data", "mnist"]) == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["tiny", "tiny_digits"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_between_steps_stops_the_drill(number, tmp_path, monkeypatch, capsys):
    """It comes as the first step ends."""

    def load(*_):
        os.kill(os.getpid(), number)
        return few

    few = data.Dataset("digits", *(array[:600] for array in data.digits.load_arrays()))
    monkeypatch.setattr("jaxdrill.data.load", load)
    assert main(["--step", "all", "--workdir", str(tmp_path)]) == 128 + number
    assert (
        capsys.readouterr().err.splitlines()[-1] == "jaxdrill: stopped before anything was trained"
    )
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


def test_a_whole_run_without_a_network(tiny_recipe, tmp_path):
    """`--data auto` with nothing cached: one warning, digits, and every number says so; no bar into a pipe."""
    code, out, err = finish(
        start("--step", str(tiny_recipe), "--data", "auto", "--offline", cwd=tmp_path)
    )
    assert code == 0, err
    assert err.count("\n") == 1 and "training on digits instead" in err
    numbers = [line for line in out.splitlines() if "%" in line and line.startswith("digits")]
    assert len(numbers) == 2 and all(
        line.startswith("digits seed 1 epoch ") and " of 2 " in line for line in numbers
    )
    assert re.fullmatch(r"compiled for 1 seed\(s\) in \d+\.\d s", out.splitlines()[1])
    assert out.split("\n\n")[1].splitlines()[-1].split()[:5] == [
        "tiny",
        "digits",
        "1,548",
        "0.06",
        "2",
    ]
    assert "|" not in out
    assert "report: python -m jaxdrill.report runs/tiny_digits\n" in out
    assert (
        json.loads((tmp_path / "runs" / "tiny_digits" / "run.json").read_text())["dataset"]
        == "digits"
    )


def test_a_signal_in_the_middle_of_an_epoch(tiny_recipe, tmp_path):
    """The run stops, says so, and continues to the same bits as a run without a stop."""
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
    assert (
        last.startswith("jaxdrill: stopped at step ")
        and "the same command continues from there" in last
    )
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
    again, out, err = finish(start(*command, "--workdir", str(tmp_path / "cut")))
    assert again == 0, err
    assert f"step {stopped_at}" in out
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
    """A terminal, as `pty` makes one, gets a bar with loss, accuracy and time left."""
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


def test_an_error_of_the_system_without_a_file_says_what_it_is(capsys):
    def load():
        raise OSError("libtorch_global_deps.so: cannot open shared object file")

    assert exit_code(load) == 1
    assert (
        capsys.readouterr().err
        == "jaxdrill: libtorch_global_deps.so: cannot open shared object file\n"
    )


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

"""The command `jaxdrill`: its subcommands, help, version, and messages for unknown words."""

import os
import subprocess
import sys
from importlib import import_module

import pytest
from conftest import ROOT

import jaxdrill
from jaxdrill import config, main
from jaxdrill.errors import exit_code
from jaxdrill.main import COMMANDS


def exits(*arguments: str) -> None:
    """Run a command that prints a text and exits with code 0."""
    with pytest.raises(SystemExit) as exited:
        main.main(arguments)
    assert exited.value.code == 0


def test_help_lists_every_command(capsys):
    for arguments in ([], ["--help"], ["-h"]):
        exits(*arguments)
        lines = capsys.readouterr().out.splitlines()
        start = lines.index("commands:") + 1
        listed = [line.split()[0] for line in lines[start : start + len(COMMANDS)]]
        assert listed == [*COMMANDS] and lines[start + len(COMMANDS)] == ""
        assert listed == ["train", "report", "predict", "export", "page", "check", "verify"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_begins_with_two_lines_and_three_examples(command, capsys):
    exits(command, "--help")
    lines = capsys.readouterr().out.splitlines()
    assert all(lines[:2]) and lines[2:4] == ["", "examples:"] and lines[7] == ""
    assert all(line.startswith(f"  jaxdrill {command}") for line in lines[4:7])
    assert max(map(len, lines[:8])) <= 100 and lines[8].startswith(f"usage: jaxdrill {command}")


def test_help_of_training_shows_every_field_with_its_default():
    """And neither JAX nor NumPy is imported for help, versions, dry runs and mistakes."""
    code = "import sys; from jaxdrill.main import main\n"
    code += "def run(*arguments):\n  try: return main(arguments)\n"
    code += "  except SystemExit as exited: return exited.code\n"
    code += "assert run('train', '--step', '4', '--help') == 0\n"
    code += "assert run('--help') == run('--version') == run('--step', '6', '--dry-run') == 0\n"
    code += "assert run('verify', '--help') == run('check', '--help') == 0\n"
    code += "assert run('--step', '7') == run('trian') == run('train', '--epochs', '0') == 2\n"
    code += "assert 'jax' not in sys.modules and 'numpy' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    text = " ".join(done.stdout.split("Compare the mean")[0].split())
    assert "recipe (defaults of step_4)" in text
    momentum = "momentum; >= 0 and < 1; only with optimizer.name sgd (default: 0.95)"
    assert f"--optimizer.momentum FLOAT {momentum}" in text
    assert "rises; > 0 and < 1; only with schedule.name triangle (default: 0.2)" in text
    assert "--execution.matmul-precision float32|tensorfloat32|bfloat16" in text
    assert "--schedule.name constant|step|exponential|triangle" in text
    assert "--optimizer.nesterov true|false" in text and "(default: false)" in text
    for flag in ("--step TEXT", "--workdir DIR", "--data-dir DIR", "--offline", "--dry-run"):
        assert f"{flag} " in text
    for flag in ("--seed INT", "--seeds INT|INT,INT,...", "--epochs INT", "--data TEXT"):
        assert f"{flag} " in text


@pytest.mark.parametrize("step", [*config.steps(), "all", "2,3"])
def test_help_of_each_step(step, capsys):
    exits("--step", step, "--help")
    shown = step if step in config.steps() else "5"
    assert f"(default: {config.load(shown).goal})" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_the_version_of_every_command(command, capsys):
    for arguments in ([command, "--version"], ["--version"]):
        exits(*arguments)
        expected = f"jaxdrill {jaxdrill.__version__}\n"
        assert capsys.readouterr().out == expected == "jaxdrill 0.1.0\n"


def test_a_module_of_each_package_runs_the_same_command(capsys):
    for name in ("report", "predict", "export", "page"):
        module = import_module(f"jaxdrill.{name}.__main__")
        with pytest.raises(SystemExit):
            module.main(["--help"])
        own = capsys.readouterr().out
        exits(name, "--help")
        assert capsys.readouterr().out == own


def test_every_form_of_the_command():
    """`python -m jaxdrill`, and `python -m jaxdrill.main` without a subcommand."""
    forms = [
        ["jaxdrill", "train", "--step", "2"],
        ["jaxdrill.main", "--step", "2"],
        ["jaxdrill.main", "train", "--step", "2"],
    ]
    outputs = {
        subprocess.run(
            [sys.executable, "-m", *form, "--dry-run"],
            env=os.environ | {"PYTHONPATH": f"{ROOT}"},
            capture_output=True,
            check=True,
        ).stdout
        for form in forms
    }
    assert len(outputs) == 1 and b"9,606" in outputs.pop()


@pytest.mark.parametrize(
    ("command", "platform"),
    [("report", "cpu"), ("train", None), ("verify", None), ("--step", None)],
)
def test_only_a_process_without_training_defaults_to_cpu(command, platform, monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(main, "_find", lambda _: lambda _: None)
    assert main.main([command, "x"]) == 0
    assert "JAX_PLATFORMS" not in os.environ
    monkeypatch.setattr(sys, "argv", ["jaxdrill", command, "x"])
    monkeypatch.setenv("JAX_PLATFORMS", "")  # so that it is restored
    monkeypatch.delenv("JAX_PLATFORMS")
    assert main.main() == 0
    assert os.environ.get("JAX_PLATFORMS") == platform


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
        ("raport", "jaxdrill report"),
        ("chek", "jaxdrill check"),
        ("3", "jaxdrill train --step 3"),
        ("step_4_adam", "jaxdrill train --step 4_adam"),
        ("mine.toml", "jaxdrill train --step mine.toml"),
    ],
)
def test_an_unknown_word_names_the_closest_valid_word(typed, meant, capsys):
    """As the first word, after `train`, and as the last word."""
    expected = f"jaxdrill: {typed.split('=')[0]} is unknown; did you mean {meant}?"
    for arguments in ([typed, "--epochs", "3"], ["train", typed], ["--step", "4", typed]):
        assert main.main(arguments) == 2
        command = "jaxdrill train"
        if arguments[0] == typed and not typed.startswith("-"):
            command = "jaxdrill"
        assert capsys.readouterr().err == f"{expected} (see {command} --help)\n"


def test_a_command_after_a_flag_is_named(capsys):
    for command in ("report", "predict", "train"):
        assert main.main(["--step", "4", command]) == 2
        assert f"did you mean jaxdrill {command}?" in capsys.readouterr().err


@pytest.mark.parametrize("typed", ["--dropout.rate", "--output", "hello", "--gpu"])
def test_a_dissimilar_word_gets_no_suggestion(typed, capsys):
    assert main.main(["--step", "4", typed]) == 2
    expected = f"jaxdrill: {typed} is unknown (see jaxdrill train --help)\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("check runs --min-acc 0.9", "--min-acc is unknown; did you mean --min-accuracy?"),
        ("verify runs --epoch=1", "--epoch is unknown; did you mean --epochs?"),
        ("report --output x", "--output is unknown; did you mean --out?"),
        ("predict run image --jsn", "--jsn is unknown; did you mean --json?"),
        ("export run --too onnx", "--too is unknown; did you mean --to?"),
        ("page --seed 3", "--seed is unknown; did you mean --seeds?"),
    ],
)
def test_every_command_names_the_closest_flag(arguments, message, capsys):
    """Also if a required flag is missing only because it is misspelled."""
    command, *_ = arguments.split()
    assert main.main(arguments.split()) == 2
    assert capsys.readouterr().err == f"jaxdrill: {message} (see jaxdrill {command} --help)\n"


def test_an_error_of_the_system_without_a_file_is_printed(capsys):
    def load():
        raise OSError("libtorch_global_deps.so: cannot open shared object file")

    assert exit_code(load) == 1
    message = "libtorch_global_deps.so: cannot open shared object file"
    assert capsys.readouterr().err == f"jaxdrill: {message}\n"

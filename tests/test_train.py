"""The command `jaxdrill train`: flags, recipes, dry runs and several steps, without a training."""

from pathlib import Path

import pytest

from jaxdrill import config
from jaxdrill.errors import RunError
from jaxdrill.main import main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--step", "7"], "step 7 does not exist"),
        (["--step", "step_4_adm"], "step step_4_adm does not exist; did you mean 4_adam?"),
        (["--step", "4-adam"], "step 4-adam does not exist; did you mean 4_adam?"),
        (["--step", "none.toml"], "the recipe none.toml does not exist"),
        (["--step", "3,7"], "step 7 does not exist"),
        (["--step", "3,4,step_3"], "--step 3,4,step_3 contains step_3 twice"),
        (["--step", "3,"], "step does not exist (steps: "),
        (["--batchsize", "3"], "--batchsize is unknown; did you mean --batch-size?"),
        (
            ["--learning-rate=3"],
            "--learning-rate is unknown; did you mean --optimizer.learning-rate?",
        ),
        (
            ["--optimizer.learning-rate=-1"],
            "--optimizer.learning-rate is -1; allowed: a number > 0",
        ),
        (["--optimizer.learning-rate", "-1"], "--optimizer.learning-rate is -1; allowed: a number"),
        (["--epochs"], "argument --epochs: expected one argument"),
        (["--dropout.rate", "1"], "--dropout.rate is unknown"),
        (
            ["--hold-out", "5", "--data", "digits"],
            "hold_out is 5; allowed for digits: 0, or from 80",
        ),
        (["--evaluate-on", "validation", "--data", "digits"], "no images are held out"),
        (["--batch-size", "0"], "--batch-size is 0"),
        (["--seeds", "1,1"], "--seeds is [1, 1]; allowed: an integer > 0, or different seeds >= 0"),
        (["--seeds", "2,-1"], "--seeds is [2, -1]; allowed: "),
        (["--seeds", "1,x"], "--seeds is '1,x'; allowed: "),
        (["--seeds", "1,2", "--seed", "3"], "--seed has no effect if --seeds is a list"),
        (
            ["--data", "mnit"],
            "data is mnit; did you mean mnist?; allowed: auto, mnist, fashion_mnist, kmnist, "
            "digits, or any name",
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
            "--augmentation.rotation-degrees, --augmentation.scale or "
            "--augmentation.shift-pixels above 0",
        ),
        (
            ["--step", "all", "--schedule.warmup", "0.5", "--schedule.name", "step"],
            "--schedule.warmup",
            "--schedule.name triangle",
        ),
    ],
)
def test_a_flag_without_an_effect_is_rejected(arguments, flag, needed, capsys):
    assert main([*arguments, "--dry-run"]) == 2
    what = f"{flag} has no effect: it needs {needed}. Remove it, or add what it needs."
    assert capsys.readouterr().err == f"jaxdrill: {what}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--step", "4_adam", "--optimizer.beta-1", "0.8"],
        ["--step", "4_adam", "--optimizer.name", "sgd", "--optimizer.momentum", "0.5"],
        ["--step", "3", "--augmentation.scale", "0.1", "--augmentation.interpolation", "bilinear"],
        ["--schedule.name", "triangle", "--schedule.warmup", "0.5"],
        ["--step", "all", "--optimizer.momentum", "0.5"],  # in all steps except one
    ],
)
def test_a_flag_with_an_effect_is_accepted(arguments, capsys):
    assert main([*arguments, "--dry-run"]) == 0
    said = capsys.readouterr()
    assert said.err == "" and f"* {arguments[-2]} {arguments[-1]}\n" in said.out


@pytest.mark.parametrize(
    ("toml", "flags", "warned"),
    [
        ('name = "adam"\nmomentum = 0.5', [], True),
        ("momentum = 0.5", [], False),  # The file does not say that it has no effect.
        ('name = "sgd"\nmomentum = 0.5', [], False),
        ('name = "adam"\nmomentum = 0.5', ["--optimizer.name", "sgd"], False),
    ],
)
def test_a_field_of_a_recipe_without_an_effect_gives_one_warning(
    toml, flags, warned, tmp_path, capsys
):
    """Inherited fields give no warning: step 4 with Adam inherits the momentum of step 4."""
    path = tmp_path / "mine.toml"
    path.write_text(f'extends = "step_4_adam"\n[optimizer]\n{toml}\n')
    assert main(["--step", str(path), "--dry-run", *flags]) == 0
    what = "optimizer.momentum has no effect: it needs optimizer.name sgd. "
    what += "Remove it, or add what it needs."
    assert capsys.readouterr().err == (f"jaxdrill: warning: {path}: {what}\n" if warned else "")


def test_a_warning_about_a_recipe_is_printed_once(tmp_path, capsys):
    path = tmp_path / "mine.toml"
    path.write_text("network = [{ conv = 10, kernel = 28, relu = true }]")
    assert main(["--step", str(path), "--dry-run"]) == 0
    why = "the last convolution has relu = true, so logits cannot be negative"
    assert capsys.readouterr().err == f"jaxdrill: warning: {path}: {why}\n"


@pytest.mark.parametrize(
    "toml",
    ["epochs = ", 'extends = "mine"', 'extends = "none"', "network = [{ conv = 10, kernel = 29 }]"],
)
def test_a_wrong_recipe_gives_one_line(toml, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(toml)
    assert main(["--step", "mine.toml"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["mine.toml"]


def test_a_dataset_that_cannot_be_read_gives_one_line(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["--data", "mnist", "--offline"]) == 1
    assert main(["--data-dir", "nowhere"]) == 1
    assert capsys.readouterr().err.count("\n") == 2
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_prints_the_recipe_and_the_layer_table(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["--step", "5", "--dry-run", "--optimizer.learning-rate", "0.02"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "step_5  (* differs from step_4)"
    table = [" ".join(line.split()) for line in lines]
    assert "3x3 conv relu batch_norm dropout 0.05 26x26x10 3x3 110" in table
    assert "6x6 average pool 1x1x16 32x32 0" in table
    assert table[-1] == "total 9,606"
    assert main(["--step", "all", "--dry-run"]) == 0
    totals = [line.split()[-1] for line in capsys.readouterr().out.splitlines() if "total" in line]
    assert totals == ["194,884"] + ["9,606"] * 6 + ["9,598", "9,400", "9,598", "2,878"]
    assert list(tmp_path.iterdir()) == []


def marked(text: str) -> list[str]:
    """Return the lines of a dry run that are marked, without the mark and the output sizes."""
    return [line[2:].split("  ")[0] for line in text.splitlines() if line.startswith("* ")]


def test_a_dry_run_marks_what_differs_from_the_parent_recipe(capsys, tmp_path):
    assert main(["--step", "5", "--seeds", "1,2,7", "--dry-run"]) == 0
    goal = "--goal 'stay at 99.4 % or more, in fewer than 15 epochs'"
    assert marked(capsys.readouterr().out) == [goal, "--seeds 1,2,7", "--schedule.name step"]
    assert main(["--step", "3", "--dry-run"]) == 0
    dropped, size = marked(capsys.readouterr().out)[1:], "conv relu batch_norm dropout 0.05"
    assert dropped == [f"3x3 {size}"] * 5
    assert main(["--step", "1", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("step_1\n") and marked(out) == []
    (tmp_path / "step_5.toml").write_text('extends = "mine"\nbatch_size = 64')
    (tmp_path / "mine.toml").write_text('extends = "step_3"\nepochs = 3')
    assert main(["--step", str(tmp_path / "step_5.toml"), "--dry-run"]) == 0
    assert marked(capsys.readouterr().out) == ["--batch-size 64"]


@pytest.fixture
def trainings(tmp_path, monkeypatch) -> list[tuple]:
    """Replace the training. Return the name, folder, parent folder and command of each call."""
    seen = []

    def train(config, workdir, stop, data_dir, offline, command, parent, restart):
        seen.append((config.name, workdir, parent, command))
        return workdir or parent / config.name

    monkeypatch.setattr("jaxdrill.runs.session.train", train)
    monkeypatch.setattr("jaxdrill.report.summary", lambda folders, width: "the table")
    return seen


@pytest.mark.parametrize("step", ["all", "2,3,4"])
def test_several_steps_are_trained_into_one_folder(step, trainings, tmp_path, capsys):
    """The suggested report is that of the folder, quoted for the shell."""
    parent, names = tmp_path / "my runs", config.steps() if step == "all" else ["2", "3", "4"]
    assert main(["train", "--step", step, "--workdir", str(parent), "--restart"]) == 0
    command = ["jaxdrill", "train", "--step", step, "--workdir", str(parent)]
    steps = [name if name.startswith("step_") else f"step_{name}" for name in names]
    assert trainings == [(name, None, parent, command) for name in steps]
    assert capsys.readouterr().out.endswith(f"report: jaxdrill report '{parent}'\n")


def test_one_step_is_trained_into_its_own_folder(trainings, capsys):
    assert main(["--step", "3"]) == 0
    command = ["jaxdrill", "train", "--step", "3"]
    assert trainings[-1] == ("step_3", None, Path("runs"), command)
    assert main(["train", "--step", "step_3", "--workdir", "elsewhere"]) == 0
    assert trainings[-1][:2] == ("step_3", Path("elsewhere"))
    assert capsys.readouterr().out.endswith("report: jaxdrill report elsewhere\n")


def test_a_recipe_whose_path_contains_a_comma(trainings, tmp_path):
    (tmp_path / "a,b.toml").write_text('extends = "step_3"')
    assert main(["--step", str(tmp_path / "a,b.toml")]) == 0
    assert trainings[-1][0] == "a,b"


def test_a_summary_that_fails_is_not_a_success(trainings, monkeypatch, capsys):
    def fail(folders, width):
        raise RunError("the table cannot be made")

    monkeypatch.setattr("jaxdrill.report.summary", fail)
    assert main(["--step", "3"]) == 1
    assert capsys.readouterr().err == "jaxdrill: the table cannot be made\n"

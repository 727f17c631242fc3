"""The commit of the code, and what determines the results of a run."""

import subprocess
from pathlib import Path

import pytest
from conftest import ROOT

import jaxdrill
from jaxdrill import config
from jaxdrill.errors import UsageError
from jaxdrill.runs import provenance


def git(folder, *arguments):
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_the_commit_is_that_of_the_package(tmp_path):
    """A repository around the environment of an installed package is ignored."""
    installed = tmp_path / ".venv" / "lib" / "jaxdrill"
    installed.mkdir(parents=True)
    assert provenance.git_commit(installed) is None
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "x")
    assert provenance.git_commit(installed) is None
    package = tmp_path / "jaxdrill"
    package.mkdir()
    commit = provenance.git_commit(package)
    assert commit is not None and len(commit) == 40


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="the tests are not in a Git repository")
def test_the_commit_of_a_clone():
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    assert provenance.git_commit(Path(jaxdrill.__file__).parent).removesuffix("-dirty") == head


def test_the_identity_contains_what_determines_the_results():
    recipe = config.load("5")
    identity = provenance.identity(recipe, "sum")
    assert identity["optimizer.learning_rate"] == 0.01 and identity["generator"] == "threefry2x32"
    free = config.load("5", {"epochs": "3", "seed": "7", "seeds": "9", "execution.epoch": "scan"})
    assert provenance.identity(free, "sum") == identity
    for flag, text in (
        ("batch_size", "64"),
        ("execution.matmul_precision", "bfloat16"),
        ("hold_out", "100"),
    ):
        assert provenance.identity(config.load("5", {flag: text}), "sum") != identity
    assert provenance.identity(recipe, "other") != identity


def test_runs_whose_held_out_images_leaked_are_not_resumed(tmp_path):
    """Older versions held out single drawings of a digit. The hold-out of MNIST is unchanged."""
    recipe = config.load("5", {"hold_out": "1000"})
    assert "hold_out_by" not in provenance.identity(
        recipe.model_copy(update={"data": "mnist"}), "sum"
    )
    identity = provenance.identity(recipe.model_copy(update={"data": "digits"}), "sum")
    earlier = {key: value for key, value in identity.items() if key != "hold_out_by"}
    message = "holds a run with hold_out_by = None; now it is source image. Pass --restart"
    with pytest.raises(UsageError, match=message):
        provenance.check_same_identity(tmp_path, earlier, identity)


@pytest.mark.parametrize(
    ("step", "base", "changed", "what"),
    [
        ("2", "1", {}, "name = step_1; now it is step_2"),
        ("2", "2", {"network": []}, "another network"),
        (
            "5",
            "5",
            {"optimizer.learning_rate": 0.02},
            "optimizer.learning_rate = 0.01; now it is 0.02",
        ),
        (
            "6",
            "6",
            {"epochs": 30},
            "epochs = 15; now it is 30 (its schedule ends with the last epoch)",
        ),
    ],
)
def test_the_message_about_another_run_names_the_field(tmp_path, step, base, changed, what):
    """It contains both values, but not the layers of a network."""
    old, new = (provenance.identity(config.load(name), "sum") for name in (base, step))
    with pytest.raises(UsageError) as error:
        provenance.check_same_identity(tmp_path, old, new | changed)
    how = "Pass --restart to archive that run and start over, or pass another --workdir."
    assert str(error.value) == f"{tmp_path} holds a run with {what}. {how}"

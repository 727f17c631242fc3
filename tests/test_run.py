"""The run folder: what it holds, and how a run continues."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from jaxdrill import run as run_module
from jaxdrill.folder import read, read_arrays
from jaxdrill.main import main

FILES = {"config.json", "run.json", "metrics.jsonl", "checkpoints", "predictions", "images.npz", "tensorboard"}
KEYS = ["seed", "epoch", "step", "learning_rate", "train_loss", "train_accuracy", "test_loss", "test_accuracy",
        "test_examples", "seconds"]  # fmt: skip


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without_seconds(folder: Path) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows(folder)]


@pytest.fixture(scope="module")
def finished(tiny_recipe, tmp_path_factory) -> Path:
    """Two seeds, two epochs each, without a stop."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert main(["--step", str(tiny_recipe), "--workdir", str(folder), "--seed", "3", "--seeds", "2"]) == 0
    return folder


def test_the_folder(finished, tiny_recipe):
    assert {path.name for path in finished.iterdir()} == FILES
    assert [list(row) for row in rows(finished)] == [KEYS] * 4
    assert [(row["seed"], row["epoch"], row["step"]) for row in rows(finished)] == [
        (3, 0, 3), (3, 1, 6), (4, 0, 3), (4, 1, 6),
    ]  # fmt: skip
    for row in rows(finished):
        assert row["test_examples"] == 360
        assert row["learning_rate"] == 0.01
        assert 0 <= row["train_accuracy"] <= 1 and 0 <= row["test_accuracy"] <= 1
        assert row["seconds"] > 0
    about = json.loads((finished / "run.json").read_text())
    assert about["command"][:4] == ["python", "-m", "jaxdrill.main", "--step"]
    assert (about["step"], about["dataset"], about["parameters"]) == ("tiny", "digits", 25 * 4 + 8 + 36 * 4 * 10)
    assert len(about["dataset_sha256"]) == 64
    assert set(about["versions"]) == {"python", "jaxdrill", "jax", "jaxlib", "flax", "optax"}
    assert len(about["devices"]) == 2
    assert set(about["seconds"]) == {"data", "compile", "train", "evaluation"}
    assert all(value > 0 for value in about["seconds"].values())
    config = json.loads((finished / "config.json").read_text())
    assert (config["name"], config["data"], config["seed"], config["seeds"]) == ("tiny", "digits", 3, 2)
    assert config["network"][1] == {"pool": "max", "size": 4}


def test_a_finished_run_is_not_trained_again(finished, tiny_recipe, capsys):
    before = (finished / "metrics.jsonl").read_text()
    assert main(["--step", str(tiny_recipe), "--workdir", str(finished), "--seed", "3", "--seeds", "2"]) == 0
    assert (finished / "metrics.jsonl").read_text() == before
    out = capsys.readouterr().out
    assert "epoch  0" not in out
    assert "| tiny | digits | 1,548 | 2 | 2 |" in out


def test_predictions_and_images_are_those_of_the_last_epoch(finished, digits):
    run = read(finished)
    assert (run.seeds, run.epochs, run.predicted.shape) == ([3, 4], 2, (2, 360))
    np.testing.assert_array_equal(run.labels, digits.test_labels)
    np.testing.assert_allclose(run.probabilities.astype(np.float64).sum(axis=-1), 1, atol=2e-3)
    firsts = {int(np.argmax(digits.test_labels == digit)) for digit in range(10)}
    assert set(run.images) == firsts | set(np.flatnonzero((run.predicted != run.labels).any(axis=0)).tolist())
    assert all(np.array_equal(image, digits.test_images[i, :, :, 0]) for i, image in run.images.items())


def test_predictions_that_are_lost_are_made_again(finished, tiny_recipe, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    file = folder / "predictions" / "seed_4.npz"
    before, rows_before = read_arrays(file), rows(folder)
    file.unlink()
    (folder / "images.npz").unlink()
    assert main(["--step", str(tiny_recipe), "--workdir", str(folder), "--seed", "3", "--seeds", "2"]) == 0
    assert all(np.array_equal(value, before[name]) for name, value in read_arrays(file).items())
    assert rows(folder) == rows_before
    (folder / "images.npz").unlink()  # as after a crash just before its writing
    assert main(["--step", str(tiny_recipe), "--workdir", str(folder), "--seed", "3", "--seeds", "2"]) == 0
    assert set(read(folder).images) == set(read(finished).images)


def test_seconds_add_up_and_earlier_versions_are_told(finished, tiny_recipe, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    old = json.loads((folder / "run.json").read_text())
    old["versions"]["jax"] = "0.1"
    (folder / "run.json").write_text(json.dumps(old))
    command = ["--step", str(tiny_recipe), "--workdir", str(folder), "--seed", "3", "--seeds", "2"]
    assert main(command) == 0
    assert json.loads((folder / "run.json").read_text()) == old  # nothing was left to do
    assert main([*command, "--epochs", "3"]) == 0
    new = json.loads((folder / "run.json").read_text())
    assert [each["versions"]["jax"] for each in new["earlier_sessions"]] == ["0.1"]
    assert all(new["seconds"][phase] > old["seconds"][phase] for phase in old["seconds"])
    assert read(folder).epochs == 3


def test_a_run_of_another_version_is_left_alone(finished, tiny_recipe, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    about = json.loads((folder / "run.json").read_text())
    del about["format"]
    (folder / "run.json").write_text(json.dumps(about))
    assert main(["--step", str(tiny_recipe), "--workdir", str(folder), "--seed", "3", "--seeds", "3"]) == 2
    assert "holds a run of another version of jaxdrill (its format is 1, now it is 2)" in capsys.readouterr().err


def test_other_seeds_that_are_half_trained_do_not_fail_the_command(tiny_recipe, tmp_path, capsys):
    command = ["--step", str(tiny_recipe), "--workdir", str(tmp_path / "run")]
    assert main([*command, "--seed", "1", "--epochs", "1"]) == 0
    assert main([*command, "--seed", "2"]) == 0
    said = capsys.readouterr()
    assert "is half written: seed 1 has 1 of 2 epochs; finish it with" in said.err and said.err.count("\n") == 1


def test_more_epochs_continue_a_run(finished, tiny_recipe, tmp_path):
    folder = tmp_path / "run"
    command = ["--step", str(tiny_recipe), "--workdir", str(folder), "--seed", "3", "--seeds", "2"]
    assert main([*command, "--epochs", "1"]) == 0
    assert len(rows(folder)) == 2
    assert main(command) == 0
    assert without_seconds(folder) == without_seconds(finished)


def test_more_seeds_continue_a_run(tiny_recipe, tmp_path):
    """In turn, a seed's bits do not depend on the others."""
    together, one_more = tmp_path / "together", tmp_path / "one_more"
    command = ["--step", str(tiny_recipe), "--execution.seeds-together", "1", "--workdir"]
    assert main([*command, str(one_more), "--seed", "3"]) == 0
    assert main([*command, str(one_more), "--seed", "3", "--seeds", "2"]) == 0
    assert main([*command, str(together), "--seed", "3", "--seeds", "2"]) == 0
    assert without_seconds(one_more) == without_seconds(together)
    assert len(rows(together)) == 4


@pytest.mark.parametrize(
    ("begun", "seed", "seeds", "together", "groups"),
    [
        ([], 1, 5, 2, [(1, 2), (3, 4), (5, 5)]),
        ([], 1, 5, 1, [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5)]),
        ([], 7, 3, 32, [(7, 9)]),
        (["seed_1"], 1, 4, 2, [(1, 1), (2, 3), (4, 4)]),
        (["seeds_2_to_3"], 1, 5, 4, [(1, 1), (2, 3), (4, 5)]),
        (["seeds_1_to_4"], 3, 1, 1, [(1, 4)]),
        (["seeds_1_to_4"], 5, 1, 1, [(5, 5)]),
    ],
)
def test_groups_of_seeds(tiny, tmp_path, begun, seed, seeds, together, groups):
    for name in begun:
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    wanted = dataclasses.replace(tiny, seed=seed, seeds=seeds)
    assert [(group[0], group[-1]) for group in run_module._groups(wanted, tmp_path, together)] == groups


def test_how_it_runs_may_change(tiny_recipe, tmp_path):
    folder = tmp_path / "run"
    command = ["--step", str(tiny_recipe), "--workdir", str(folder)]
    assert main([*command, "--epochs", "1"]) == 0
    assert main([*command, "--execution.epoch", "scan", "--execution.convolution", "patches"]) == 0
    assert [row["step"] for row in rows(folder)] == [3, 6]


def test_a_crash_between_row_and_checkpoint_loses_nothing(finished, tiny_recipe, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    command = ["--step", str(tiny_recipe), "--workdir", str(folder), "--seed", "3", "--seeds", "2"]
    saves = []
    save = run_module.Checkpoints.save

    def crash(self, step, progress):
        saves.append(step)
        if len(saves) == 2:
            raise MemoryError
        save(self, step, progress)

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(run_module.Checkpoints, "save", crash)
        main(command)
    assert [(row["seed"], row["epoch"]) for row in rows(folder)] == [(3, 0), (3, 1), (4, 0), (4, 1)]
    assert main(command) == 0
    assert without_seconds(folder) == without_seconds(finished)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--optimizer.learning-rate", "0.02"],
            "holds a run with optimizer.learning_rate = 0.01, now it is 0.02; choose",
        ),
        (["--batch-size", "64"], "holds a run with batch_size = 512, now it is 64; choose another --workdir"),
        (["--epochs", "1"], "holds 2 epochs, more than the 1 asked; choose another --workdir"),
    ],
)
def test_a_folder_of_another_run_is_left_alone(finished, tiny_recipe, capsys, flags, message):
    before = {path.name: path.read_bytes() for path in finished.iterdir() if path.is_file()}
    assert main(["--step", str(tiny_recipe), "--workdir", str(finished), *flags]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert {path.name: path.read_bytes() for path in finished.iterdir() if path.is_file()} == before


def test_a_damaged_folder(tiny_recipe, tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"half')
    assert main(["--step", str(tiny_recipe), "--workdir", str(tmp_path)]) == 1
    assert "is damaged" in capsys.readouterr().err
    assert (tmp_path / "config.json").read_text() == '{"half'


def test_a_workdir_that_is_a_file(tiny_recipe, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("mine")
    for workdir in (file, file / "below"):
        assert main(["--step", str(tiny_recipe), "--workdir", str(workdir)]) == 1
        error = capsys.readouterr().err
        assert f"the workdir {workdir} cannot be used: " in error and error.count("\n") == 1
    assert file.read_text() == "mine"


def test_a_workdir_that_cannot_be_written(tiny_recipe, capsys):
    assert main(["--step", str(tiny_recipe), "--workdir", "/proc/jaxdrill"]) == 1
    error = capsys.readouterr().err
    assert "the workdir /proc/jaxdrill cannot be used: " in error and "choose another --workdir" in error


def test_a_loss_that_is_not_finite(tiny_recipe, tmp_path, capsys):
    command = ["--step", str(tiny_recipe), "--workdir", str(tmp_path / "run"), "--optimizer.learning-rate", "1e30"]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert "by step" in error and "learning rate 1e+30" in error and error.count("\n") == 1
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES - {
        "metrics.jsonl",
        "predictions",
        "images.npz",
    }
    assert not any((tmp_path / "run" / "checkpoints" / "seed_1").iterdir())


def test_a_batch_larger_than_the_data_writes_nothing(tiny_recipe, tmp_path, capsys):
    command = ["--step", str(tiny_recipe), "--workdir", str(tmp_path / "run"), "--batch-size", "1438"]
    assert main(command) == 2
    assert "batch_size is 1438; allowed: at most 1437, the training images of digits" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()

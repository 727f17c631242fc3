"""Whole runs: what the folder holds, and how a run continues."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import chex
import numpy as np
import pytest
from conftest import ROOT
from runs_in_parts import both, contents, rows, stop_in, without_seconds
from safetensors.numpy import save_file

import jaxdrill
from jaxdrill import array_files, data
from jaxdrill.array_files import read_npz, write_npz
from jaxdrill.config import from_file
from jaxdrill.data import splits
from jaxdrill.errors import RunError
from jaxdrill.report.tables import sessions
from jaxdrill.report.text import caveats
from jaxdrill.runs import checkpoints, group, session
from jaxdrill.runs.folder import FORMAT, START_OVER, write_rows
from jaxdrill.runs.reader import read
from jaxdrill.weights import read_weights
from jaxdrill.weights.convert import to_pytorch

FILES = {
    ".lock",
    "config.json",
    "run.json",
    "metrics.jsonl",
    "checkpoints",
    "predictions",
    "weights",
    "images.npz",
    "tensorboard",
}
KEYS = [
    "seed",
    "epoch",
    "step",
    "learning_rate",
    "train_loss",
    "train_accuracy",
    "test_loss",
    "test_accuracy",
    "test_examples",
    "seconds",
]

pytestmark = pytest.mark.usefixtures("few_digits")


def test_the_folder(finished):
    assert {path.name for path in finished.iterdir()} == FILES
    assert [list(row) for row in rows(finished)] == [KEYS] * 4
    assert [(row["seed"], row["epoch"], row["step"]) for row in rows(finished)] == [
        (3, 0, 3),
        (3, 1, 6),
        (4, 0, 3),
        (4, 1, 6),
    ]
    for row in rows(finished):
        assert row["test_examples"] == 360 and row["learning_rate"] == 0.01 and row["seconds"] > 0
        assert 0 <= row["train_accuracy"] <= 1 and 0 <= row["test_accuracy"] <= 1
    metadata = json.loads((finished / "run.json").read_text())
    assert metadata["command"][:3] == ["jaxdrill", "train", "--step"]
    assert (metadata["step"], metadata["dataset"], metadata["split"]) == ("tiny", "digits", "test")
    assert (metadata["parameters"], metadata["matmul_precision"]) == (
        25 * 4 + 8 + 36 * 4 * 10,
        "float32",
    )
    assert len(metadata["dataset_sha256"]) == 64 and len(metadata["devices"]) == 2
    libraries = {
        "jax",
        "jaxlib",
        "flax",
        "optax",
        "numpy",
        "scipy",
        "scikit-learn",
        "tensorflow-datasets",
    }
    assert set(metadata["versions"]) == {"python", "jaxdrill"} | libraries
    assert metadata["seeds"] == [3, 4] and metadata["earlier_sessions"] == []
    assert set(metadata["seconds"]) == {"data", "compile", "train", "evaluation"}
    assert all(value > 0 for value in metadata["seconds"].values())
    config = json.loads((finished / "config.json").read_text())
    assert (config["name"], config["data"], config["seed"], config["seeds"]) == (
        "tiny",
        "digits",
        3,
        2,
    )
    assert config["network"][1] == {"pool": "max", "size": 4}


def test_a_finished_run_is_not_touched(copy, command, capsys):
    before = contents(copy)
    assert command(*both(copy)) == 0
    assert command(copy, "--seed", 4) == 0
    assert contents(copy) == before
    assert "epoch  1 of" not in capsys.readouterr().out


def test_predictions_and_images_are_those_of_the_last_epoch(finished, digits):
    run = read(finished)
    assert (run.seeds, run.epochs, run.predicted.shape) == ([3, 4], 2, (2, 360))
    np.testing.assert_array_equal(run.labels, digits.test_labels)
    np.testing.assert_allclose(run.probabilities.astype(np.float64).sum(axis=-1), 1, atol=2e-3)
    firsts = {int(np.argmax(digits.test_labels == digit)) for digit in range(10)}
    assert set(run.images) == firsts | set(
        np.flatnonzero((run.predicted != run.labels).any(axis=0)).tolist()
    )
    assert all(
        np.array_equal(image, digits.test_images[i, :, :, 0]) for i, image in run.images.items()
    )


@pytest.mark.parametrize("lost", ["predictions/seed_4.npz", "weights/seed_4.safetensors"])
def test_what_is_lost_of_the_last_epoch_is_made_again(copy, command, lost):
    reader = read_npz if lost.endswith("npz") else lambda file: read_weights(file)[0]
    before, rows_before = reader(copy / lost), rows(copy)
    (copy / lost).unlink()
    (copy / "images.npz").unlink()
    assert command(*both(copy)) == 0
    after = reader(copy / lost)
    if lost.endswith("npz"):  # of one seed alone, whose logits round otherwise
        before, after = (
            {"probabilities": each["probabilities"].round(3)} for each in (before, after)
        )
    chex.assert_trees_all_equal(after, before)
    assert rows(copy) == rows_before and (copy / "images.npz").exists()


def test_a_run_from_weights(finished, command, tmp_path, capsys):
    """A rate of almost nothing leaves them as they were; PyTorch's names and layout are the same weights."""
    ours, theirs = finished / "weights" / "seed_3.safetensors", tmp_path / "pytorch.safetensors"
    weights = read_weights(ours)[0]
    save_file({name: np.ascontiguousarray(a) for name, a in to_pytorch(weights).items()}, theirs)
    folders = tmp_path / "ours", tmp_path / "theirs"
    for folder, file in zip(folders, (ours, theirs), strict=True):
        assert (
            command(folder, "--init-from", file, "--optimizer.learning-rate", "1e-30", "--seeds", 2)
            == 0
        )
    after = [read_weights(folder / "weights" / "seed_1.safetensors")[0] for folder in folders]
    chex.assert_trees_all_equal(*after)
    for name, array in after[0].items():
        moved = name.endswith((".mean", ".var"))  # the statistics follow the images
        assert np.array_equal(array, weights[name]) != moved, name
    assert without_seconds(folders[0]) == without_seconds(folders[1])
    metadata = json.loads((folders[0] / "run.json").read_text())
    assert (
        metadata["init_sha256"]
        == json.loads((folders[1] / "run.json").read_text())["init_sha256"]
        != ""
    )
    capsys.readouterr()
    rate = "--optimizer.learning-rate", "1e-30"
    assert command(folders[0], *rate) == 2
    assert "holds a run with init_sha256 = " in capsys.readouterr().err
    other = finished / "weights" / "seed_4.safetensors"
    assert command(folders[0], "--init-from", other, *rate) == 2
    assert (
        command(folders[0], "--init-from", theirs, *rate, "--epochs", 3) == 0
    )  # moved, and in another layout


def test_a_run_from_weights_that_stopped_before_it_began(finished, command, tmp_path):
    """With config.json, and no run.json yet."""
    flags = tmp_path / "run", "--init-from", finished / "weights" / "seed_3.safetensors"
    assert command(*flags) == 0
    expected = without_seconds(tmp_path / "run")
    for path in (tmp_path / "run").iterdir():
        if path.name != "config.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert command(*flags) == 0 and without_seconds(tmp_path / "run") == expected


def test_weights_of_another_network(finished, command, tmp_path, capsys):
    weights = read_weights(finished / "weights" / "seed_3.safetensors")[0]
    wrong = {
        "conv2.kernel is missing": {
            name: a for name, a in weights.items() if name != "conv2.kernel"
        },
        "conv3.kernel is not an array of the network": weights
        | {"conv3.kernel": weights["conv2.kernel"]},
        "conv2.kernel has the shape [6, 6, 4, 9] instead of [6, 6, 4, 10]": weights
        | {"conv2.kernel": weights["conv2.kernel"][..., :9]},
        "conv2.kernel contains values that are NaN or infinite": weights
        | {"conv2.kernel": weights["conv2.kernel"] * np.nan},
        "conv2.kernel is int64; save it as float32": weights
        | {"conv2.kernel": weights["conv2.kernel"].astype(int)},
    }
    for message, arrays in wrong.items():
        save_file(
            {name: np.ascontiguousarray(a) for name, a in arrays.items()},
            tmp_path / "wrong.safetensors",
        )
        assert command(tmp_path / "run", "--init-from", tmp_path / "wrong.safetensors") == 2
        assert capsys.readouterr().err.endswith(
            f"wrong.safetensors does not fit the network: {message}\n"
        )
    assert command(tmp_path / "run", "--init-from", tmp_path / "nothing") == 1
    (tmp_path / "text").write_text("text")
    assert command(tmp_path / "run", "--init-from", tmp_path / "text") == 1
    first, second = capsys.readouterr().err.splitlines()
    assert (
        first.endswith(f"{tmp_path / 'nothing'} does not exist")
        and "cannot be read as safetensors" in second
    )
    assert not (tmp_path / "run").exists()


def test_weights_are_a_function(finished, digits):
    """From an own process, without mesh or checkpoint: the probabilities of the run."""
    code = f"""
import sys, numpy as np, jaxdrill
images = np.load(sys.argv[1])
np.save(sys.argv[2], jaxdrill.load({str(finished)!r}, 4)(images))
assert "jaxdrill.runs.checkpoints" not in sys.modules
"""
    images, out = finished.parent / "images.npy", finished.parent / "out.npy"
    np.save(images, digits.test_images[..., 0])
    subprocess.run([sys.executable, "-c", code, images, out], check=True, cwd=ROOT)
    run = read(finished)
    np.testing.assert_allclose(
        np.load(out), run.probabilities[1], atol=6e-4
    )  # kept with four decimals
    assert np.array_equal(np.load(out).argmax(axis=-1), run.predicted[1])


def test_earlier_versions_are_told_and_seconds_add_up(copy, command):
    old = json.loads((copy / "run.json").read_text())
    old["versions"]["jax"] = "0.1"
    (copy / "run.json").write_text(json.dumps(old))
    assert command(*both(copy, "--epochs", 3)) == 0
    new = json.loads((copy / "run.json").read_text())
    assert [each["versions"]["jax"] for each in new["earlier_sessions"]] == ["0.1"]
    assert all(new["seconds"][phase] > old["seconds"][phase] for phase in old["seconds"])
    assert read(copy).epochs == 3


@pytest.mark.slow
def test_every_session_and_seed_is_recorded(command, tmp_path, capsys):
    """Seeds 1 to 3, then 4 and 5, then 8; each session has its command, and a repeated one is recorded once."""
    folder = tmp_path / "run"

    def told(*flags):
        assert command(folder, "--epochs", 1, *flags) == 0
        config, metadata = (
            json.loads((folder / name).read_text()) for name in ("config.json", "run.json")
        )
        sessions = [*metadata["earlier_sessions"], metadata]
        assert all(each["versions"] == metadata["versions"] for each in sessions)
        commands = [each["command"][each["command"].index("--epochs") + 2 :] for each in sessions]
        return (config["seed"], config["seeds"]), [
            (*own, each["seeds"]) for own, each in zip(commands, sessions, strict=True)
        ]

    first, second, third = (
        ("--seeds", "3", [1, 2, 3]),
        ("--seed", "4", "--seeds", "2", [4, 5]),
        ("--seed", "8", [8]),
    )
    assert told("--seeds", 3) == ((1, 3), [first])
    assert told("--seed", 4, "--seeds", 2) == ((1, 5), [first, second])
    assert told("--seed", 8) == ((1, [1, 2, 3, 4, 5, 8]), [first, second, third])
    recipe, run = from_file(folder / "config.json"), read(folder)
    every = [1, 2, 3, 4, 5, 8]
    assert (recipe.seed_list, run.seeds, run.left_out) == (every, every, [])
    assert not [line for line in caveats([run]) if "sessions with different versions" in line]
    assert [row[1].split("--epochs 1 ")[1] for row in sessions([run]).rows] == [
        "--seeds 3",
        "--seed 4 --seeds 2",
        "--seed 8",
    ]
    assert (
        command(folder, "--epochs", 1, "--seeds", 3) == 0
    )  # There is nothing to train, so this is no session.
    (folder / "weights" / "seed_8.safetensors").unlink()
    assert told("--seed", 8) == ((1, [1, 2, 3, 4, 5, 8]), [first, second, third])
    assert told("--seed", 6, "--seeds", 2)[0] == (1, 8)


@pytest.mark.parametrize("seeds", [[], [2, 3], ["1"], [None], {}])
def test_a_wrong_list_of_seeds(copy, command, seeds, capsys):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"seed": 1, "seeds": seeds}))
    assert command(*both(copy, "--epochs", 3)) in (1, 2)
    error = capsys.readouterr().err
    assert "seeds is " in error and error.count("\n") == 1
    with pytest.raises(RunError, match=r"is damaged .*seeds is "):
        read(copy)


def test_a_run_of_another_version_is_left_alone(copy, command, capsys):
    metadata = json.loads((copy / "run.json").read_text())
    del metadata["format"]
    (copy / "run.json").write_text(json.dumps(metadata))
    assert command(*both(copy, "--epochs", 3)) == 1
    why = "was written by another version of jaxdrill (its format is 1, this one reads 3). Use that version to read or"
    assert capsys.readouterr().err == f"jaxdrill: {copy} {why} continue it. {START_OVER}\n"


def test_more_epochs_continue_a_run(finished, command, tmp_path):
    assert command(*both(tmp_path / "run", "--epochs", 1)) == 0
    assert len(rows(tmp_path / "run")) == 2
    assert command(*both(tmp_path / "run")) == 0
    assert without_seconds(tmp_path / "run") == without_seconds(finished)


def test_seeds_that_the_command_does_not_name_stay_as_they_are(copy, command, capsys):
    """Seed 3 alone goes on from the checkpoint of both; the table is of what has as many epochs; naming both heals."""
    weights = (copy / "weights" / "seed_4.safetensors").read_bytes()
    assert command(copy, "--seed", 3, "--epochs", 3) == 0
    said = capsys.readouterr()
    assert "also holds seed(s) 4, which stay as they are" in said.out
    assert [(row["seed"], row["epoch"]) for row in rows(copy)] == [
        (3, 0),
        (3, 1),
        (3, 2),
        (4, 0),
        (4, 1),
    ]
    assert (copy / "weights" / "seed_4.safetensors").read_bytes() == weights
    run = read(copy)
    assert (run.seeds, run.epochs, run.left_out) == ([3], 3, [4])
    assert command(*both(copy, "--epochs", 3)) == 0
    assert (read(copy).seeds, read(copy).left_out) == ([3, 4], [])


@pytest.mark.slow
def test_how_it_runs_may_change(command, tmp_path):
    assert command(tmp_path, "--epochs", 1) == 0
    assert command(tmp_path, "--execution.epoch", "scan", "--execution.convolution", "im2col") == 0
    assert [row["step"] for row in rows(tmp_path)] == [3, 6]


def test_a_crash_between_row_and_checkpoint_loses_nothing(finished, command, tmp_path, monkeypatch):
    saves, save = [], checkpoints.Checkpoints.save

    def crash(self, *arguments):
        saves.append(arguments)
        if len(saves) == 2:
            raise KeyboardInterrupt  # as if the process ended here
        save(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.Checkpoints, "save", crash)
        patch.setattr(checkpoints.Checkpoints, "due", lambda self: True)
        assert command(*both(tmp_path)) == 130
    assert len(rows(tmp_path)) == 4
    assert command(*both(tmp_path)) == 0
    assert without_seconds(tmp_path) == without_seconds(finished)


def test_a_stop_in_mid_epoch_counts_its_seconds_once(
    finished, command, tmp_path, monkeypatch, capsys
):
    """A group is cut in its second epoch; the same command ends with the bits of a run without a stop."""
    with monkeypatch.context() as patch:
        stop_in(patch, 4)
        assert command(*both(tmp_path)) == 143
    assert "stopped at step 4 of digits seeds 3 to 4; the state is saved" in capsys.readouterr().err
    saved = checkpoints.latest(tmp_path / "checkpoints" / "seeds_3_to_4")
    first = json.loads((tmp_path / "run.json").read_text())["seconds"]["train"]
    cut = saved.metadata["epoch_seconds"]
    assert saved.step == 4 and 0 < cut < first
    assert command(*both(tmp_path)) == 0
    assert without_seconds(tmp_path) == without_seconds(finished)
    total = json.loads((tmp_path / "run.json").read_text())["seconds"]
    assert total["train"] > first
    epochs = sum(row["seconds"] for row in rows(tmp_path))
    assert epochs == pytest.approx(total["train"] + total["evaluation"], abs=0.01)


def test_a_checkpoint_beyond_the_epochs_asked_is_refused(command, tmp_path, monkeypatch, capsys):
    """Else the weights from the middle of epoch 2 would be kept as those of epoch 1."""
    with monkeypatch.context() as patch:
        stop_in(patch, 4)
        assert command(tmp_path) == 143
    before = contents(tmp_path)
    capsys.readouterr()
    assert command(tmp_path, "--epochs", 1) == 2
    error = capsys.readouterr().err
    assert (
        "seed 1 in epoch 2, beyond the 1 requested. Pass --epochs 2" in error
        and error.count("\n") == 1
    )
    assert contents(tmp_path) == before
    assert command(tmp_path) == 0 and read(tmp_path).epochs == 2


def test_the_predictions_file_holds_the_training_accuracy_in_evaluation_mode(finished, digits):
    """As the trained network gives it; the report's run holds the fraction. An earlier version's file has none."""
    run = read(finished)
    for seed, fraction in zip((3, 4), run.train_evaluation, strict=True):
        kept = read_npz(finished / "predictions" / f"seed_{seed}.npz")
        predicted = jaxdrill.load(finished, seed)(digits.train_images).argmax(axis=-1)
        assert int(kept["train_correct"]) == np.sum(predicted == digits.train_labels)
        assert int(kept["train_examples"]) == 1437 and fraction == kept["train_correct"] / 1437
    metadata = json.loads((finished / "run.json").read_text())
    assert metadata["evaluated_sha256"] == digits.evaluated_sha256 != metadata["dataset_sha256"]


def test_a_run_without_the_training_accuracy(copy, command, few_digits):
    """It stays finished."""
    file = copy / "predictions" / "seed_3.npz"
    kept = read_npz(file)
    write_npz(file, {key: value for key, value in kept.items() if not key.startswith("train_")})
    assert read(copy).train_evaluation is None
    before = contents(copy)
    assert command(*both(copy)) == 0 and contents(copy) == before


@pytest.mark.parametrize("where", ["predictions", "compiling", "before the second group"])
def test_a_signal_outside_the_loop_is_not_swallowed(command, tmp_path, monkeypatch, capsys, where):
    """Nothing more is trained, the exit code says so, and the same command ends the run."""
    holder, name = {
        "predictions": (group.folder, "write_predictions"),
        "compiling": (session, "Program"),
        "before the second group": (group.Group, "_write_last"),
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
    trained = (
        {row["seed"] for row in rows(tmp_path)} if (tmp_path / "metrics.jsonl").exists() else set()
    )
    assert trained == (set() if where == "compiling" else {1})
    assert command(*flags) == 0 and read(tmp_path).seeds == [1, 2]


@pytest.mark.parametrize("spoil", ["half a last line", "without the first", "gone"])
def test_metrics_are_mended_from_the_checkpoints(copy, command, capsys, spoil):
    file = copy / "metrics.jsonl"
    text = file.read_text()
    file.write_text(
        {
            "half a last line": text[:-30],
            "without the first": text[text.index("\n") + 1 :],
            "gone": "",
        }[spoil]
    )
    assert command(*both(copy)) == 0
    assert "metrics.jsonl was damaged; it is mended from the checkpoints" in capsys.readouterr().err
    assert file.read_text() == text and read(copy).seeds == [3, 4]


@pytest.mark.parametrize("gone", ["config.json", "run.json"])
def test_what_decides_bits_is_kept_in_the_checkpoint_too(copy, command, capsys, gone):
    (copy / gone).unlink()
    flags = both(copy, "--epochs", 3)
    assert command(*flags, "--optimizer.learning-rate", 0.02) == 2
    assert (
        "holds a run with optimizer.learning_rate = 0.01; now it is 0.02" in capsys.readouterr().err
    )
    assert command(*flags) == 0 and read(copy).epochs == 3


def test_another_dataset_of_the_same_name_is_refused(copy, command, digits, monkeypatch, capsys):
    other = (
        digits.train_images[::-1].copy(),
        digits.train_labels,
        digits.test_images,
        digits.test_labels,
    )
    monkeypatch.setattr(data.digits, "load_arrays", lambda: other)
    assert command(*both(copy, "--epochs", 3)) == 2
    assert "holds a run with dataset_sha256 = " in capsys.readouterr().err


def test_one_process_a_folder(copy, tiny_recipe):
    """The second is refused in one line; after a kill of the first the folder is free."""
    code = f"""
import time
from pathlib import Path
from jaxdrill.runs.resume import locked
with locked(Path({str(copy)!r})):
    print("locked", flush=True)
    time.sleep(60)
"""
    holder = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "locked\n"
    arguments = [
        sys.executable,
        "-m",
        "jaxdrill.main",
        "--step",
        tiny_recipe,
        "--workdir",
        copy,
        "--epochs",
        "3",
    ]
    refused = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode == 1
    assert (
        f"another process is training into {copy}" in refused.stderr
        and refused.stderr.count("\n") == 1
    )
    holder.kill()
    holder.wait()
    holder.stdout.close()
    from jaxdrill.runs.resume import locked

    with locked(copy):
        pass


def test_outside_the_main_thread(finished, tiny_recipe, tmp_path):
    """Where Python allows no signal handlers; and the function does what the command does, to the same bits."""
    done = []
    call = threading.Thread(
        target=lambda: done.append(
            jaxdrill.train(str(tiny_recipe), tmp_path / "run", seed=3, seeds=2, epochs=2)
        )
    )
    call.start()
    call.join()
    assert done == [tmp_path / "run"]
    assert without_seconds(done[0]) == without_seconds(finished)
    metadata = json.loads((done[0] / "run.json").read_text())
    assert metadata["command"][:6] == [
        "python",
        "-m",
        "jaxdrill.main",
        "--step",
        str(tiny_recipe),
        "--seed",
    ]


def test_held_out_images_are_evaluated_and_say_so(command, tmp_path, capsys, digits):
    assert command(tmp_path, "--hold-out", 400) == 0
    said = capsys.readouterr().out
    assert (
        "1,037 training and 400 validation images" in said
        and "validation " in said
        and "  test " not in said
    )
    assert {"validation_accuracy", "validation_loss", "validation_examples"} < set(
        rows(tmp_path)[0]
    )
    assert (
        rows(tmp_path)[0]["validation_examples"] == 400 and "test_accuracy" not in rows(tmp_path)[0]
    )
    run = read(tmp_path)
    assert (run.split, run.dataset, len(run.labels)) == (
        "validation",
        "digits (validation, 400 images)",
        400,
    )
    _, held = (
        splits.hold_out(digits, 400, "auto").train_labels,
        splits.hold_out(digits, 400, "auto").test_labels,
    )
    np.testing.assert_array_equal(run.labels, held)


def test_a_schedule_with_a_horizon_is_not_continued_for_more_epochs(command, tmp_path, capsys):
    flags = tmp_path, "--schedule.name", "triangle"
    assert command(*flags, "--epochs", 1) == 0
    assert command(*flags, "--epochs", 2) == 2
    assert (
        "holds a run with epochs = 1; now it is 2 (its schedule ends with the last epoch)"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--optimizer.learning-rate", "0.02"],
            "a run with optimizer.learning_rate = 0.01; now it is 0.02.",
        ),
        (["--batch-size", "64"], "a run with batch_size = 512; now it is 64."),
        (
            ["--epochs", "1"],
            "seed 3 in epoch 2, beyond the 1 requested. Pass --epochs 2 to keep that run.",
        ),
        (
            ["--execution.matmul-precision", "bfloat16"],
            "a run with execution.matmul_precision = float32; now it is bfloat16.",
        ),
        (["--hold-out", "100"], "a run with evaluate_on = test; now it is validation."),
    ],
)
def test_a_folder_of_another_run_is_left_alone(finished, command, capsys, flags, message):
    before = contents(finished)
    assert command(finished, "--seed", 3, *flags) == 2
    assert capsys.readouterr().err == f"jaxdrill: {finished} holds {message} {START_OVER}\n"
    assert contents(finished) == before


@pytest.mark.parametrize(
    ("file", "text", "code", "message"),
    [
        (
            "run.json",
            f'{{"format": {FORMAT - 1}}}',
            1,
            f"was written by another version of jaxdrill (its format is "
            f"{FORMAT - 1}, this one reads {FORMAT}). Use that version to read or continue it. {START_OVER}",
        ),
        ("config.json", "{}", 1, f"is damaged ('name'). {START_OVER}"),
    ],
)
def test_a_run_that_cannot_be_continued_can_be_archived(
    copy, command, capsys, file, text, code, message
):
    (copy / file).write_text(text)
    before = contents(copy)
    assert command(*both(copy)) == code
    assert capsys.readouterr().err.endswith(f"{copy} {message}\n")
    assert contents(copy) == before
    assert command(copy, "--restart", "--epochs", 1) == 0


def test_a_damaged_folder(command, tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"half')
    """Without a checkpoint, nothing in it shows that it is a run's."""
    assert command(tmp_path) == 2
    message = "is not a run folder, but holds config.json, which training would replace. Choose another --workdir."
    assert capsys.readouterr().err.endswith(f"{tmp_path} {message}\n")
    assert (tmp_path / "config.json").read_text() == '{"half'


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
def test_the_same_command_writes_again_what_is_damaged_or_deleted(
    finished, copy, command, name, content
):
    """As the message about such a file says."""
    before = {key: a.tolist() for key, a in read(copy).metrics.items() if key != "seconds"}
    (copy / name).unlink()
    if content:
        (copy / name).write_bytes(content)
    assert command(*both(copy)) == 0
    assert {key: a.tolist() for key, a in read(copy).metrics.items() if key != "seconds"} == before
    assert without_seconds(copy) == without_seconds(finished)
    arrays, again = (
        array_files.read(each / "weights" / "seed_3.safetensors")[0] for each in (finished, copy)
    )
    assert arrays.keys() == again.keys() and all(
        np.array_equal(arrays[key], again[key]) for key in arrays
    )


def test_a_workdir_that_cannot_be_used(command, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("mine")
    for workdir in (file, file / "below", Path("/proc/jaxdrill")):
        assert command(workdir) == 1
        error = capsys.readouterr().err
        assert f"the workdir {workdir} cannot be used: " in error and error.count("\n") == 1
    assert file.read_text() == "mine"


def test_a_loss_that_is_not_finite(command, tmp_path, capsys):
    assert command(tmp_path, "--optimizer.learning-rate", "1e30") == 1
    error = capsys.readouterr().err
    assert (
        "by step" in error
        and "learning rate 1e+30; nothing was saved; begin again with a smaller" in error
    )
    assert error.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {
        ".lock",
        "config.json",
        "run.json",
        "tensorboard",
    }


def test_a_batch_larger_than_the_data_writes_nothing(command, tmp_path, capsys):
    assert command(tmp_path / "run", "--batch-size", 1438) == 2
    assert (
        "batch_size is 1438; allowed: at most 1437, the training images of digits"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "run").exists()


def test_rows_are_the_writers(tmp_path):
    write_rows(tmp_path, [{"seed": 1, "epoch": 0, "step": 3}])
    assert rows(tmp_path) == [{"seed": 1, "epoch": 0, "step": 3}]

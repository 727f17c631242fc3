"""Train whole runs, and check what they write into the run folder."""

import json
import subprocess
import sys
import threading

import chex
import numpy as np
import pytest
from conftest import ROOT
from runs_in_parts import both, contents, rows, without_seconds

import jaxdrill
from jaxdrill.array_files import read_npz, write_npz
from jaxdrill.config import from_file
from jaxdrill.data import splits
from jaxdrill.report.tables import sessions
from jaxdrill.report.text import caveats
from jaxdrill.runs import reader
from jaxdrill.weights import read_weights

FILES = {".lock", "config.json", "run.json", "metrics.jsonl", "images.npz", "checkpoints"}
FILES |= {"predictions", "weights", "tensorboard"}
KEYS = ["seed", "epoch", "step", "learning_rate", "train_loss", "train_accuracy"]
KEYS += ["test_loss", "test_accuracy", "test_examples", "seconds"]

pytestmark = pytest.mark.usefixtures("few_digits", "compiled_once")


def test_the_run_folder_contains_these_files_and_rows(finished):
    assert {path.name for path in finished.iterdir()} == FILES
    assert [list(row) for row in rows(finished)] == [KEYS] * 4
    found = [(row["seed"], row["epoch"], row["step"]) for row in rows(finished)]
    assert found == [(3, 0, 3), (3, 1, 6), (4, 0, 3), (4, 1, 6)]
    for row in rows(finished):
        assert row["test_examples"] == 360 and row["learning_rate"] == 0.01 and row["seconds"] > 0
        assert 0 <= row["train_accuracy"] <= 1 and 0 <= row["test_accuracy"] <= 1


def test_run_json_and_config_json_describe_the_run(finished):
    metadata = json.loads((finished / "run.json").read_text())
    assert metadata["command"][:3] == ["jaxdrill", "train", "--step"]
    assert (metadata["step"], metadata["dataset"], metadata["split"]) == ("tiny", "digits", "test")
    assert metadata["parameters"] == 25 * 4 + 8 + 36 * 4 * 10
    assert metadata["matmul_precision"] == "float32"
    assert len(metadata["dataset_sha256"]) == 64 and len(metadata["devices"]) == 2
    libraries = ["jax", "jaxlib", "flax", "optax", "numpy", "scipy", "scikit-learn"]
    libraries += ["tensorflow-datasets"]
    assert set(metadata["versions"]) == {"python", "jaxdrill", *libraries}
    assert metadata["seeds"] == [3, 4] and metadata["earlier_sessions"] == []
    assert list(metadata["seconds"]) == ["data", "compile", "train", "evaluation"]
    assert all(value > 0 for value in metadata["seconds"].values())
    config = json.loads((finished / "config.json").read_text())
    found = config["name"], config["data"], config["seed"], config["seeds"]
    assert found == ("tiny", "digits", 3, 2)
    assert config["network"][1] == {"pool": "max", "size": 4}


def test_a_finished_run_is_not_changed(copy, command, capsys):
    before = contents(copy)
    assert command(*both(copy)) == 0
    assert command(copy, "--seed", 4) == 0
    assert contents(copy) == before
    assert "epoch  1 of" not in capsys.readouterr().out


def test_predictions_and_images_belong_to_the_last_epoch(finished, digits):
    run = reader.read(finished)
    assert (run.seeds, run.epochs, run.predicted.shape) == ([3, 4], 2, (2, 360))
    np.testing.assert_array_equal(run.labels, digits.test_labels)
    np.testing.assert_allclose(run.probabilities.astype(np.float64).sum(axis=-1), 1, atol=2e-3)
    firsts = {int(np.argmax(digits.test_labels == digit)) for digit in range(10)}
    wrong = np.flatnonzero((run.predicted != run.labels).any(axis=0)).tolist()
    assert set(run.images) == firsts | set(wrong)
    for index, image in run.images.items():
        np.testing.assert_array_equal(image, digits.test_images[index, :, :, 0])


@pytest.mark.parametrize("lost", ["predictions/seed_4.npz", "weights/seed_4.safetensors"])
def test_missing_files_of_the_last_epoch_are_written_again(copy, command, lost):
    read = read_npz if lost.endswith("npz") else lambda file: read_weights(file)[0]
    before, rows_before = read(copy / lost), rows(copy)
    (copy / lost).unlink()
    (copy / "images.npz").unlink()
    assert command(*both(copy)) == 0
    after = read(copy / lost)
    if lost.endswith("npz"):  # Logits of a single seed differ in the last bits.
        before, after = ({"p": arrays["probabilities"].round(3)} for arrays in (before, after))
    chex.assert_trees_all_equal(after, before)
    assert rows(copy) == rows_before and (copy / "images.npz").exists()


def test_weights_load_as_a_function_without_the_training_code(finished, digits):
    """In a new process, which needs no mesh and no checkpoint: the probabilities of the run."""
    code = f"""
import sys, numpy as np, jaxdrill
images = np.load(sys.argv[1])
np.save(sys.argv[2], jaxdrill.load({str(finished)!r}, 4)(images))
assert "jaxdrill.runs.checkpoints" not in sys.modules
"""
    images, out = finished.parent / "images.npy", finished.parent / "out.npy"
    np.save(images, digits.test_images[..., 0])
    subprocess.run([sys.executable, "-c", code, images, out], check=True, cwd=ROOT)
    run = reader.read(finished)
    np.testing.assert_allclose(np.load(out), run.probabilities[1], atol=6e-4)  # four decimals
    assert np.array_equal(np.load(out).argmax(axis=-1), run.predicted[1])


def test_earlier_versions_are_recorded_and_seconds_add_up(copy, command):
    old = json.loads((copy / "run.json").read_text())
    old["versions"]["jax"] = "0.1"
    (copy / "run.json").write_text(json.dumps(old))
    assert command(*both(copy, "--epochs", 3)) == 0
    new = json.loads((copy / "run.json").read_text())
    assert [each["versions"]["jax"] for each in new["earlier_sessions"]] == ["0.1"]
    assert all(new["seconds"][phase] > old["seconds"][phase] for phase in old["seconds"])
    assert reader.read(copy).epochs == 3


@pytest.mark.slow
def test_every_session_and_seed_is_recorded(command, tmp_path):
    """Seeds 1 to 3, then 4 and 5, then 8. A session that repeats a command is recorded once."""
    folder = tmp_path / "run"

    def train(*flags):
        assert command(folder, "--epochs", 1, *flags) == 0
        names = "config.json", "run.json"
        config, metadata = (json.loads((folder / name).read_text()) for name in names)
        every = [*metadata["earlier_sessions"], metadata]
        assert all(each["versions"] == metadata["versions"] for each in every)
        commands = [each["command"][each["command"].index("--epochs") + 2 :] for each in every]
        return (config["seed"], config["seeds"]), [
            (*own, each["seeds"]) for own, each in zip(commands, every, strict=True)
        ]

    first = "--seeds", "3", [1, 2, 3]
    second = "--seed", "4", "--seeds", "2", [4, 5]
    third = "--seed", "8", [8]
    assert train("--seeds", 3) == ((1, 3), [first])
    assert train("--seed", 4, "--seeds", 2) == ((1, 5), [first, second])
    assert train("--seed", 8) == ((1, [1, 2, 3, 4, 5, 8]), [first, second, third])
    recipe, run = from_file(folder / "config.json"), reader.read(folder)
    every = [1, 2, 3, 4, 5, 8]
    assert (recipe.seed_list, run.seeds, run.left_out) == (every, every, [])
    assert not [line for line in caveats([run]) if "sessions with different versions" in line]
    commands = [row[1].split("--epochs 1 ")[1] for row in sessions([run]).rows]
    assert commands == ["--seeds 3", "--seed 4 --seeds 2", "--seed 8"]
    # All seeds are finished, so the next command records no session.
    assert command(folder, "--epochs", 1, "--seeds", 3) == 0
    (folder / "weights" / "seed_8.safetensors").unlink()
    assert train("--seed", 8) == ((1, [1, 2, 3, 4, 5, 8]), [first, second, third])
    assert train("--seed", 6, "--seeds", 2)[0] == (1, 8)


def test_predictions_contain_the_training_accuracy_in_evaluation_mode(finished, digits):
    """The counts equal those of the trained network. `FinishedRun` contains the fraction."""
    run = reader.read(finished)
    for seed, fraction in zip((3, 4), run.train_evaluation, strict=True):
        kept = read_npz(finished / "predictions" / f"seed_{seed}.npz")
        predicted = jaxdrill.load(finished, seed)(digits.train_images).argmax(axis=-1)
        assert int(kept["train_correct"]) == np.sum(predicted == digits.train_labels)
        assert int(kept["train_examples"]) == 1437 and fraction == kept["train_correct"] / 1437
    metadata = json.loads((finished / "run.json").read_text())
    assert metadata["evaluated_sha256"] == digits.evaluated_sha256 != metadata["dataset_sha256"]


def test_predictions_of_older_versions_lack_the_training_accuracy(copy, command):
    """The run is finished nevertheless."""
    file = copy / "predictions" / "seed_3.npz"
    kept = read_npz(file)
    write_npz(file, {key: value for key, value in kept.items() if not key.startswith("train_")})
    assert reader.read(copy).train_evaluation is None
    before = contents(copy)
    assert command(*both(copy)) == 0 and contents(copy) == before


def test_the_function_gives_the_same_bits_outside_the_main_thread(finished, tiny_recipe, tmp_path):
    """Python allows no signal handlers there."""
    done = []

    def train():
        run = tmp_path / "run"
        done.append(jaxdrill.train(str(tiny_recipe), run, seed=3, seeds=2, epochs=2))

    call = threading.Thread(target=train)
    call.start()
    call.join()
    assert done == [tmp_path / "run"]
    assert without_seconds(done[0]) == without_seconds(finished)
    metadata = json.loads((done[0] / "run.json").read_text())
    begin = ["jaxdrill", "train", "--step", str(tiny_recipe), "--seed"]
    assert metadata["command"][:5] == begin


def test_a_run_on_held_out_images_names_them_validation(command, tmp_path, capsys, digits):
    assert command(tmp_path, "--hold-out", 400) == 0
    said = capsys.readouterr().out
    assert "1,037 training and 400 validation images" in said
    assert "validation " in said and "  test " not in said
    first = rows(tmp_path)[0]
    assert {"validation_accuracy", "validation_loss", "validation_examples"} < set(first)
    assert first["validation_examples"] == 400 and "test_accuracy" not in first
    run = reader.read(tmp_path)
    found = run.split, run.dataset, len(run.labels)
    assert found == ("validation", "digits (validation, 400 images)", 400)
    held_out = splits.hold_out(digits, 400, "auto")
    np.testing.assert_array_equal(run.labels, held_out.test_labels)

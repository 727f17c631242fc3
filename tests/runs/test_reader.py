"""Read the folders of finished runs, and check the messages about folders that cannot be read."""

import json

import numpy as np
import pytest
from runs_on_disk import write_run

from jaxdrill.errors import RunError
from jaxdrill.runs import reader

CURVES = {3: [0.9, 0.98], 4: [0.91, 0.97]}


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def drop_key(path, key):
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != key}))


def drop_lines(path, count):
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-count]))


def resave(path, **arrays):
    np.savez_compressed(path, **(dict(np.load(path)) | arrays))


def shift_index(path, by):
    resave(path, index=np.arange(len(np.load(path)["index"])) + by)


def test_a_finished_run_is_read_as_arrays(tmp_path):
    run = reader.read(write_run(tmp_path / "run", "3", CURVES))
    assert (run.name, run.epochs, run.seeds, run.config.extends) == ("step_3", 2, [3, 4], "step_2")
    np.testing.assert_array_equal(run.metrics["accuracy"], [[0.9, 0.98], [0.91, 0.97]])
    assert run.predicted.shape == (2, 1000) and run.probabilities.shape == (2, 1000, 10)
    assert np.mean(run.predicted == run.labels, axis=1).tolist() == [0.98, 0.97]
    assert all(image.shape == (28, 28) for image in run.images.values())


def test_seeds_of_earlier_commands_are_read_too(tmp_path):
    """A later command for fewer seeds leaves the others in the folder."""
    path = write_run(tmp_path / "run", "3", CURVES)
    change(path / "config.json", seed=4, seeds=1)
    assert reader.read(path).seeds == [3, 4]


DAMAGED_FILES = [
    (
        lambda p: [f.unlink() for f in p.glob("*.*")],
        "is not a run folder: config.json is missing. Pass a folder written by jaxdrill train.",
    ),
    (
        lambda p: (p / "run.json").unlink(),
        "is incomplete: run.json is missing. Rerun the command that trained it.",
    ),
    (lambda p: (p / "metrics.jsonl").unlink(), "is incomplete: metrics.jsonl is missing."),
    (
        lambda p: drop_key(p / "run.json", "split"),
        "/run.json is damaged (split: Field required). Delete it. Rerun the command that trained",
    ),
    (
        lambda p: change(p / "run.json", format=1),
        "another version of jaxdrill (its format is 1, this one reads 3)",
    ),
    (
        lambda p: change(p / "run.json", dataset="kmnist"),
        "mixes datasets: config.json says mnist, run.json kmnist",
    ),
    (lambda p: (p / "config.json").write_bytes(b"\xff"), "/config.json is damaged ("),
    (lambda p: (p / "config.json").write_text("[]"), "/config.json is damaged ("),
    (lambda p: change(p / "config.json", batch_size=0), "/config.json is damaged ("),
    (lambda p: change(p / "config.json", seeds=3), "is incomplete: seed 5 has 0 of 2 epochs"),
    (lambda p: change(p / "config.json", epochs=3), "is incomplete: seed 3 has 2 of 3 epochs"),
    (lambda p: change(p / "config.json", seeds=9), "is incomplete: it has 4 epochs of 9 seeds"),
]
DAMAGED_ROWS = [
    ('{"seed": 3', "line 1 is cut short or invalid). Finish it with: jaxdrill train --step 3"),
    ('{"seed": 3}\n', "line 1 is cut short or invalid"),
    ("3\n", "line 1 is cut short"),
    ('{"seed": 3, "epoch": 0}\n', "step is missing"),
    (f'{{"seed": 3, "epoch": 0, "loss": 1{"0" * 400}}}', "line 1 is cut short or invalid"),
    ('{"seed": true, "epoch": 0}', "line 1 is cut short or invalid"),
    ('{"seed": -1, "epoch": 0}', "line 1 is cut short or invalid"),
]
DAMAGED_PREDICTIONS = [
    ({"epoch": 0}, "it is not of the last epoch in metrics.jsonl). Delete it. Finish it with: jax"),
    ({"predicted": np.zeros(1000, np.uint8)}, "it is not of the last epoch"),
    ({"predicted": np.zeros(9)}, "predicted is float64[9]; expected uint8[1000]"),
    (
        {"predicted": np.full(1000, 10, np.uint8)},
        "labels and predicted are not classes from 0 to 9",
    ),
    ({"labels": np.zeros(0, np.uint8)}, "predicted is uint8[1000]; expected uint8[0]"),
    ({"probabilities": np.full((1000, 10), 2, np.float16)}, "probabilities are not between 0 and"),
    ({"train_correct": 9, "train_examples": 8}, "train_correct is 9 of 8 images"),
    ({"train_correct": 9}, "train_examples is missing"),
    ({"epoch": np.inf}, "epoch is float64[]; expected int[]"),
    ({"epoch": [1, 1]}, "epoch is int[2]; expected int[]"),
]
DAMAGED_IMAGES = [
    (lambda file: file.write_bytes(b""), "images.npz is damaged (images.npz cannot be read (File"),
    (
        lambda file: shift_index(file, -1),
        "images.npz is damaged (index is negative). Delete it. Rerun the command that",
    ),
    (
        lambda file: shift_index(file, 990),
        "mixes datasets: images.npz contains images beyond the evaluated ones. Delete it. Rerun",
    ),
    (
        lambda file: resave(file, images=np.zeros((3, 28, 28), np.uint8)),
        "images is uint8[3, 28, 28]",
    ),
]


def check_message(path, message):
    with pytest.raises(RunError) as error:
        reader.read(path)
    assert f"{path}" in f"{error.value}" and message in f"{error.value}"


@pytest.mark.parametrize(("damage", "message"), DAMAGED_FILES)
def test_a_damaged_run_is_reported(tmp_path, damage, message):
    path = write_run(tmp_path / "run", "3", CURVES)
    damage(path)
    check_message(path, message)


@pytest.mark.parametrize(("text", "message"), DAMAGED_ROWS)
def test_damaged_metrics_are_reported(tmp_path, text, message):
    path = write_run(tmp_path / "run", "3", CURVES)
    (path / "metrics.jsonl").write_text(text)
    check_message(path, f"metrics.jsonl is damaged ({message}")


@pytest.mark.parametrize("count", [1, 2])
def test_missing_rows_are_reported(tmp_path, count):
    path = write_run(tmp_path / "run", "3", CURVES)
    drop_lines(path / "metrics.jsonl", count)
    finish = "Finish it with: jaxdrill train --step 3"
    check_message(path, f"is incomplete: seed 4 has {2 - count} of 2 epochs. {finish}")


@pytest.mark.parametrize(("arrays", "message"), DAMAGED_PREDICTIONS)
def test_damaged_predictions_are_reported(tmp_path, arrays, message):
    path = write_run(tmp_path / "run", "3", CURVES)
    resave(path / "predictions" / "seed_3.npz", **arrays)
    check_message(path, f"seed_3.npz is damaged ({message}")


def test_missing_and_unreadable_predictions_are_reported(tmp_path):
    path = write_run(tmp_path / "run", "3", CURVES)
    file = path / "predictions" / "seed_3.npz"
    file.write_bytes(b"PK")
    check_message(path, "seed_3.npz is damaged (seed_3.npz cannot be read (")
    file.unlink()
    check_message(
        path, "is incomplete: predictions/seed_3.npz is missing. Finish it with: jaxdrill"
    )


def test_labels_that_differ_between_seeds_are_reported(tmp_path):
    path = write_run(tmp_path / "run", "3", {3: [0.9], 4: [0.9]})
    arrays = dict(np.load(path / "predictions" / "seed_4.npz"))
    rolled = {name: np.roll(arrays[name], 1) for name in ("labels", "predicted")}
    resave(path / "predictions" / "seed_4.npz", **rolled)
    check_message(path, "mixes datasets: the labels differ between its predictions")


@pytest.mark.parametrize(("damage", "message"), DAMAGED_IMAGES)
def test_damaged_images_are_reported(tmp_path, damage, message):
    path = write_run(tmp_path / "run", "3", CURVES)
    damage(path / "images.npz")
    check_message(path, message)


def test_a_missing_folder_is_reported(tmp_path):
    with pytest.raises(RunError, match=f"The run folder {tmp_path / 'none'} does not exist"):
        reader.read(tmp_path / "none")


def test_epochs_evaluated_on_different_numbers_of_images_are_reported(tmp_path):
    path = write_run(tmp_path / "run", "3", CURVES)
    file = path / "metrics.jsonl"
    file.write_text(file.read_text().replace('"test_examples": 1000', '"test_examples": 999', 1))
    check_message(path, "mixes datasets: its epochs were evaluated on different numbers of images")


def test_seeds_with_other_epochs_are_left_out_unless_they_were_requested(tmp_path):
    path = write_run(tmp_path / "run", "3", CURVES)
    drop_lines(path / "metrics.jsonl", 1)  # Seed 4 has one epoch.
    change(path / "config.json", seeds=1)
    run = reader.read(path)
    assert (run.seeds, run.left_out, run.predicted.shape) == ([3], [4], (1, 1000))


def test_a_folder_that_is_passed_twice_is_read_once(tmp_path):
    run = write_run(tmp_path / "step_3", "3", CURVES)
    found = reader.read_all([tmp_path, run, tmp_path / "." / "step_3"])
    assert [each.folder for each in found] == [run]
    with pytest.raises(RunError, match="No run folder was passed"):
        reader.read_all([])


def test_runs_are_sorted_by_dataset_and_in_the_order_of_the_drill(tmp_path):
    """For any data and epochs. A recipe comes after the recipe that it extends."""
    write_run(tmp_path / "a", "5", CURVES, data="digits")
    write_run(tmp_path / "b", "5", {3: [0.9]})
    write_run(tmp_path / "c", "4_adam", CURVES)
    write_run(tmp_path / "d", "4", CURVES)
    found = [(run.dataset, run.name, run.epochs) for run in reader.read_all([tmp_path])]
    mnist = [("mnist", "step_4", 2), ("mnist", "step_4_adam", 2), ("mnist", "step_5", 1)]
    assert found == [*mnist, ("digits", "step_5", 2)]


def test_a_folder_of_run_folders_stands_for_those_in_it(tmp_path):
    for step in ("5", "3", "4_adam"):
        write_run(tmp_path / f"step_{step}", step, CURVES)
    (tmp_path / "benchmarks").mkdir()
    assert [run.name for run in reader.read_all([tmp_path])] == ["step_3", "step_4_adam", "step_5"]

"""Reading run folders, and what is said of those that cannot be read."""

import json
import shutil

import numpy as np
import pytest
from runs_on_disk import write_run, write_trained
from safetensors.numpy import save

from jaxdrill import array_files, files, weights
from jaxdrill.errors import RunError
from jaxdrill.runs import folder, reader

CURVES = {3: [0.9, 0.98], 4: [0.91, 0.97]}


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def drop_key(path, key):
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != key}))


def drop_lines(path, count):
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-count]))


def resave(path, **arrays):
    np.savez_compressed(path, **(dict(np.load(path)) | arrays))


def test_a_run(tmp_path):
    run = reader.read(write_run(tmp_path / "run", "3", CURVES))
    assert (run.name, run.epochs, run.seeds, run.config.extends) == ("step_3", 2, [3, 4], "step_2")
    np.testing.assert_array_equal(run.metrics["accuracy"], [[0.9, 0.98], [0.91, 0.97]])
    assert run.predicted.shape == (2, 1000) and run.probabilities.shape == (2, 1000, 10)
    assert np.mean(run.predicted == run.labels, axis=1).tolist() == [0.98, 0.97]
    assert all(image.shape == (28, 28) for image in run.images.values())


def test_a_seed_beside_those_of_the_config(tmp_path):
    """A later command for fewer seeds leaves the others in the folder."""
    path = write_run(tmp_path / "run", "3", CURVES)
    change(path / "config.json", seed=4, seeds=1)
    assert reader.read(path).seeds == [3, 4]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda p: [f.unlink() for f in p.glob("*.*")],
            "is no run folder: it holds no config.json",
        ),
        (
            lambda p: (p / "run.json").unlink(),
            "is half written: it holds no run.json; repeat the command",
        ),
        (lambda p: (p / "metrics.jsonl").unlink(), "is half written: it holds no metrics.jsonl"),
        (
            lambda p: (p / "metrics.jsonl").write_text('{"seed": 3'),
            "is damaged: line 1 of metrics.jsonl is cut",
        ),
        (
            lambda p: (p / "metrics.jsonl").write_text('{"seed": 3}\n'),
            "is damaged: line 1 of metrics.jsonl",
        ),
        (lambda p: (p / "metrics.jsonl").write_text("3\n"), "is damaged: line 1"),
        (
            lambda p: (p / "metrics.jsonl").write_text('{"seed": 3, "epoch": 0}\n'),
            "is damaged (step is missing in",
        ),
        (
            lambda p: drop_key(p / "run.json", "split"),
            "is damaged (split in run.json: Field required)",
        ),
        (lambda p: (p / "config.json").write_bytes(b"\xff"), "is damaged ("),
        (lambda p: (p / "config.json").write_text("[]"), "is damaged ("),
        (lambda p: change(p / "config.json", batch_size=0), "is damaged ("),
        (
            lambda p: change(p / "run.json", format=1),
            "another version of jaxdrill (its format is 1, this one reads 3)",
        ),
        (
            lambda p: change(p / "run.json", dataset="kmnist"),
            "mixes datasets: config.json says mnist, run.json kmnist",
        ),
        (
            lambda p: drop_lines(p / "metrics.jsonl", 1),
            "half written: seed 4 has 1 of 2 epochs; finish it with: ",
        ),
        (lambda p: drop_lines(p / "metrics.jsonl", 2), "is half written: seed 4 has 0 of 2 epochs"),
        (lambda p: change(p / "config.json", seeds=3), "is half written: seed 5 has 0 of 2 epochs"),
        (
            lambda p: change(p / "config.json", epochs=3),
            "is half written: seed 3 has 2 of 3 epochs",
        ),
        (
            lambda p: (p / "predictions" / "seed_3.npz").unlink(),
            "is half written: predictions/seed_3.npz is missing",
        ),
        (
            lambda p: (p / "predictions" / "seed_3.npz").write_bytes(b"PK"),
            "is damaged (seed_3.npz cannot be read (",
        ),
        (
            lambda p: resave(p / "predictions" / "seed_3.npz", epoch=0),
            "seed_3.npz is not of the last epoch in",
        ),
        (
            lambda p: resave(p / "predictions" / "seed_3.npz", predicted=np.zeros(1000, np.uint8)),
            "is not of the last",
        ),
        (
            lambda p: resave(p / "predictions" / "seed_3.npz", predicted=np.zeros(9)),
            "holds no labels and predictions",
        ),
        (
            lambda p: resave(p / "predictions" / "seed_3.npz", train_correct=9, train_examples=8),
            "no count of training",
        ),
        (
            lambda p: (p / "images.npz").write_bytes(b""),
            "is damaged (images.npz cannot be read (File is not a zip",
        ),
        (
            lambda p: resave(
                p / "images.npz", index=np.arange(-1, len(np.load(p / "images.npz")["index"]) - 1)
            ),
            "is damaged (images.npz holds no numbers of images). Delete its images.npz and repeat the command that",
        ),
        (
            lambda p: resave(
                p / "images.npz", index=np.arange(len(np.load(p / "images.npz")["index"])) + 990
            ),
            "mixes datasets: images.npz holds images beyond those evaluated. Delete its images.npz and repeat",
        ),
        (
            lambda p: resave(p / "images.npz", images=np.zeros((3, 28, 28), np.uint8)),
            "images.npz holds no images",
        ),
        (
            lambda p: resave(p / "predictions" / "seed_3.npz", epoch=np.inf),
            "seed_3.npz holds no number of an epoch",
        ),
        (
            lambda p: resave(p / "predictions" / "seed_3.npz", epoch=[1, 1]),
            "seed_3.npz holds no number of an epoch",
        ),
        (
            lambda p: (p / "metrics.jsonl").write_text(
                f'{{"seed": 3, "epoch": 0, "loss": 1{"0" * 400}}}'
            ),
            "line 1 of",
        ),
        (
            lambda p: (p / "metrics.jsonl").write_text('{"seed": true, "epoch": 0}'),
            "is damaged: line 1 of metrics",
        ),
        (
            lambda p: (p / "metrics.jsonl").write_text('{"seed": -1, "epoch": 0}'),
            "is damaged: line 1 of metrics",
        ),
    ],
)
def test_a_folder_that_cannot_be_read(tmp_path, spoil, message):
    path = write_run(tmp_path / "run", "3", CURVES)
    spoil(path)
    with pytest.raises(RunError) as error:
        reader.read(path)
    assert f"{path}" in f"{error.value}" and message in f"{error.value}"


def test_a_folder_that_is_missing(tmp_path):
    with pytest.raises(RunError, match=f"there is no run folder {tmp_path / 'none'}"):
        reader.read(tmp_path / "none")


def test_epochs_tested_on_different_numbers_of_images(tmp_path):
    path = write_run(tmp_path / "run", "3", CURVES)
    text = (path / "metrics.jsonl").read_text()
    (path / "metrics.jsonl").write_text(
        text.replace('"test_examples": 1000', '"test_examples": 999', 1)
    )
    with pytest.raises(
        RunError, match="mixes datasets: its epochs were evaluated on different numbers of images"
    ):
        reader.read(path)


def test_seeds_with_other_epochs_are_left_out_unless_the_config_names_them(tmp_path):
    path = write_run(tmp_path / "run", "3", CURVES)
    drop_lines(path / "metrics.jsonl", 1)  # seed 4 has one epoch
    change(path / "config.json", seeds=1)
    run = reader.read(path)
    assert (run.seeds, run.left_out, run.predicted.shape) == ([3], [4], (1, 1000))


def test_a_folder_that_is_passed_twice_is_read_once(tmp_path):
    run = write_run(tmp_path / "step_3", "3", CURVES)
    assert [
        each.folder for each in reader.read_all([tmp_path, run, tmp_path / "." / "step_3"])
    ] == [run]
    with pytest.raises(RunError, match="no run folder was given"):
        reader.read_all([])


def test_runs_come_by_dataset_in_the_order_of_the_drill(tmp_path):
    """Whatever their data and epochs; a recipe comes after the one that it extends."""
    write_run(tmp_path / "a", "5", CURVES, data="digits")
    write_run(tmp_path / "b", "5", {3: [0.9]})
    write_run(tmp_path / "c", "4_adam", CURVES)
    write_run(tmp_path / "d", "4", CURVES)
    found = [(run.dataset, run.name, run.epochs) for run in reader.read_all([tmp_path])]
    assert found == [
        ("mnist", "step_4", 2),
        ("mnist", "step_4_adam", 2),
        ("mnist", "step_5", 1),
        ("digits", "step_5", 2),
    ]


def test_a_folder_of_runs_stands_for_those_in_it(tmp_path):
    for step in ("5", "3", "4_adam"):
        write_run(tmp_path / f"step_{step}", step, CURVES)
    (tmp_path / "benchmarks").mkdir()
    assert [run.name for run in reader.read_all([tmp_path])] == ["step_3", "step_4_adam", "step_5"]


def test_a_reader_never_sees_half_a_file(tmp_path, monkeypatch):
    text, arrays = tmp_path / "text", tmp_path / "arrays.npz"
    files.write_text(text, "old")
    array_files.write_npz(arrays, {"a": np.arange(3)})
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    for write in (
        lambda: files.write_text(text, "new"),
        lambda: array_files.write_npz(arrays, {"a": np.zeros(9)}),
    ):
        with pytest.raises(KeyboardInterrupt):
            write()
    assert text.read_text() == "old"
    assert array_files.read_npz(arrays)["a"].tolist() == [0, 1, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "arrays.npz",
        "text",
    ]  # and nothing is left lying about


def test_weights_files_that_are_not_a_runs(tmp_path):
    """A copy under another name is not a seed; a recipe whose network cannot be is damage, in one line."""
    run = write_trained(tmp_path / "run", "6_small", [2])
    file = weights.find(run)
    shutil.copy(file, file.with_name("seed_2_copy.safetensors"))
    assert weights.seeds(run) == [2]
    arrays, recipe, _ = weights.read_weights(file)
    text = recipe.model_dump_json().replace('"kernel":3', '"kernel":99', 1)
    file.write_bytes(save(arrays, {"recipe": text}))
    with pytest.raises(
        RunError,
        match=r"seed_2.safetensors is damaged: its metadata cannot be read \(network\[1\] is 99x99, larger",
    ):
        weights.load(run)
    file.write_bytes(save(arrays))
    with pytest.raises(
        RunError, match=r"is damaged: its metadata cannot be read \(recipe is missing\). Rerun the"
    ):
        weights.load(run)


def test_images_of_a_report_need_no_seed_whose_predictions_are_damaged(tmp_path):
    """Those of other images are left out too: seeds that an earlier command trained stay as they are."""
    path, labels = (
        write_run(tmp_path / "run", "3", CURVES | {5: [0.9, 0.96], 6: [0.9, 0.99]}),
        np.arange(1000) % 10,
    )
    (path / "predictions" / "seed_3.npz").write_bytes(b"PK")
    resave(path / "predictions" / "seed_4.npz", labels=np.roll(labels, 1).astype(np.uint8))
    np.savez(path / "predictions" / "seed_5.npz", epoch=1)
    folder.write_images(path, np.zeros((1000, 28, 28, 1), np.uint8), labels.astype(np.uint8))
    assert array_files.read_npz(path / "images.npz")["index"].tolist() == [
        *range(10),
        *range(10, 16),
    ]

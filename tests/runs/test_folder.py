"""Write and read the files of a run folder."""

import json
import shutil

import numpy as np
import pytest
from runs_on_disk import write_run, write_trained
from safetensors.numpy import save

from jaxdrill import array_files, files, weights
from jaxdrill.errors import RunError
from jaxdrill.runs import folder

CURVES = {3: [0.9, 0.98], 4: [0.91, 0.97], 5: [0.9, 0.96], 6: [0.9, 0.99]}
ROW = '{"epoch": 0, "step": 3, "seed": 1, "test_loss": 0.1, "x": -1e30}'


def test_rows_keep_their_bytes(tmp_path):
    """Integers are not converted to floats. The seed and the epoch come first."""
    rows = [{"seed": 1, "epoch": 0, "step": 3, "train_loss": 0.1 + 0.2}]
    folder.write_rows(tmp_path, rows)
    text = '{"seed": 1, "epoch": 0, "step": 3, "train_loss": 0.30000000000000004}\n'
    assert (tmp_path / "metrics.jsonl").read_text() == text
    assert folder.read_rows(tmp_path) == (rows, None)
    (tmp_path / "metrics.jsonl").write_text(ROW)
    (row,), _ = folder.read_rows(tmp_path)
    order = '{"seed": 1, "epoch": 0, "step": 3, "test_loss": 0.1, "x": -1e+30}'
    assert json.dumps(row) == order


@pytest.mark.parametrize(
    "line",
    [
        "3",
        "[]",
        '{"seed": 3}',
        '{"seed": 3, "epoch": 0',
        '{"seed": true, "epoch": 0}',
        '{"seed": 1.0, "epoch": 0}',
        '{"seed": -1, "epoch": 0}',
        '{"seed": 1, "epoch": 4294967296}',
        '{"seed": 1, "epoch": 0, "loss": NaN}',
        '{"seed": 1, "epoch": 0, "loss": 1e999}',
        '{"seed": 1, "epoch": 0, "loss": -1.1e30}',
        '{"seed": 1, "epoch": 0, "loss": 1' + 400 * "0" + "}",
        '{"seed": 1, "epoch": 0, "loss": "1"}',
        '{"seed": 1, "epoch": 0, "loss": true}',
        '{"seed": 1, "epoch": 0, "loss": null}',
    ],
)
def test_a_damaged_row_is_reported_by_its_line(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text(f"{ROW}\n{line}\n{ROW}\n3\n")
    rows, damaged = folder.read_rows(tmp_path)
    assert (len(rows), damaged) == (2, 2)


def test_a_reader_never_sees_a_part_of_a_file(tmp_path, monkeypatch):
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
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["arrays.npz", "text"], "no temporary file is left"


def test_weights_files_that_are_copies_or_damaged(tmp_path):
    """A copy under another name is not a seed. An impossible recipe is reported in one line."""
    run = write_trained(tmp_path / "run", "6_small", [2])
    file = weights.find(run)
    shutil.copy(file, file.with_name("seed_2_copy.safetensors"))
    assert weights.seeds(run) == [2]
    arrays, recipe, _ = weights.read_weights(file)
    text = recipe.model_dump_json().replace('"kernel":3', '"kernel":99', 1)
    file.write_bytes(save(arrays, {"recipe": text}))
    message = r"seed_2.safetensors is damaged: .*network\[1\] is 99x99, larger"
    with pytest.raises(RunError, match=message):
        weights.load(run)
    file.write_bytes(save(arrays))
    message = r"is damaged: its metadata cannot be read \(recipe is missing\)\. Rerun the command"
    with pytest.raises(RunError, match=message):
        weights.load(run)


def test_images_are_chosen_without_damaged_predictions(tmp_path):
    """Predictions of other images are skipped too: they belong to seeds of an earlier command."""
    run, labels = write_run(tmp_path / "run", "3", CURVES), (np.arange(1000) % 10).astype(np.uint8)
    (run / "predictions" / "seed_3.npz").write_bytes(b"PK")
    file = run / "predictions" / "seed_4.npz"
    np.savez_compressed(file, **(dict(np.load(file)) | {"labels": np.roll(labels, 1)}))
    np.savez(run / "predictions" / "seed_5.npz", epoch=1)
    folder.write_images(run, np.zeros((1000, 28, 28, 1), np.uint8), labels)
    index = array_files.read_npz(run / "images.npz")["index"]
    assert index.tolist() == list(range(16))

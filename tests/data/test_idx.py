"""A user's idx files, and the messages about files that cannot be used."""

import gzip
import hashlib
import json
import struct

import numpy as np
import pytest
from conftest import idx_bytes

from jaxdrill import data
from jaxdrill.data import idx
from jaxdrill.errors import RunError
from jaxdrill.main import main

NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


@pytest.fixture
def own(tmp_path, digits):
    """Four idx files, not gzipped, of 200 training and 100 test images of digits."""
    folder = tmp_path / "own"
    folder.mkdir()
    arrays = digits.train_images[:200, ..., 0], digits.train_labels[:200]
    arrays += digits.test_images[:100, ..., 0], digits.test_labels[:100]
    for name, values in zip(NAMES, arrays, strict=True):
        (folder / name).write_bytes(idx_bytes(values))
    return folder


def test_own_files_are_read(own, digits):
    loaded = data.load("my_digits", own)
    assert loaded.name == "my_digits"
    assert np.array_equal(loaded.train_images, digits.train_images[:200])
    assert np.array_equal(loaded.test_labels, digits.test_labels[:100])
    assert loaded.files == {
        name: hashlib.sha256((own / name).read_bytes()).hexdigest() for name in NAMES
    }


def convert_to_emnist(folder, rename) -> None:
    """Convert a folder to EMNIST's format: gzipped, transposed images, other file names."""
    for name in NAMES:
        content = (folder / name).read_bytes()
        if "images" in name:
            content = idx_bytes(idx.read(folder / name, 3).swapaxes(1, 2))
        (folder / name).unlink()
        (folder / rename(name)).write_bytes(gzip.compress(content))


@pytest.mark.parametrize(
    ("rename", "dataset"),
    [
        (lambda name: f"emnist-digits-{name.replace('t10k', 'test')}.gz", "emnist_digits"),
        (lambda name: f"EMNIST-Digits-{name.replace('t10k', 'test')}.GZ", "mine"),
        (lambda name: f"emnist-digits-{name}.gz".upper(), "mine"),
        (lambda name: name, "emnist"),
        (lambda name: name, "emnist_mnist"),
    ],
)
def test_images_of_emnist_are_transposed(own, digits, rename, dataset):
    """The name of the file, in upper or lower case, or of the dataset identifies EMNIST."""
    convert_to_emnist(own, rename)
    loaded = data.load(dataset, own)
    assert np.array_equal(loaded.train_images, digits.train_images[:200])
    assert np.array_equal(loaded.test_images, digits.test_images[:100])
    assert np.array_equal(loaded.test_labels, digits.test_labels[:100])


def test_images_of_other_data_are_not_transposed(own, digits):
    (own / NAMES[0]).rename(own / "not-emnist-train-images")
    assert np.array_equal(data.load("my_emnist", own).train_images, digits.train_images[:200])


def test_data_selects_a_dataset_of_emnist(own, digits):
    """The release of EMNIST contains several datasets."""
    for name in NAMES:
        (own / f"emnist-balanced-{name}").write_bytes(b"")
    convert_to_emnist(own, lambda name: f"emnist-digits-{name}")
    assert np.array_equal(data.load("emnist_digits", own).train_images, digits.train_images[:200])
    with pytest.raises(RunError) as error:
        data.load("emnist", own)
    assert f"{error.value}" == (
        f"{own} contains several files with train and images in the name: "
        "emnist-balanced-train-images-idx3-ubyte, emnist-digits-train-images-idx3-ubyte. Keep one "
        "of them there, or choose a --data that is part of one of these names only, such as "
        "emnist_digits."
    )


def test_files_that_macos_writes_to_other_disks_are_ignored(own, digits):
    for name in (*NAMES, ".DS_Store"):
        (own / f"._{name}").write_bytes(b"\0\5\x16\7")
    (own / ".train-images.swp").write_bytes(b"")
    loaded = data.load("my_digits", own)
    assert np.array_equal(loaded.train_images, digits.train_images[:200])
    assert sorted(loaded.files) == sorted(NAMES)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("t10k", "T10K"),
        ("train", "TRAINING"),
        ("t10k", "x_test1"),
        ("train", "Train-"),
        ("images", "Images"),
        ("train-images-idx3-ubyte", "trainimages"),
    ],
)
def test_file_names_state_the_content(own, digits, old, new):
    for name in NAMES:
        (own / name).rename(own / name.replace(old, new))
    loaded = data.load("my_digits", own)
    assert np.array_equal(loaded.train_images, digits.train_images[:200])
    assert np.array_equal(loaded.test_images, digits.test_images[:100])


@pytest.mark.parametrize(
    "other", ["latest-images", "trainer-images", "contest-labels", "strain-labels"]
)
def test_words_that_contain_train_or_test_do_not_match(own, other):
    (own / other).write_bytes(b"")
    assert sorted(data.load("my_digits", own).files) == sorted(NAMES)


def test_a_file_that_matches_train_and_test_is_rejected(own):
    for name in (NAMES[0], NAMES[2]):
        (own / name).rename(own / f"{name}.bak")
    (own / "train-test-images").write_bytes((own / f"{NAMES[0]}.bak").read_bytes())
    for name in (NAMES[0], NAMES[2]):
        (own / f"{name}.bak").unlink()
    with pytest.raises(RunError, match="train-test-images matches both train and test"):
        data.load("my_digits", own)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            b"\0\0\x08\4",
            "contains 4-D uint8 data (colour images?). Allowed for images: 3-D uint8 data.",
        ),
        (
            b"\0\0\x08\2",
            "contains 2-D uint8 data (images as rows of a table?). "
            "Allowed for images: 3-D uint8 data.",
        ),
        (b"\0\0\x08\1", "contains 1-D uint8 data (labels?). Allowed for images: 3-D uint8 data."),
        (b"\0\0\x09\3", "contains 3-D int8 data. Allowed for images: 3-D uint8 data."),
        (b"\0\0\x0b\3", "contains 3-D int16 data. Allowed for images: 3-D uint8 data."),
        (b"\0\0\x0c\3", "contains 3-D int32 data. Allowed for images: 3-D uint8 data."),
        (b"\0\0\x0d\3", "contains 3-D float32 data. Allowed for images: 3-D uint8 data."),
        (
            b"\0\0\x0e\4",
            "contains 4-D float64 data (colour images?). Allowed for images: 3-D uint8 data.",
        ),
        (b"\0\0\x0a\3", "is not an idx file of images. Use MNIST's format, gzipped or not."),
        (b"PK\3\4", "is not an idx file of images. Use MNIST's format, gzipped or not."),
    ],
)
@pytest.mark.parametrize("packed", [True, False])
def test_the_type_of_an_unsupported_idx_file_is_reported(own, header, message, packed):
    content = header + struct.pack(">4I", 2, 28, 28, 3) + bytes(2 * 28 * 28 * 3)
    (own / NAMES[0]).write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(RunError) as error:
        data.load("my_digits", own)
    assert f"{error.value}" == f"{own / NAMES[0]} {message}"
    assert idx.is_idx(own / NAMES[0]) == ("is not an idx file" not in message)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        (NAMES[0], np.zeros((200, 28, 27), np.uint8), "contains images of 28x27; allowed: 28x28"),
        (
            NAMES[2],
            np.ones((100, 28, 28), np.uint8),
            "has no pixel above 1; pixels must use the range 0 to 255",
        ),
        (NAMES[1], np.full(200, 10, np.uint8), "has labels up to 10; allowed: 0 to 9, ten classes"),
        (NAMES[3], np.zeros(99, np.uint8), "contains 99 labels for 100 images"),
        (
            NAMES[3],
            np.zeros(0, np.uint8),
            "has 0 bytes of data according to its header. Allowed: 1 to 268,435,456.",
        ),
        (
            NAMES[1],
            np.zeros((200, 28, 28), np.uint8),
            "contains 3-D uint8 data (images?). Allowed for labels: 1-D uint8 data.",
        ),
    ],
)
def test_unsupported_values_are_rejected(own, name, values, message):
    (own / name).write_bytes(idx_bytes(values))
    with pytest.raises(RunError) as error:
        data.load("my_digits", own)
    assert f"{error.value}" == f"{own / name} {message}"


# The contents are part of the tests' names, which must be equal in all workers: without mtime=0,
# gzip would store the time.
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an idx file of images. Use MNIST's format"),
        (b"\0\0\x08\x03\0\0", "cannot be read"),
        (
            struct.pack(">I3I", 0x803, 2**31, 28, 28) + b"0",
            "has 1,683,627,180,032 bytes of data according to its header. Allowed: 1 to",
        ),
        (
            struct.pack(">I3I", 0x803, 0, 2**32 - 1, 2**32 - 1),
            "has 0 bytes of data according to its header. Allowed: 1 to 268,435,456.",
        ),
        (
            idx_bytes(np.zeros((2, 28, 28), np.uint8))[:-1],
            "is damaged: it contains less data than its header states",
        ),
        (
            idx_bytes(np.zeros((2, 28, 28), np.uint8)) + b"0",
            "is damaged: it contains more data than its header states",
        ),
        (gzip.compress(idx_bytes(np.zeros((2, 28, 28), np.uint8)), mtime=0)[:-9], "cannot be read"),
        (
            gzip.compress(idx_bytes(np.zeros((2, 28, 28), np.uint8)), mtime=0)[:20] + b"x" * 40,
            "cannot be read",
        ),
    ],
)
def test_damaged_files_are_rejected(own, content, message):
    (own / NAMES[0]).write_bytes(content)
    with pytest.raises(RunError, match=f"{NAMES[0]} {message}"):
        data.load("my_digits", own)


def test_a_folder_with_a_missing_or_ambiguous_file_is_rejected(own):
    (own / NAMES[3]).rename(own / "labels")
    with pytest.raises(RunError) as error:
        data.load("my_digits", own)
    missing = "test or t10k and labels in the name. Add one, such as t10k-labels-idx1-ubyte.gz."
    assert f"{error.value}" == f"{own} contains no file with {missing}"
    (own / "my-test-labels").write_bytes(b"")
    (own / "t10k-labels.gz").write_bytes(b"")
    with pytest.raises(
        RunError,
        match=r"labels in the name: my-test-labels, t10k-labels\.gz\. Keep one of them there",
    ):
        data.load("my_digits", own)
    with pytest.raises(RunError, match="nowhere cannot be read"):
        data.load("my_digits", own / "nowhere")


def test_own_files_need_an_own_name(small_files):
    """Files with other checksums than MNIST's cannot be used as `mnist`."""
    (small_files / "train-labels-idx1-ubyte.gz").write_bytes(
        gzip.compress(idx_bytes(np.zeros(30, np.uint8)))
    )
    with pytest.raises(
        RunError,
        match=r"not the official file of mnist: .* your own data, such as --data my_digits",
    ):
        data.load("mnist", small_files)
    assert data.load("my_digits", small_files).train_labels.tolist() == [0] * 30


def test_a_run_names_its_data(own, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "tiny.toml"  # One layer compiles in a third of the time of `tiny_recipe`.
    recipe.write_text("epochs = 2\nnetwork = [{ conv = 10, kernel = 28 }]")
    command = ["--step", str(recipe), "--data", "my_digits", "--data-dir", str(own)]
    command += ["--batch-size", "50"]
    assert main(command) == 0
    folder = tmp_path / "runs" / "tiny_my_digits"
    metadata = json.loads((folder / "run.json").read_text())
    assert (metadata["dataset"], sorted(metadata["dataset_files"])) == ("my_digits", sorted(NAMES))
    assert json.loads((folder / "config.json").read_text())["data"] == "my_digits"
    printed = capsys.readouterr().out
    epochs = [line for line in printed.splitlines() if " epoch  " in line]
    assert epochs and all(line.startswith("my_digits seed 1") for line in epochs)
    assert any(
        line.split()[:2] == ["tiny", "my_digits"] for line in printed.splitlines()
    )  # The final table.
    (own / NAMES[1]).write_bytes(idx_bytes(np.zeros(200, np.uint8)))
    assert main(command) == 2
    assert "holds a run with dataset_sha256 =" in capsys.readouterr().err

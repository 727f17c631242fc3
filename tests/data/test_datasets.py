"""Datasets from official files and from the packed cache."""

import gzip
import socket
import sys

import numpy as np
import pytest

from jaxdrill import data
from jaxdrill.errors import RunError, UsageError


def same(a: data.Dataset, b: data.Dataset) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in data.FILES)


def packed_files() -> list[str]:
    return [path.name for path in (data.download.cache_folder() / "jaxdrill").glob("*")]


def test_idx_files_are_read_and_packed(small_files, capsys):
    loaded = data.load("mnist", small_files)
    images = gzip.decompress((small_files / "train-images-idx3-ubyte.gz").read_bytes())[16:]
    assert loaded.train_images.tobytes() == images
    labels = gzip.decompress((small_files / "t10k-labels-idx1-ubyte.gz").read_bytes())[8:]
    assert loaded.test_labels.tobytes() == labels
    assert (loaded.name, len(loaded.train_labels), len(loaded.test_labels)) == ("mnist", 30, 20)
    assert packed_files() == ["mnist.npz"]
    pack = data.pack_file("mnist")
    assert capsys.readouterr().err == f"jaxdrill: mnist is stored in {pack} for later starts\n"
    assert same(data.load("mnist", offline=True), loaded)
    assert same(data.load("auto", small_files), loaded)


def test_official_file_names_may_be_in_upper_case(small_files):
    loaded = data.load("mnist", small_files)
    for file in data.FILES.values():
        (small_files / file).rename(small_files / file.upper())
        (small_files / f"._{file}").write_bytes(b"")
    data.pack_file("mnist").unlink()
    assert same(data.load("mnist", small_files), loaded)


def test_a_packed_dataset_needs_neither_tfds_nor_network(small_files, monkeypatch):
    loaded = data.load("kmnist", small_files)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    monkeypatch.setattr(socket, "socket", None)
    assert same(data.load("kmnist"), loaded)
    monkeypatch.setattr(data.download, "registered_files", None)
    assert same(data.load("kmnist", small_files), loaded)


def test_a_damaged_pack_is_replaced(small_files):
    loaded = data.load("mnist", small_files)
    pack = data.pack_file("mnist")
    pack.write_bytes(pack.read_bytes()[:-300])
    assert same(data.load("mnist", small_files), loaded)
    assert same(data.load("mnist", offline=True), loaded)
    flipped = bytearray(pack.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    pack.write_bytes(flipped)
    with pytest.raises(RunError, match="mnist is not in the cache"):
        data.load("mnist", offline=True)


def test_a_cache_that_is_not_writable_does_not_stop_the_run(small_files, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "file"))
    assert len(data.load("mnist", small_files).train_labels) == 30


def remove_a_file(folder):
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()


def truncate_a_file(folder):
    file = folder / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-100])


def change_a_file(folder):
    file = folder / "train-labels-idx1-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-1] + b"\0\0")


def exchange_two_files(folder):
    train, test = folder / "train-images-idx3-ubyte.gz", folder / "t10k-images-idx3-ubyte.gz"
    train.rename(folder / "x")
    test.rename(train)
    (folder / "x").rename(test)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            remove_a_file,
            "t10k-labels-idx1-ubyte.gz cannot be read (No such file or directory); --data-dir must "
            "contain train-images-idx3-ubyte.gz, ",
        ),
        (
            truncate_a_file,
            "train-images-idx3-ubyte.gz is not the official file of mnist: it has SHA-256",
        ),
        (
            change_a_file,
            "train-labels-idx1-ubyte.gz is not the official file of mnist: it has SHA-256",
        ),
        (
            exchange_two_files,
            "train-images-idx3-ubyte.gz is not the official file of mnist: it is "
            "t10k-images-idx3-ubyte.gz. Download it again, or choose another name for your own "
            "data, such as --data my_digits.",
        ),
    ],
)
@pytest.mark.parametrize("is_packed", [False, True])
def test_a_wrong_file_is_rejected(small_files, damage, message, is_packed):
    if is_packed:
        data.load("mnist", small_files)
    before = packed_files()
    damage(small_files)
    with pytest.raises(RunError) as error:
        data.load("auto", small_files)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert packed_files() == before


def test_a_missing_folder_is_rejected(tmp_path):
    with pytest.raises(RunError, match=r"nowhere/train-images-idx3-ubyte\.gz cannot be read"):
        data.load("mnist", tmp_path / "nowhere")
    with pytest.raises(UsageError, match="digits does not use"):
        data.load("digits", tmp_path)


def test_an_unknown_name_needs_a_folder():
    with pytest.raises(
        UsageError,
        match=r"^data is mnits; did you mean mnist.; allowed: auto, mnist, .* in --data-dir$",
    ):
        data.load("mnits")


def test_arrays_of_wrong_shapes_are_rejected(digits):
    images, labels = digits.train_images, digits.train_labels
    with pytest.raises(AssertionError):
        data.Dataset("x", images[..., 0], labels, images, labels)
    with pytest.raises(AssertionError):
        data.Dataset("x", images, labels[:-1], images, labels)


def test_mnist(mnist_dir):
    mnist = data.load("mnist", mnist_dir)
    assert mnist.train_images.shape == (60_000, 28, 28, 1)
    assert mnist.test_images.shape == (10_000, 28, 28, 1)
    assert mnist.train_labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert mnist.test_labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    pixels = mnist.train_images / np.float32(255)
    assert (round(float(pixels.mean()), 4), round(float(pixels.std()), 4)) == (0.1307, 0.3081)
    assert same(mnist, data.load("auto", offline=True))


def test_exchanged_files_of_mnist(mnist_dir, tmp_path):
    for file in data.FILES.values():
        (tmp_path / file).write_bytes((mnist_dir / file).read_bytes())
    exchange_two_files(tmp_path)
    with pytest.raises(RunError, match=r"it is t10k-images-idx3-ubyte\.gz\. Download it again"):
        data.load("mnist", tmp_path)

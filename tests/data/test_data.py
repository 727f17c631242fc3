"""Where the arrays come from, and what happens when they cannot come."""

import dataclasses
import gzip
import http.server
import socket
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest
from sklearn.datasets import load_digits

from jaxdrill import data
from jaxdrill.data import embedded, splits
from jaxdrill.errors import RunError, UsageError


def same(a: data.Dataset, b: data.Dataset) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in data.FILES)


def cached() -> list[str]:
    return [path.name for path in (data.cache_folder() / "jaxdrill").glob("*")]


def test_digits_are_always_the_same(all_digits):
    assert all_digits.train_images.shape == (8 * 1437, 28, 28, 1)
    assert all_digits.test_images.shape == (360, 28, 28, 1)
    assert (all_digits.train_images.min(), all_digits.train_images.max()) == (0, 255)
    assert np.bincount(all_digits.test_labels).min() >= 35
    assert all_digits.sha256 == "bd2c9fe5d7280f5d670200fe49de4319d1a4726c14d795462b0a31a07b8ef61c"


def test_digits_are_drawn_from_parts_that_stay_apart(all_digits):
    """Eight drawings of each training digit, and one of each test digit; no digit is in both parts."""
    drawings = all_digits.train_images.reshape(8, 1437, -1)
    labels = all_digits.train_labels.reshape(8, 1437)
    assert (labels == labels[0]).all() and len(np.unique(drawings[:, 0], axis=0)) == 8
    images = load_digits().data.reshape(-1, 8, 8)
    test = embedded.draw(images, 2.5, 0, 0).reshape(len(images), -1)
    train = embedded.draw(images, 2.25, -1, -1).reshape(len(images), -1)
    in_test = {image.tobytes() for image in all_digits.test_images.reshape(360, -1)}
    in_train = {image.tobytes() for image in drawings[0]}
    parts = [
        (test[n].tobytes() in in_test, train[n].tobytes() in in_train) for n in range(len(images))
    ]
    assert parts.count((True, False)) == 360 and parts.count((False, True)) == 1437


@pytest.mark.parametrize("count", [100, 400])
def test_images_that_are_held_out(digits, count):
    """The same at each call, of each class its share, and no longer trained on."""
    held, again = (splits.hold_out(digits, count, "auto") for _ in range(2))
    assert same(held, again) and held.split == "validation"
    assert (len(held.train_labels), len(held.test_labels)) == (1437 - count, count)
    shares = np.bincount(digits.train_labels) * count / 1437
    assert (abs(np.bincount(held.test_labels) - shares) <= 1).all()
    both = np.concatenate([held.train_images, held.test_images]).reshape(1437, -1)
    assert np.array_equal(
        np.unique(both, axis=0), np.unique(digits.train_images.reshape(1437, -1), axis=0)
    )
    test = splits.hold_out(digits, count, "test")
    assert test.split == "test" and np.array_equal(test.test_images, digits.test_images)
    assert np.array_equal(test.train_images, held.train_images)


def test_drawings_of_a_digit_are_not_held_out_apart(all_digits):
    """All eight drawings of a source digit are on the same side, so that no held-out digit is trained on."""
    held = splits.hold_out(all_digits, 1000, "auto")
    assert (len(held.train_labels), len(held.test_labels)) == (10_496, 1000)
    source = {image.tobytes(): n % 1437 for n, image in enumerate(all_digits.train_images)}
    kept = {source[image.tobytes()] for image in held.train_images}
    out = {source[image.tobytes()] for image in held.test_images}
    assert (len(kept), len(out), kept & out) == (1312, 125, set())
    assert kept == set(held.groups.tolist())
    assert (
        abs(np.bincount(held.test_labels) - np.bincount(all_digits.train_labels) * 1000 / 11_496)
        <= 8
    ).all()
    again = splits.hold_out(held, 1000, "auto")  # what remains still has its groups
    out = {source[image.tobytes()] for image in again.test_images}
    assert not out & {source[image.tobytes()] for image in again.train_images}


def test_folds_of_digits_share_no_source_digit(all_digits):
    source = {image.tobytes(): n % 1437 for n, image in enumerate(all_digits.train_images)}
    folds = [splits.hold_out(all_digits, 2299, "auto", fold) for fold in range(1, 6)]
    out = [{source[image.tobytes()] for image in fold.test_images} for fold in folds]
    assert [len(fold.test_labels) for fold in folds] == [2304, 2304, 2296, 2296, 2296]
    assert [len(sources) for sources in out] == [288, 288, 287, 287, 287] and len(
        set.union(*out)
    ) == 1437
    for fold, sources in zip(folds, out, strict=True):
        assert not sources & {source[image.tobytes()] for image in fold.train_images}


@pytest.mark.parametrize(("count", "held"), [(700, 704), (1436, 1440), (1441, 1440)])
def test_a_count_that_would_split_a_source_digit_is_rounded_and_told(
    all_digits, capsys, count, held
):
    assert len(splits.hold_out(all_digits, count, "auto").test_labels) == held
    told = f"{held} images are held out instead of {count}: all 8 drawings of each of {held // 8} source images"
    assert capsys.readouterr().err == f"jaxdrill: {told}\n"
    splits.hold_out(all_digits, held, "auto")
    assert capsys.readouterr().err == ""


def test_images_without_groups_are_split_as_before(digits):
    """The bits of the split, which run folders of earlier versions depend on; of single groups they are the same."""
    for dataset in (digits, dataclasses.replace(digits, groups=None)):
        held = splits.hold_out(dataset, 400, "auto")
        fold = splits.hold_out(dataset, 287, "auto", 2)
        assert [each.sha256[:16] for each in (held, fold)] == [
            "8b1eede3b0de78f5",
            "5a8b0b5e9590fda1",
        ]


def test_folds_hold_each_image_out_once(digits):
    folds = [splits.hold_out(digits, 287, "auto", fold) for fold in range(1, 6)]
    assert [len(fold.test_labels) for fold in folds] == [288, 288, 287, 287, 287]
    assert all(
        same(fold, splits.hold_out(digits, 287, "auto", n)) for n, fold in enumerate(folds, start=1)
    )
    held = np.concatenate([fold.test_images for fold in folds]).reshape(1437, -1)
    assert np.array_equal(
        np.sort(held.sum(1)), np.sort(digits.train_images.reshape(1437, -1).sum(1))
    )
    for fold in folds:
        assert len(fold.train_labels) + len(fold.test_labels) == 1437 and fold.split == "validation"
        assert (
            abs(np.bincount(fold.test_labels) - np.bincount(digits.train_labels) / 5) <= 1
        ).all()
    with pytest.raises(UsageError, match="fold is 6; 1437 training images make 5 of 287"):
        splits.hold_out(digits, 287, "auto", 6)
    with pytest.raises(
        UsageError, match="fold is 1; 1437 training images make 1 of 800; hold out at most half of"
    ):
        splits.hold_out(digits, 800, "auto", 1)
    with pytest.raises(
        UsageError, match="fold is 2, and no images are held out; add --hold-out 10000"
    ):
        splits.hold_out(digits, 0, "auto", 2)


def test_what_cannot_be_held_out(digits):
    assert splits.hold_out(digits, 0, "auto") is digits
    for count in (1, 9, 1428, 1437, 10_000):
        with pytest.raises(
            UsageError, match=f"hold_out is {count}; allowed for digits: 0, or from 10 to 1427"
        ):
            splits.hold_out(digits, count, "auto")
    with pytest.raises(UsageError, match="no images are held out; add --hold-out 10000"):
        splits.hold_out(digits, 0, "validation")


@pytest.mark.parametrize("count", [10, 79, 11_417])
def test_what_cannot_be_held_out_of_drawings(all_digits, count):
    """Each class needs a source digit on either side."""
    with pytest.raises(
        UsageError,
        match=f"hold_out is {count}; allowed for digits: 0, or from 80 to 11416, so that",
    ):
        splits.hold_out(all_digits, count, "auto")


def test_idx_files_are_read_and_packed(small_files, capsys):
    loaded = data.load("mnist", small_files)
    images = gzip.decompress((small_files / "train-images-idx3-ubyte.gz").read_bytes())[16:]
    assert loaded.train_images.tobytes() == images
    labels = gzip.decompress((small_files / "t10k-labels-idx1-ubyte.gz").read_bytes())[8:]
    assert loaded.test_labels.tobytes() == labels
    assert (loaded.name, len(loaded.train_labels), len(loaded.test_labels)) == ("mnist", 30, 20)
    assert cached() == ["mnist.npz"]
    assert (
        capsys.readouterr().err
        == f"jaxdrill: mnist is kept in {data.pack_file('mnist')} for later starts\n"
    )
    assert same(data.load("mnist", offline=True), loaded)
    assert same(data.load("auto", small_files), loaded)


def test_official_files_on_a_disk_of_capital_letters(small_files):
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
    monkeypatch.setattr(data, "_registered", None)
    assert same(data.load("kmnist", small_files), loaded)


def test_a_damaged_pack_is_made_anew(small_files):
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


def test_a_cache_that_cannot_be_written_does_not_stop_the_run(small_files, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "file"))
    assert len(data.load("mnist", small_files).train_labels) == 30


def break_missing(folder):
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()


def break_truncated(folder):
    file = folder / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-100])


def break_corrupted(folder):
    file = folder / "train-labels-idx1-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-1] + b"\0\0")


def break_swapped(folder):
    train, test = folder / "train-images-idx3-ubyte.gz", folder / "t10k-images-idx3-ubyte.gz"
    train.rename(folder / "x")
    test.rename(train)
    (folder / "x").rename(test)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (
            break_missing,
            "t10k-labels-idx1-ubyte.gz cannot be read (No such file or directory); --data-dir must hold",
        ),
        (
            break_truncated,
            "train-images-idx3-ubyte.gz is not the official file of mnist: it has SHA-256",
        ),
        (
            break_corrupted,
            "train-labels-idx1-ubyte.gz is not the official file of mnist: it has SHA-256",
        ),
        (
            break_swapped,
            "train-images-idx3-ubyte.gz is not the official file of mnist: it holds t10k-images-idx3",
        ),
    ],
)
@pytest.mark.parametrize("packed_before", [False, True])
def test_a_wrong_file(small_files, break_it, message, packed_before):
    if packed_before:
        data.load("mnist", small_files)
    before = cached()
    break_it(small_files)
    with pytest.raises(RunError) as error:
        data.load("auto", small_files)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert cached() == before


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(RunError, match=r"nowhere/train-images-idx3-ubyte\.gz cannot be read"):
        data.load("mnist", tmp_path / "nowhere")
    with pytest.raises(UsageError, match="digits has none"):
        data.load("digits", tmp_path)


def test_offline_never_replaces_a_named_dataset_and_makes_no_network_call(monkeypatch, capsys):
    def refuse(*_, **__):
        raise AssertionError("a network call")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for name in ("mnist", "fashion_mnist", "kmnist"):
        with pytest.raises(
            RunError, match=f"^{name} is not in the cache .*--offline forbids a download; connect"
        ):
            data.load(name, offline=True)
    assert data.load("auto", offline=True).name == "digits"
    warning = capsys.readouterr().err
    assert warning.count("\n") == 1
    assert "training on digits instead" in warning and "no number below is one of MNIST" in warning


@pytest.fixture
def served(small_files, monkeypatch):
    """The small files on a local web server, registered at their addresses there."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(small_files))

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    registered = {
        file: (f"{address}/{file}", info) for file, (_, info) in data._registered("mnist").items()
    }
    monkeypatch.setattr(data, "_registered", lambda name: registered)
    yield small_files
    server.shutdown()
    server.server_close()


def test_download_through_tfds(served, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tfds's own
        loaded = data.load("auto")
    assert (loaded.name, len(loaded.train_labels)) == ("mnist", 30)
    assert same(loaded, data.load("mnist", served))
    assert same(loaded, data.load("mnist", offline=True))
    assert "digits" not in capsys.readouterr().err


@pytest.mark.parametrize("fetched_too", [False, True])
def test_a_cached_byte_that_has_changed(served, capsys, fetched_too):
    """In the packed dataset, and in a file that tfds keeps: found by their sums, and read or fetched again."""

    def flip(file):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tfds's own
        before = data.load("mnist")
        flip(data.pack_file("mnist"))
        if fetched_too:
            (file,) = (data.cache_folder() / "downloads").rglob("*train-images*.gz")
            flip(file)
        capsys.readouterr()
        again = data.load("mnist")
    assert same(before, again)
    told = capsys.readouterr().err
    assert "mnist.npz is damaged; mnist is read or fetched again" in told
    assert ("is damaged; it is fetched again" in told) == fetched_too
    assert same(before, data.load("mnist", offline=True))


def test_a_download_with_a_wrong_sum(served):
    break_corrupted(served)
    with (
        warnings.catch_warnings(),
        pytest.raises(RunError, match="could not be downloaded: NonMatchingChecksumError"),
    ):
        warnings.simplefilter("ignore")
        data.load("mnist")
    assert cached() == []


def test_a_server_that_never_answers_is_given_up_within_five_seconds(
    small_files, monkeypatch, capsys
):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        registered = {
            file: (f"{address}/{file}", info)
            for file, (_, info) in data._registered("mnist").items()
        }
        monkeypatch.setattr(data, "_registered", lambda name: registered)
        began = time.perf_counter()
        with pytest.raises(RunError, match=r"127.0.0.1:\d+ cannot be reached \(.*\); connect"):
            data.load("mnist")
        assert time.perf_counter() - began < 5
    assert data.load("auto").name == "digits"
    assert "127.0.0.1" in capsys.readouterr().err


def test_tfds_registers_the_four_files_of_each_dataset():
    """In a process of its own, as `_registered` imports tfds there for the first time."""
    code = """
from jaxdrill import data
from jaxdrill.data import embedded
import sys
for name in ("mnist", "fashion_mnist", "kmnist"):
    registered = data._registered(name)
    assert sorted(registered) == sorted(data.FILES.values()), registered
    assert all(len(info.checksum) == 64 for _, info in registered.values())
assert "tensorflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_arrays_of_a_wrong_shape_are_refused(digits):
    images, labels = digits.train_images, digits.train_labels
    with pytest.raises(AssertionError):
        data.Dataset("x", images[..., 0], labels, images, labels)
    with pytest.raises(AssertionError):
        data.Dataset("x", images, labels[:-1], images, labels)


def test_mnist_itself(mnist_dir):
    mnist = data.load("mnist", mnist_dir)
    assert (mnist.train_images.shape, mnist.test_images.shape) == (
        (60_000, 28, 28, 1),
        (10_000, 28, 28, 1),
    )
    assert mnist.train_labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert mnist.test_labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    pixels = mnist.train_images / np.float32(255)
    assert (round(float(pixels.mean()), 4), round(float(pixels.std()), 4)) == (0.1307, 0.3081)
    assert same(mnist, data.load("auto", offline=True))


def test_a_swapped_file_of_mnist_itself(mnist_dir, tmp_path):
    for file in data.FILES.values():
        (tmp_path / file).write_bytes((mnist_dir / file).read_bytes())
    break_swapped(tmp_path)
    with pytest.raises(RunError, match=r"it holds t10k-images-idx3-ubyte\.gz; download it again"):
        data.load("mnist", tmp_path)


def test_mnist_is_held_out_as_before(mnist_dir):
    """Run folders and results of earlier versions depend on these bits."""
    mnist = data.load("mnist", mnist_dir)
    held, fold = splits.hold_out(mnist, 10_000, "auto"), splits.hold_out(mnist, 12_000, "auto", 3)
    assert held.sha256 == "c3322af42c120285ae3aff7756bb4e3d6ac74870ad8648817635224763fddc4e"
    assert fold.sha256 == "c992988800754456ad748ccd8168e3c19f8faff1a50f80d24f3a00875e40e64c"

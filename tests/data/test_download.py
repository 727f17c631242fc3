"""Downloads through tfds, and what replaces them."""

import http.server
import socket
import subprocess
import sys
import threading
import time
import warnings

import pytest
from test_datasets import change_a_file, packed_files, same

from jaxdrill import data
from jaxdrill.errors import RunError


def register_at(address: str, monkeypatch) -> None:
    """Register the small files at the address of a server."""
    registered = {
        array: (f"{address}/{data.FILES[array]}", info)
        for array, (_, info) in data.download.registered_files("mnist").items()
    }
    monkeypatch.setattr(data.download, "registered_files", lambda name: registered)


def test_offline_makes_no_network_call_and_replaces_only_auto(monkeypatch, capsys):
    def reject(*_, **__):
        raise AssertionError("a network call")

    monkeypatch.setattr(socket, "socket", reject)
    monkeypatch.setattr(socket, "getaddrinfo", reject)
    for name in ("mnist", "fashion_mnist", "kmnist"):
        with pytest.raises(
            RunError, match=f"^{name} is not in the cache .*--offline forbids a download; connect"
        ):
            data.load(name, offline=True)
    assert data.load("auto", offline=True).name == "digits"
    warning = capsys.readouterr().err
    assert warning.count("\n") == 1
    assert "training on digits instead" in warning
    assert "No number below is a result on MNIST" in warning


@pytest.fixture
def served(small_files, monkeypatch):
    """The small files on a local web server, which is their registered address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(small_files))

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    register_at(f"http://127.0.0.1:{server.server_port}", monkeypatch)
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


@pytest.mark.parametrize("is_download_damaged", [False, True])
def test_a_changed_byte_in_the_cache_is_found(served, capsys, is_download_damaged):
    """The checksums protect the packed dataset and the files that tfds keeps."""

    def flip(file):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tfds's own
        before = data.load("mnist")
        flip(data.pack_file("mnist"))
        if is_download_damaged:
            downloads = data.download.cache_folder() / "downloads"
            (file,) = downloads.rglob("*train-images*.gz")
            flip(file)
        capsys.readouterr()
        again = data.load("mnist")
    assert same(before, again)
    printed = capsys.readouterr().err
    assert "mnist.npz is damaged; mnist is read or downloaded again" in printed
    assert ("is damaged. It is downloaded again." in printed) == is_download_damaged
    assert same(before, data.load("mnist", offline=True))


def test_a_download_with_a_wrong_checksum_is_rejected(served):
    change_a_file(served)
    with (
        warnings.catch_warnings(),
        pytest.raises(RunError, match="could not be downloaded: NonMatchingChecksumError"),
    ):
        warnings.simplefilter("ignore")
        data.load("mnist")
    assert packed_files() == []


def test_a_server_that_never_answers_times_out(small_files, monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        register_at(f"http://127.0.0.1:{silent.getsockname()[1]}", monkeypatch)
        assert data.download.TIMEOUT_SECONDS < 5
        monkeypatch.setattr(data.download, "TIMEOUT_SECONDS", 0.5)
        start = time.perf_counter()
        with pytest.raises(RunError, match=r"127.0.0.1:\d+ cannot be reached \(.*\); connect"):
            data.load("mnist")
        assert time.perf_counter() - start < 1.5
    assert data.load("auto").name == "digits"
    assert "127.0.0.1" in capsys.readouterr().err


def test_tfds_registers_four_files_of_each_dataset_without_tensorflow():
    """In a new process, which imports tfds for the first time."""
    code = """
import sys
from jaxdrill import data
for name in data.REGISTERED:
    registered = data.download.registered_files(name)
    assert list(registered) == list(data.FILES), registered
    for array, (url, info) in registered.items():
        assert url.endswith("/" + data.FILES[array]) and len(info.checksum) == 64
assert "tensorflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)

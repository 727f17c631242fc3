"""Strict JAX on two CPU devices, a cache folder of the tests' own, and small recipes and files."""

import gzip
import hashlib
import os
import struct
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

from runs_in_parts import command, compiled_once, copy, finished  # noqa: E402, F401
from runs_on_disk import drill  # noqa: E402, F401

from jaxdrill import config, data  # noqa: E402
from jaxdrill.data import embedded

ROOT = Path(__file__).parent.parent
TINY = """
epochs = 2
batch_size = 512
data = "digits"
network = [
  { conv = 4, kernel = 5, batch_norm = true, dropout = 0.1 },  # 24x24
  { pool = "max", size = 4 },                                  #  6x6
  { conv = 10, kernel = 6 },                                   #  1x1
]
augmentation = { rotation_degrees = 7 }
"""


def idx_bytes(values: np.ndarray) -> bytes:
    """An idx file of uint8 values."""
    return struct.pack(f">I{values.ndim}I", 0x800 + values.ndim, *values.shape) + values.tobytes()


@pytest.fixture(autouse=True, scope="session")
def _programs_are_compiled_once(tmp_path_factory):
    """All tests and the processes they start share a cache of compiled programs, as starts of the tool do."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(shared / "programs"))
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    """No test reads or writes the cache in the home folder."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "xdg_cache"))


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory) -> Path:
    """A recipe file that compiles in a second: dropout, rotation, batch norm."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="session")
def tiny(tiny_recipe) -> config.Config:
    return config.load(str(tiny_recipe))


@pytest.fixture(scope="session")
def all_digits() -> data.Dataset:
    """11,496 training images of 1,437 digits, and 360 test images."""
    return data.load("digits")


@pytest.fixture(scope="session")
def digits(all_digits) -> data.Dataset:
    """Each of the 1,437 training digits once: three steps an epoch of `tiny`."""
    few = {
        key: getattr(all_digits, key)[:1437] for key in ("train_images", "train_labels", "groups")
    }
    return replace(all_digits, **few)


@pytest.fixture
def few_digits(digits, monkeypatch) -> data.Dataset:
    """Whatever asks for digits gets `digits`."""
    arrays = tuple(getattr(digits, name) for name in data.FILES)
    monkeypatch.setattr(embedded, "digits", lambda: arrays)
    return digits


@pytest.fixture
def mnist_dir() -> Path:
    """The folder of the official files."""
    folder = os.environ.get("JAXDRILL_MNIST_DIR")
    if not folder:
        pytest.skip("JAXDRILL_MNIST_DIR names no folder with the four official MNIST files")
    return Path(folder)


@pytest.fixture
def small_files(tmp_path, monkeypatch) -> Path:
    """Four idx files of 30 and 20 images that pass for the official ones: their sums are registered in tfds's place."""
    from tensorflow_datasets.core.download.checksums import UrlInfo

    folder, generator, registered = tmp_path / "idx", np.random.default_rng(0), {}
    folder.mkdir()
    for file in data.FILES.values():
        count = 30 if file.startswith("train") else 20
        images = "images" in file
        shape = (count, 28, 28) if images else (count,)
        values = generator.integers(0, 256 if images else 10, shape, dtype=np.uint8)
        content = gzip.compress(idx_bytes(values))
        (folder / file).write_bytes(content)
        info = UrlInfo(
            size=len(content), checksum=hashlib.sha256(content).hexdigest(), filename=file
        )
        registered[file] = (f"http://127.0.0.1:9/{file}", info)
    monkeypatch.setattr(data, "_registered", lambda name: registered)
    return folder

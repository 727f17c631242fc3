"""Configure strict JAX on two CPU devices and separate caches. Provide small recipes and files."""

import gzip
import hashlib
import os
import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

from drawings import browsers, chromium, drill_page, measured_run, page_file  # noqa: E402, F401
from runs_in_parts import command, compiled_once, copy, finished  # noqa: E402, F401
from runs_on_disk import drill, shared_drill, trained  # noqa: E402, F401

from jaxdrill import config, data  # noqa: E402

ROOT = Path(__file__).parent.parent
TINY = """
epochs = 2
batch_size = 479  # no last, smaller batch that must be compiled too
data = "digits"
network = [
  { conv = 4, kernel = 5, batch_norm = true, dropout = 0.1 },  # 24x24
  { pool = "max", size = 4 },                                  #  6x6
  { conv = 10, kernel = 6 },                                   #  1x1
]
augmentation = { rotation_degrees = 7 }
"""


def idx_bytes(values: np.ndarray) -> bytes:
    """Return the content of an idx file of uint8 values."""
    return struct.pack(f">I{values.ndim}I", 0x800 + values.ndim, *values.shape) + values.tobytes()


def shell(text: str, cwd: Path, *prefix: str, **environment: str) -> tuple[int, str, str]:
    """Run a bash command with `@X` for `python -m jaxdrill.X`. Return exit code, stdout, stderr."""
    text = text.replace("@", f"{sys.executable} -m jaxdrill.")
    done = subprocess.run(
        [*prefix, "bash", "-c", f"set -o pipefail; {text}"],
        cwd=cwd,
        capture_output=True,
        env=os.environ | {"PYTHONPATH": f"{ROOT}"} | environment,
        timeout=300,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.fixture(autouse=True, scope="session")
def _programs_are_compiled_once(pytestconfig):
    """Share compiled programs between tests, the processes that they start, and later test runs."""
    folder = pytestconfig.cache.mkdir("programs")
    for program in folder.glob("*-cache"):
        try:
            zlib.decompress(program.read_bytes())
        except (zlib.error, OSError):  # A killed process wrote a part. JAX would never replace it.
            program.unlink(missing_ok=True)
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    """Use caches outside the home folder."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "xdg_cache"))


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory) -> Path:
    """Return a recipe file with dropout, rotation and batch norm that compiles in 4 s."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="session")
def tiny(tiny_recipe) -> config.Config:
    return config.load(str(tiny_recipe))


@pytest.fixture(scope="session")
def one_layer(tiny) -> config.Config:
    """Return a recipe of one layer that compiles in half the time. The last batch is smaller."""
    import groups  # tests/training is not in the path of tests/soak.

    return groups.changed(tiny, network=groups.ONE_LAYER, batch_size=512)


@pytest.fixture(scope="session")
def all_digits() -> data.Dataset:
    """Return 11,496 training images of 1,437 digits, and 360 test images."""
    return data.load("digits")


@pytest.fixture(scope="session")
def digits(all_digits) -> data.Dataset:
    """Return each of the 1,437 training digits once: three steps per epoch of `tiny`."""
    few = {
        key: getattr(all_digits, key)[:1437] for key in ("train_images", "train_labels", "groups")
    }
    return replace(all_digits, **few)


@pytest.fixture
def few_digits(digits, monkeypatch) -> data.Dataset:
    """Replace the dataset digits by `digits`."""
    arrays = tuple(getattr(digits, name) for name in data.FILES)
    monkeypatch.setattr(data.digits, "load_arrays", lambda: arrays)
    return digits


@pytest.fixture
def mnist_dir() -> Path:
    """Return the folder of the official files."""
    folder = os.environ.get("JAXDRILL_MNIST_DIR")
    if not folder:
        pytest.skip("JAXDRILL_MNIST_DIR is not set to a folder with the four official MNIST files")
    return Path(folder)


@pytest.fixture
def small_files(tmp_path, monkeypatch) -> Path:
    """Write four idx files of 30 and 20 images. Register their checksums as the official ones."""
    from tensorflow_datasets.core.download.checksums import UrlInfo

    folder, generator, registered = tmp_path / "idx", np.random.default_rng(0), {}
    folder.mkdir()
    for array, file in data.FILES.items():
        count = 30 if array.startswith("train") else 20
        images = array.endswith("images")
        shape = (count, 28, 28) if images else (count,)
        values = generator.integers(0, 256 if images else 10, shape, dtype=np.uint8)
        content = gzip.compress(idx_bytes(values))
        (folder / file).write_bytes(content)
        info = UrlInfo(
            size=len(content), checksum=hashlib.sha256(content).hexdigest(), filename=file
        )
        registered[array] = (f"http://127.0.0.1:9/{file}", info)
    monkeypatch.setattr(data.download, "registered_files", lambda name: registered)
    return folder

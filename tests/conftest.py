"""Strict JAX on two CPU devices, a cache folder of the tests' own, and small recipes and files."""

import dataclasses
import gzip
import hashlib
import json
import os
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
sys.path.append(str(Path(__file__).parent / "golden"))

from jaxdrill import config, data, folder  # noqa: E402

ROOT = Path(__file__).parent.parent
TINY = """
epochs = 2
batch_size = 512
data = "digits"
network = [
  { conv = 4, kernel = 5, batch_norm = true },   # 24x24
  { pool = "max", size = 4 },                    #  6x6
  { conv = 10, kernel = 6, relu = false },       #  1x1
]
dropout = { rate = 0.1, after = [1] }
augmentation = { rotation_degrees = 7 }
"""

CURVES = {1: [0.96, 0.981, 0.99], 2: [0.95, 0.982, 0.992], 3: [0.97, 0.983, 0.994]}
BETTER = {1: [0.96, 0.981, 0.995], 2: [0.95, 0.982, 0.996], 3: [0.97, 0.983, 0.999]}


@pytest.fixture(autouse=True, scope="session")
def _programs_are_compiled_once(tmp_path_factory):
    """Tests share a cache of compiled programs, as starts of the tool do."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("programs")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    """No test reads or writes the cache in the home folder."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "xdg_cache"))


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory) -> Path:
    """A recipe file that compiles in a second: dropout, rotation, batch norm, three steps an epoch on digits."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="session")
def tiny(tiny_recipe) -> config.Config:
    return config.load(str(tiny_recipe))


@pytest.fixture(scope="session")
def digits() -> data.Dataset:
    return data.load("digits")


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
        shape, header = ((count, 28, 28), 16) if images else ((count,), 8)
        values = generator.integers(0, 256 if images else 10, shape, dtype=np.uint8)
        content = gzip.compress(bytes(header) + values.tobytes())
        (folder / file).write_bytes(content)
        info = UrlInfo(size=len(content), checksum=hashlib.sha256(content).hexdigest(), filename=file)
        registered[file] = (f"http://127.0.0.1:9/{file}", info)
    monkeypatch.setattr(data, "_registered", lambda name: registered)
    return folder


def write_run(path: Path, step: str, curves: dict[int, list[float]], data="mnist", labels=None, **about) -> Path:
    """A finished run's folder with these test accuracies of each seed; the wrong images differ from seed to seed."""
    epochs, seeds = len(next(iter(curves.values()))), sorted(curves)
    recipe = dataclasses.replace(config.load(step), data=data, epochs=epochs, seed=seeds[0], seeds=len(seeds))
    labels = np.arange(1000) % 10 if labels is None else labels
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(dataclasses.asdict(recipe)))
    made = {"versions": {"python": "3.11", "jax": "0.10"}, "devices": ["cpu:0 cpu"], "processor": "Abacus, 2 cores"}
    run = {"format": folder.FORMAT, "command": ["python", "-m", "jaxdrill.main", "--step", step], "parameters": 9606,
           "dataset": data, "dataset_sha256": f"sum of {data}", "git_commit": "0" * 40, "earlier_sessions": [],
           "seconds": {"data": 1.0, "compile": 4.0, "train": 90.0, "evaluation": 5.0}} | made | about  # fmt: skip
    (path / "run.json").write_text(json.dumps(run))
    rows = [
        {"seed": seed, "epoch": epoch, "step": 469 * (epoch + 1), "learning_rate": 0.01, "train_loss": 0.1,
         "train_accuracy": 0.99, "test_loss": 0.05, "test_accuracy": accuracy, "test_examples": len(labels),
         "seconds": 9.0}
        for seed in seeds for epoch, accuracy in enumerate(curves[seed])
    ]  # fmt: skip
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shown = set(range(10))
    for seed in seeds:
        predicted = np.array(labels, np.uint8)
        wrong = (seed + np.arange(round((1 - curves[seed][-1]) * len(labels)))) % len(labels)
        predicted[wrong] = (predicted[wrong] + 1) % 10
        shown |= set(wrong.tolist())
        arrays = {"epoch": epochs - 1, "labels": np.array(labels, np.uint8), "predicted": predicted,
                  "probabilities": np.eye(10, dtype=np.float16)[predicted]}  # fmt: skip
        folder.write_arrays(folder.predictions_file(path, seed), arrays)
    images = np.random.default_rng(0).integers(0, 256, (len(shown), 28, 28), dtype=np.uint8)
    folder.write_arrays(path / "images.npz", {"index": np.array(sorted(shown)), "images": images})
    return path


@pytest.fixture
def drill(tmp_path):
    """Four steps, one of them with a seed less."""
    for step, curves in (("2", CURVES), ("3", {1: CURVES[1], 2: CURVES[2]}), ("4", CURVES), ("5", BETTER)):
        write_run(tmp_path / "runs" / f"step_{step}", step, curves)
    return tmp_path / "runs"

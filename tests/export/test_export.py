"""Compare the logits of exported networks, in their runtimes, with those of the run."""

import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import ROOT
from runs_on_disk import write_trained

from jaxdrill import array_files, config, weights
from jaxdrill.data import idx
from jaxdrill.errors import RunError
from jaxdrill.export.__main__ import export, main
from jaxdrill.weights import convert, inference

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a function that writes the run folder of a step with random weights."""
    root = tmp_path_factory.mktemp("runs")
    return cache(lambda step: write_trained(root / f"step_{step.removeprefix('step_')}", step))


@pytest.fixture
def images(digits) -> np.ndarray:
    return digits.test_images[:40, ..., 0]


def logits(folder: Path, images: np.ndarray) -> np.ndarray:
    return inference.logits(weights.read_weights(weights.find(folder)))(images)


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("step", config.steps())
def test_onnx(run, step, fold, images, tmp_path):
    onnxruntime = pytest.importorskip(
        "onnxruntime", reason="onnxruntime is not installed: pip install '.[export]'"
    )
    file = export(run(step), "onnx", out=tmp_path / "a.onnx", fold=fold)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"images": images})
    np.testing.assert_allclose(found, logits(run(step), images), atol=TOLERANCE, rtol=TOLERANCE)
    assert session.get_modelmeta().graph_name == step
    assert len(session.run(None, {"images": images[:1]})[0]) == 1


@pytest.mark.parametrize("step", ["1", "5", "6_small"])
def test_stablehlo(run, step, images, tmp_path):
    pytest.importorskip(
        "flatbuffers", reason="flatbuffers is not installed: pip install '.[export]'"
    )
    file = export(run(step), "stablehlo", out=tmp_path / "a.stablehlo")
    program = jax.export.deserialize(bytearray(file.read_bytes()))
    assert program.platforms == ("cpu", "cuda", "tpu")
    found = program.call(images)
    np.testing.assert_allclose(found, logits(run(step), images), atol=TOLERANCE, rtol=TOLERANCE)
    assert program.call(images[:3]).shape == (3, 10)


@pytest.mark.parametrize("step", ["2", "6_small"])
def test_safetensors(run, step, tmp_path):
    """Kept weights are those of the run. Folded, scale and shift compute the batch norm."""
    own, recipe, _ = weights.read_weights(weights.find(run(step)))
    kept, again, _ = weights.read_weights(
        export(run(step), "safetensors", 3, tmp_path / "kept.safetensors", fold=False)
    )
    assert (
        again == recipe
        and all(np.array_equal(kept[name], own[name]) for name in own)
        and len(kept) == len(own)
    )
    file = export(run(step), "safetensors", 3, tmp_path / "folded.safetensors")
    folded, metadata = array_files.read(file)
    assert not any("batch_norm" in name for name in folded)
    x = np.linspace(-3, 3, 7)[:, None]
    scale, bias, mean, var = (
        own[f"conv1.batch_norm.{key}"] for key in ("scale", "bias", "mean", "var")
    )
    expected = (x - mean) / np.sqrt(var + 1e-5) * scale + bias
    np.testing.assert_allclose(
        x * folded["conv1.scale"] + folded["conv1.shift"], expected, atol=1e-6
    )
    layers = json.loads(metadata["layers"])
    assert [layer["name"] for layer in layers[:3]] == [
        "conv1",
        "conv2",
        "conv3" if step == "2" else "pool1",
    ]
    with pytest.raises(
        RunError,
        match=r"folded.safetensors does not contain .*: conv1.batch_norm.(scale|bias) is missing",
    ):
        weights.read_weights(file)


def guide_code() -> str:
    """Return the PyTorch code of docs/guide.md."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "guide.md").read_text(), re.S)
    return next(code for code in blocks if "torch" in code)


@pytest.mark.parametrize("step", ["1", "2", "6", "6_small"])
def test_pytorch_by_the_guide(run, step, images, tmp_path):
    pytest.importorskip("torch", reason="PyTorch is not installed: pip install '.[bench]'")
    code, names = guide_code(), {}
    assert len(code.strip().splitlines()) <= 20
    exec(code, names)
    torch = names["torch"]
    file = export(run(step), "pytorch", out=tmp_path / "a.safetensors")
    found = names["logits"](file, torch.from_numpy(images))
    np.testing.assert_allclose(
        found.numpy(), logits(run(step), images), atol=TOLERANCE, rtol=TOLERANCE
    )


@pytest.mark.parametrize(
    ("to", "fold"), [("onnx", True), ("onnx", False), ("stablehlo", True), ("pytorch", True)]
)
def test_1000_test_images(mnist_dir, tmp_path, to, fold):
    """The weights of a measured run give the same logits in each runtime."""
    measured = ROOT / "results" / "step_6_one"
    images = idx.read(mnist_dir / "t10k-images-idx3-ubyte.gz", 3)[:1000]
    if to == "pytorch":
        pytest.importorskip("torch", reason="PyTorch is not installed: pip install '.[bench]'")
    file = export(measured, to, 2, tmp_path / "exported", fold)
    if to == "onnx":
        onnxruntime = pytest.importorskip("onnxruntime")
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {"images": images})
    elif to == "stablehlo":
        found = jax.export.deserialize(bytearray(file.read_bytes())).call(images)
    else:
        exec(guide_code(), names := {})
        found = names["logits"](file, names["torch"].tensor(images)).numpy()
    expected = inference.logits(weights.read_weights(weights.find(measured, 2)))(images)
    assert np.abs(found - expected).max() < TOLERANCE
    labels = idx.read(mnist_dir / "t10k-labels-idx1-ubyte.gz", 1)[:1000]
    assert (np.asarray(found).argmax(-1) == labels).mean() > 0.98


def test_a_pytorch_file_with_batch_norms_can_initialise_a_run(run, tmp_path):
    own, recipe, _ = weights.read_weights(weights.find(run("6_small")))
    file = export(run("6_small"), "pytorch", out=tmp_path / "kept.safetensors", fold=False)
    back = weights.initial_weights(file, recipe.network)
    assert back.keys() == own.keys() and all(np.array_equal(back[name], own[name]) for name in own)
    file = export(run("6_small"), "pytorch", out=tmp_path / "folded.safetensors")
    with pytest.raises(
        Exception, match=r"Its batch norms are folded: export it with --batch-norm kept$"
    ):
        weights.initial_weights(file, recipe.network)


def test_the_command(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([str(run("2")), "--to", "pytorch"]) == 0
    assert capsys.readouterr().out == "step_2_seed_3_pytorch.safetensors\n"
    arrays, _ = array_files.read(tmp_path / "step_2_seed_3_pytorch.safetensors")
    assert convert.is_pytorch(arrays)
    assert main([str(run("2")), "--to", "safetensors", "--out", "x/network.safetensors"]) == 0
    assert (tmp_path / "x" / "network.safetensors").exists()


def test_the_default_file_name(run, tmp_path, monkeypatch):
    """The name comes from the folder, not from the metadata of the weights file."""
    monkeypatch.chdir(tmp_path)
    arrays, recipe, _ = weights.read_weights(weights.find(run("6_small")))
    file = tmp_path / "runs" / "faster" / "weights" / "seed_1.safetensors"
    weights.write_weights(file, arrays, recipe.model_copy(update={"name": "../../evil"}), {})
    assert export(Path("runs/faster"), "safetensors") == Path("faster_seed_1.safetensors")
    assert export(file, "pytorch") == Path("faster_seed_1_pytorch.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir())[-1] == "runs"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["RUN", "--to", "onxn"], 2, "invalid choice: 'onxn'"),
        (["RUN"], 2, "the following arguments are required: --to"),
        (
            ["RUN", "--to", "onnx", "--seed", "4"],
            1,
            "RUN/weights/seed_4.safetensors does not exist. Every seed that finishes",
        ),
        (
            ["nowhere", "--to", "onnx"],
            1,
            "nowhere contains no weights. Every seed that finishes training writes weights/seed_N",
        ),
        (
            ["RUN", "--to", "safetensors", "--out", "RUN/weights/seed_3.safetensors/x"],
            1,
            "Not a directory|File exists",
        ),
    ],
)
def test_mistakes(run, arguments, code, message, capsys):
    folder = str(run("2"))
    assert main([argument.replace("RUN", folder) for argument in arguments]) == code
    error = capsys.readouterr().err
    assert re.search(message.replace("RUN", re.escape(folder)), error) and error.count("\n") == 1


@pytest.mark.parametrize(("to", "package"), [("onnx", "onnx"), ("stablehlo", "flatbuffers")])
def test_a_missing_package_is_named(run, to, package, tmp_path):
    code = f"""
import sys
sys.modules["{package}"] = None
from jaxdrill.export.__main__ import main
sys.exit(main(["{run("2")}", "--to", "{to}", "--out", "{tmp_path / "x"}"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    missing = f"jaxdrill: --to {to} needs the package {package}"
    assert done.stderr == f"{missing}. Install it: pip install 'jaxdrill[export]'\n"
    assert not (tmp_path / "x").exists()

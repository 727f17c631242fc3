"""Programs for devices that are not at hand: lowered for GPUs, compiled for TPUs."""

import importlib.util
import json
import os
import subprocess
import sys

import jax
import pytest
from conftest import ROOT
from jax import export

from benchmarks import compile_ahead
from jaxdrill import config
from jaxdrill.training import devices
from jaxdrill.training.lowering import Lowering, numerics


@pytest.mark.parametrize("platform", ["cuda", "rocm", "tpu"])
@pytest.mark.parametrize(
    ("step", "seeds", "flags"),
    [
        ("5", 1, {}),
        ("5", 8, {}),
        ("4_adam", 8, {}),
        ("5", 8, {"augmentation.scale": "0.07", "augmentation.interpolation": "bilinear"}),
    ],
)
def test_every_program_is_exported(platform, step, seeds, flags):
    mesh = devices.make_mesh(1, 1, jax.devices()[:1])
    lowering = Lowering(config.load(step, flags), compile_ahead.mnist(), seeds, mesh, platform)
    assert lowering.names() == ["start", "shuffle", "evaluate", (468, 128), (1, 96)]
    with numerics("float32"), jax.numpy_dtype_promotion("standard"):  # which optax's Adam needs
        for name in lowering.names():
            function, arguments = lowering.function(name)
            exported = export.export(function, platforms=[platform])(*arguments)
            assert exported.platforms == (platform,)


def test_only_a_tpu_picks_the_pixels_of_a_rotation_by_shifts():
    """The gather that is left there is that of the batch from the training images and labels."""
    mesh = devices.make_mesh(1, 1, jax.devices()[:1])
    gathers = {}
    for platform in ("cuda", "tpu"):
        lowering = Lowering(config.load("5"), compile_ahead.mnist(), 1, mesh, platform)
        function, arguments = lowering.function((1, 96))
        with numerics("float32"):
            text = export.export(function, platforms=[platform])(*arguments).mlir_module()
        gathers[platform] = text.count('"stablehlo.gather"(')
    assert gathers["cuda"] == gathers["tpu"] + 1


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed (.[tpu])"
)
@pytest.mark.parametrize(("topology", "mesh"), [("v5e:1x1", [1, 1]), ("v5e:2x2", [2, 2])])
def test_an_evaluation_and_an_epoch_compile_for_a_tpu(topology, mesh):
    case = {"step": "step_2", "topology": topology, "mesh": mesh, "seeds": 2, "convolution": "auto"}
    command = [sys.executable, "-m", "benchmarks.compile_ahead", "--case", json.dumps(case)]
    done = subprocess.run(
        command,
        env=os.environ | compile_ahead.ENVIRONMENT,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert 1e8 < found["epoch"]["bytes"] < 2e9 and found["epoch"]["flop"] > 1e8
    assert found["epoch"]["roofline_seconds"] > found["epoch"]["bytes"] / 1e12

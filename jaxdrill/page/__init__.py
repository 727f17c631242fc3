"""Build one HTML file in which a user draws a digit and trained networks predict it."""

import base64
import hashlib
import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from jaxdrill import weights
from jaxdrill.config.layers import count_parameters, infer_shapes
from jaxdrill.errors import RunError
from jaxdrill.nn.network import MEAN, STANDARD_DEVIATION
from jaxdrill.runs.reader import FinishedRun
from jaxdrill.weights import RETRAIN, TrainedNetwork
from jaxdrill.weights.convert import FOLDED, KERNELS

MAX_BYTES = 330_000  # of the weights in the page; the first seed of each run is always included
MAX_SEEDS, MAX_IMAGES = 5, 30
# Kernels are rounded to integers from -LEVELS to LEVELS. Networks with LARGE parameters or more
# have fewer levels.
LEVELS, FEW_LEVELS, LARGE = 127, 31, 50_000


@dataclass
class PageNetwork:
    """A run on the page: the seeds that are included, and the arrays that network.js reads."""

    run: FinishedRun
    seeds: list[int] = field(default_factory=list)
    floats: list[np.ndarray] = field(default_factory=list)  # float32
    integers: list[np.ndarray] = field(default_factory=list)  # int8
    layers: list[dict[str, Any]] = field(default_factory=list)
    dark: bool = False  # trained on dark strokes

    def describe(self, ambiguous: bool) -> dict[str, Any]:
        """Return the network's texts and layers. `ambiguous`: another run has the same name."""
        run, end = self.run, infer_shapes(self.run.config.network)[-1]
        return {
            "name": f"{run.name} ({run.folder})" if ambiguous else run.name,
            "parameters": end.parameters,
            "operations": end.macs,
            "accuracy": f"{run.split} {100 * run.metrics['accuracy'][:, -1].mean():.2f} %",
            "seeds": self.seeds,
            "recipe": self.layers,
            "dark": self.dark,
        }


def build(runs: Sequence[FinishedRun], max_seeds: int = MAX_SEEDS) -> str:
    """Build the page.

    The first seed of each run is included. Further seeds are added run by run while the weights
    stay below MAX_BYTES.

    Args:
        runs: runs with weights in their folders.
        max_seeds: maximum number of seeds per run.

    Raises:
        RunError: a run has no weights, or its weights are damaged.
    """
    networks, free = [PageNetwork(run) for run in runs], MAX_BYTES
    for number in range(max_seeds):
        for network in networks:
            run = network.run
            seeds = [seed for seed in weights.seeds(run.folder) if seed in run.seeds]
            if not seeds:
                raise RunError(f"{run.folder} contains no weights of its seeds. {RETRAIN}")
            for seed in seeds[number : number + 1]:
                trained = weights.read_weights(file := weights.find(run.folder, seed))
                if trained.config.network != run.config.network:
                    what = f"{file} contains the weights of another network than config.json"
                    raise RunError(f"{what}. Delete it and rerun the command that trained the run.")
                floats, integers = quantize(trained)
                size = len(encode([*floats, *integers]))
                if number and size > free:
                    continue
                free -= size
                network.seeds.append(seed)
                network.floats += floats
                network.integers += integers
                if not number:
                    network.layers = trained.layers
                    network.dark = trained.preparation.is_dark_on_light
    return render(networks)


def quantize(network: TrainedNetwork) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the float32 and the int8 arrays of a network in the order of network.js."""
    arrays = network.arrays(fold=True)
    levels = FEW_LEVELS if count_parameters(network.config.network) >= LARGE else LEVELS
    floats, integers = [], []
    for layer in network.layers:
        own = {key: arrays.get(f"{layer['name']}.{key}") for key in (*KERNELS, *FOLDED)}
        for key, array in own.items():
            if array is not None and key in KERNELS:
                array, whole = round_kernel(array, levels)
                integers.append(whole)
            if array is not None:
                floats.append(array)
    return floats, integers


def round_kernel(kernel: np.ndarray, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Round a kernel float32[..., O] to integers from -levels to levels.

    Returns:
        The scale of each output, float32[O], and the integers int8[..., O]. Their product
        approximates the kernel.
    """
    maximum = np.abs(kernel).max(axis=tuple(range(kernel.ndim - 1)))
    scale = (np.where(maximum > 0, maximum, 1) / levels).astype(np.float32)
    return scale, np.round(kernel / scale).astype(np.int8)


def encode(arrays: Iterable[np.ndarray]) -> str:
    """Compress arrays by zlib and encode them in base64. `inflate` in network.js reads them."""
    content = b"".join(array.astype(array.dtype.newbyteorder("<")).tobytes() for array in arrays)
    return base64.b64encode(zlib.compress(content, 9)).decode()


def render(networks: Sequence[PageNetwork]) -> str:
    """Return the HTML of the page."""
    runs = [network.run for network in networks]
    names = [run.name for run in runs]
    described = [network.describe(names.count(network.run.name) > 1) for network in networks]
    indices, images = hard_images(runs)
    floats = [array for network in networks for array in network.floats]
    integers = [array for network in networks for array in network.integers]
    data = {
        "mean": MEAN,
        "deviation": STANDARD_DEVIATION,
        "networks": described,
        "digits": indices,
        "images": images,
        "floats": sum(array.size for array in floats),
        "weights": encode([*floats, *integers]),
    }
    folder = files("jaxdrill.page")
    scripts = ("network.js", "ink.js", "page.js")
    script = "".join(folder.joinpath(name).read_text("utf-8") for name in scripts)
    style = folder.joinpath("page.css").read_text("utf-8")
    environment = Environment(
        loader=PackageLoader("jaxdrill.page", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja").render(
        title=", ".join(dict.fromkeys(run.dataset for run in runs)),
        networks=described,
        hard=indices,
        split=runs[0].split,
        data=json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
        style=style,
        style_hash=csp_hash(style),
        script=script,
        script_hash=csp_hash(script),
    )


def csp_hash(text: str) -> str:
    """Return the hash of an inline script or style for the Content-Security-Policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def hard_images(runs: Sequence[FinishedRun]) -> tuple[list[dict[str, int]], str]:
    """Find the evaluated images in the run folders that most networks classify incorrectly.

    Only runs with the same evaluated images as the first run are used.

    Returns:
        The index and the label of each image, and the images uint8[N, 28, 28], encoded.
    """
    images, wrong = {}, np.zeros(len(runs[0].labels))
    for run in runs:
        if run.same_images(runs[0]):
            images |= run.images
            wrong += (run.predicted != run.labels).mean(0)
    chosen = sorted(images, key=lambda index: (-wrong[index], index))[:MAX_IMAGES]
    table = [{"index": int(index), "label": int(runs[0].labels[index])} for index in chosen]
    return table, encode(images[index] for index in chosen)

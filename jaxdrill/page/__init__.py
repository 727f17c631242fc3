"""One HTML file in which a person draws a digit and trained networks answer: no server, no network, no library."""

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
from jaxdrill.runs.reader import FinishedRun
from jaxdrill.nn.network import MEAN, STANDARD_DEVIATION
from jaxdrill.weights import trained
from jaxdrill.weights.trained import Trained

BUDGET = (
    330_000  # bytes that the weights may take in the page; beyond it a run has its first seed only
)
MOST_SEEDS, HARD_IMAGES = 5, 30
LEVELS, FEW_LEVELS = (
    127,
    31,
)  # whole numbers to either side of 0 that kernels are rounded to, and those of
LARGE = 50_000  # parameters and more: 8 bits, and 6


@dataclass(frozen=True)
class Packed:
    """One seed's weights in the order in which network.js reads them."""

    layers: list[dict[str, Any]]
    floats: list[np.ndarray]  # float32
    whole: list[np.ndarray]  # int8

    @property
    def size(self) -> int:
        """Bytes that it takes in the page, about."""
        return len(encoded([self]))


@dataclass
class Network:
    """A run on the page, with some of its seeds."""

    run: FinishedRun
    seeds: list[int] = field(default_factory=list)
    packed: list[Packed] = field(default_factory=list)

    def describe(self, several: bool) -> dict[str, Any]:
        """What the page says of it and how it is computed; `several` runs are of its name."""
        run, end = self.run, infer_shapes(self.run.config.network)[-1]
        return {
            "name": f"{run.name} ({run.folder})" if several else run.name,
            "parameters": end.parameters,
            "operations": end.macs,
            "accuracy": f"{run.split} {100 * run.metrics['accuracy'][:, -1].mean():.2f} %",
            "seeds": self.seeds,
            "recipe": self.packed[0].layers,
            "dark": weights.preparation(weights.find(run.folder, self.seeds[0])).is_dark_on_light,
        }


def pack(network: Trained) -> Packed:
    """A folded network with its kernels rounded."""
    floats, whole = [], []
    levels = FEW_LEVELS if count_parameters(network.config.network) >= LARGE else LEVELS
    for layer in network.layers:
        arrays = [
            network.weights.get(f"{layer['name']}.{key}")
            for key in ("kernel", "depthwise", "scale", "shift")
        ]
        for kernel in (a for a in arrays[:2] if a is not None):
            factors, numbers = rounded(kernel, levels)
            floats.append(factors)
            whole.append(numbers)
        floats += [a for a in arrays[2:] if a is not None]
    return Packed(network.layers, floats, whole)


def rounded(kernel: np.ndarray, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """A kernel float32[..., O] as a factor of each output, float32[O], and whole numbers int8[..., O] to multiply,
    of at most so many levels either way."""
    largest = np.abs(kernel).max(axis=tuple(range(kernel.ndim - 1)))
    factors = (np.where(largest > 0, largest, 1) / levels).astype(np.float32)
    return factors, np.round(kernel / factors).astype(np.int8)


def encoded(packed: Sequence[Packed]) -> str:
    """All float32 numbers, then all int8 ones, compressed, in base64."""
    arrays = [a.astype("<f4") for each in packed for a in each.floats] + [
        a for each in packed for a in each.whole
    ]
    return deflated(arrays)


def deflated(arrays: Iterable[np.ndarray]) -> str:
    """Compress the bytes of arrays by zlib and encode them in base64, as `inflate` in network.js reads them."""
    return base64.b64encode(zlib.compress(b"".join(a.tobytes() for a in arrays), 9)).decode()


def build(runs: Sequence[FinishedRun], most_seeds: int = MOST_SEEDS) -> str:
    """Build the page of runs: the first seed of each, then further seeds run by run while the page stays small.

    Args:
        runs: with weights in their folders.
        most_seeds: maximum number of seeds per run.

    Raises:
        RunError: a run holds no weights.
    """
    networks, left = [Network(run) for run in runs], BUDGET
    for number in range(most_seeds):
        for network in networks:
            folder = network.run.folder
            kept = [seed for seed in weights.seeds(folder) if seed in network.run.seeds]
            if not kept:
                raise RunError(
                    f"{folder} holds no weights of its seeds; repeat the command that trained it"
                )
            for seed in kept[number : number + 1]:
                one = trained.read(weights.find(folder, seed))
                if one.config.network != network.run.config.network:
                    what = f"{one.file} holds the weights of another network than the run's config.json"
                    raise RunError(
                        f"{what}. Delete it and repeat the command that trained the run."
                    )
                packed = pack(one)
                if number == 0 or packed.size <= left:
                    network.seeds.append(seed)
                    network.packed.append(packed)
                    left -= packed.size
    return render(networks)


def render(networks: Sequence[Network]) -> str:
    """The page of networks."""
    names = [network.run.name for network in networks]
    described = [network.describe(names.count(network.run.name) > 1) for network in networks]
    hard, hard_bytes = hard_images([network.run for network in networks])
    packed = [each for network in networks for each in network.packed]
    data = {
        "mean": MEAN,
        "deviation": STANDARD_DEVIATION,
        "networks": described,
        "digits": hard,
        "images": hard_bytes,
        "floats": sum(a.size for each in packed for a in each.floats),
        "weights": encoded(packed),
    }
    here = files("jaxdrill.page")
    script = "".join(
        here.joinpath(name).read_text("utf-8") for name in ("network.js", "ink.js", "page.js")
    )
    style = here.joinpath("page.css").read_text("utf-8")
    environment = Environment(
        loader=PackageLoader("jaxdrill.page", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja").render(
        title=", ".join(dict.fromkeys(network.run.dataset for network in networks)),
        networks=described,
        hard=hard,
        split=networks[0].run.split,
        data=json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
        style=style,
        style_sum=sum_of(style),
        script=script,
        script_sum=sum_of(script),
    )


def sum_of(text: str) -> str:
    """What a Content-Security-Policy calls an inline script or style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def hard_images(runs: Sequence[FinishedRun]) -> tuple[list[dict[str, int]], str]:
    """The evaluated images that most networks of the first run's data get wrong, of those that the run folders hold:
    index and label of each, and the images, uint8[N, 28, 28], as `deflated` returns them."""
    images, wrong = {}, np.zeros(len(runs[0].labels))
    for run in runs:
        if run.same_images(runs[0]):
            images |= run.images
            wrong += (run.predicted != run.labels).mean(0)
    chosen = sorted(images, key=lambda index: (-wrong[index], index))[:HARD_IMAGES]
    told = [{"index": int(index), "label": int(runs[0].labels[index])} for index in chosen]
    return told, deflated(images[index] for index in chosen)

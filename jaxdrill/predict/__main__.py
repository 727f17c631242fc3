"""Run the command `jaxdrill predict`."""

import io
import json
import os
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from jaxdrill.errors import Parser, RunError, UsageError, exit_code, print_error, show
from jaxdrill.files import write_bytes

BATCH, MAX_SHOWN = 500, 256  # images per call of a network, and in the picture of `--show`

ABOUT = """\
Predict the digit in each image with the network of every seed of a run, and with the ensemble of
these networks. The ensemble predicts the digit with the highest mean probability.

examples:
  jaxdrill predict runs/step_5 photo.png
  jaxdrill predict runs/step_5 scans/ --show seen.png
  jaxdrill predict runs/step_5/weights/seed_1.safetensors t10k-images-idx3-ubyte.gz --json"""


def parser() -> Parser:
    """Return the parser of the command's arguments."""
    made = Parser("jaxdrill predict", ABOUT)
    about = "run folder, or one weights file such as RUN/weights/seed_1.safetensors"
    made.add_argument("run", type=Path, metavar="RUN", help=about)
    images = "picture of any size and color, folder of pictures, or idx file of images"
    made.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help=images)
    made.add_argument("--json", action="store_true", help="print one JSON object per image")
    shown = "write a PNG of the images after preprocessing, as the networks receive them"
    made.add_argument("--show", type=Path, metavar="FILE", help=shown)
    return made


def run(arguments: list[str]) -> None:
    """Print one line per image.

    Raises:
        RunError: the weights or some of the images cannot be read.
        UsageError: the file of `--show` cannot be written.
    """
    options = parser().parse_args(arguments)
    from jaxdrill import weights
    from jaxdrill.predict import read_images
    from jaxdrill.weights import inference

    if options.run.is_file():
        files = {"file": options.run}
    else:
        files = {f"{seed}": weights.find(options.run, seed) for seed in weights.seeds(options.run)}
    networks = {seed: weights.read_weights(file) for seed, file in files.items()}
    first = next(iter(networks.values()))
    predictors = {seed: inference.probabilities(network) for seed, network in networks.items()}
    failed, seen = 0, []
    found = read_images(options.images, first.preparation, first.config.data)
    while batch := list(islice(found, BATCH)):
        failed += sum(print_error(f"{e}", 1) for _, e in batch if isinstance(e, RunError))
        images = [(name, image) for name, image in batch if isinstance(image, np.ndarray)]
        seen += [image for _, image in images]
        if images:
            pixels = np.stack([image for _, image in images])
            predictions = np.stack([predict(pixels) for predict in predictors.values()], 1)
            for (name, _), probabilities in zip(images, predictions, strict=True):
                _print(name, list(predictors), probabilities, options.json)
    if options.show and seen:
        _write_picture(options.show, seen[:MAX_SHOWN])
        if len(seen) > MAX_SHOWN:
            print_error(f"{options.show} shows the first {MAX_SHOWN} of {len(seen):,} images")
    if failed:
        raise RunError(f"{failed} image(s) could not be read")


def _print(name: str, seeds: list[str], probabilities: np.ndarray, as_json: bool) -> None:
    """Print the prediction of the ensemble and of each seed for one image.

    Args:
        name: the image.
        seeds: the names of the networks.
        probabilities: float32[len(seeds), 10].
        as_json: print a JSON object.
    """
    mean = probabilities.mean(0)
    if as_json:
        mean_rounded, *rounded = np.stack([mean, *probabilities]).astype(float).round(6).tolist()
        table = {"image": name, "digit": int(mean.argmax()), "probabilities": mean_rounded}
        return show(json.dumps(table | {"seeds": dict(zip(seeds, rounded, strict=True))}))
    line, *others = (f"{each.argmax()} {100 * each.max():.1f} %" for each in (mean, *probabilities))
    if len(seeds) > 1:
        each = (f"seed {seed}: {other}" for seed, other in zip(seeds, others, strict=True))
        line += f" ({', '.join(each)})"
    show(f"{name}: {line}")


def _write_picture(file: Path, images: Sequence[np.ndarray]) -> None:
    """Write images side by side, up to 16 per row, four times as large, with a grey border."""
    from PIL import Image

    columns = min(16, len(images))
    rows = -(-len(images) // columns)
    sheet = np.full((rows * columns, 30, 30), 128, np.uint8)
    sheet[: len(images), 1:-1, 1:-1] = images
    pixels = sheet.reshape(rows, columns, 30, 30).swapaxes(1, 2).reshape(rows * 30, columns * 30)
    try:
        Image.fromarray(pixels.repeat(4, 0).repeat(4, 1)).save(content := io.BytesIO(), "PNG")
        write_bytes(file, content.getvalue())
    except OSError as error:
        raise UsageError(f"--show {file} cannot be written ({error.strerror or error})") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return exit_code(run, list(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # A few small images need no accelerator.
    sys.exit(main())

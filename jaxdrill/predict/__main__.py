"""The command `python -m jaxdrill.predict RUN IMAGE...`: which digit an image shows, by a trained run's networks."""

import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from jaxdrill.data.preparation import Preparation
from jaxdrill.errors import Parser, RunError, UsageError, exit_code, print_error, show
from jaxdrill.files import write_bytes

BATCH, SHOWN = 500, 256  # images at a time, and at most in the picture of `--show`

ABOUT = """\
Classify images with every seed of a run, and with the mean of their probabilities.
An image is a picture of any size, or an idx file of images.

examples:
  jaxdrill predict runs/step_5 photo.png
  jaxdrill predict runs/step_5 scans/ --json
  jaxdrill predict runs/step_5 photo.png --show seen.png"""


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a line an image and returns the exit code, as `errors.exit_code` says."""
    return exit_code(lambda: run(list(sys.argv[1:] if argv is None else argv)))


def parser() -> Parser:
    """Return the parser of the command."""
    made = Parser(prog="jaxdrill predict", description=ABOUT)
    made.add_argument(
        "run", type=Path, metavar="RUN", help="run folder, or a .safetensors file in its weights/"
    )
    made.add_argument(
        "images",
        type=Path,
        nargs="+",
        metavar="IMAGE",
        help="a picture, of any size and colours; or a folder of them; or an idx file of images",
    )
    made.add_argument("--json", action="store_true", help="one JSON object an image")
    made.add_argument(
        "--show", type=Path, metavar="FILE.png", help="write a picture of what the networks saw"
    )
    return made


def run(arguments: list[str]) -> None:
    """Run the command."""
    options = parser().parse_args(arguments)
    from jaxdrill import weights

    numbers = [None] if options.run.is_file() else weights.seeds(options.run)
    first = weights.find(options.run, numbers[0])
    preparation, dataset = weights.preparation(first), weights.read_weights(first)[1].data
    networks = {
        f"{'file' if number is None else number}": weights.load(options.run, number)
        for number in numbers
    }
    failed, seen, images = 0, [], _images(options.images, preparation, dataset)
    while batch := list(islice(images, BATCH)):
        named = [(name, image) for name, image in batch if isinstance(image, np.ndarray)]
        failed += sum(
            print_error(f"{image}", 1) for _, image in batch if isinstance(image, RunError)
        )
        if named:
            pixels = np.stack([image for _, image in named])
            found = {seed: network(pixels) for seed, network in networks.items()}
            for number, (name, image) in enumerate(named):
                _print(name, {seed: each[number] for seed, each in found.items()}, options.json)
                seen.append(image)
    if options.show and seen:
        _show(options.show, seen[:SHOWN])
        if len(seen) > SHOWN:
            print_error(f"{options.show} shows the first {SHOWN} of {len(seen):,} images")
    if failed:
        raise RunError(f"{failed} image(s) could not be read")


def _images(
    paths: Sequence[Path], preparation: Preparation, dataset: str
) -> Iterator[tuple[str, np.ndarray | RunError]]:
    """Yield the name of each image, and its pixels uint8[28, 28] or the error.

    Pictures are prepared as training images were. Images of idx files are read as those of `dataset`, the name of the
    training data, and are not changed.
    """
    from jaxdrill.data import idx
    from jaxdrill.predict import digit

    for path in paths:
        inside = [path]
        if path.is_dir():
            inside = sorted(
                file for file in path.iterdir() if file.is_file() and not file.name.startswith(".")
            )
        if not inside:
            yield f"{path}", RunError(f"{path} holds no images")
        for file in inside:
            try:
                if idx.is_idx(file):
                    images = idx.read(file, 3, dataset)
                    if images.shape[1:] != (28, 28):
                        raise RunError(
                            f"{file} holds images of {images.shape[1]}x{images.shape[2]}; allowed: 28x28"
                        )
                    yield from ((f"{file}[{n}]", image) for n, image in enumerate(images))
                else:
                    yield f"{file}", digit.read(file, preparation)
            except RunError as error:
                yield f"{file}", error


def _print(name: str, probabilities: dict[str, np.ndarray], as_json: bool) -> None:
    """One line: the ensemble's answer and each seed's."""
    mean = np.mean(list(probabilities.values()), 0)
    if as_json:
        seeds = {seed: [round(float(p), 6) for p in each] for seed, each in probabilities.items()}
        told = {
            "image": name,
            "digit": int(mean.argmax()),
            "probabilities": [round(float(p), 6) for p in mean],
        }
        return show(json.dumps(told | {"seeds": seeds}))
    answers = [
        f"seed {seed}: {each.argmax()} {100 * each.max():.1f} %"
        for seed, each in probabilities.items()
    ]
    show(
        f"{name}: {mean.argmax()} {100 * mean.max():.1f} %"
        + (f" ({', '.join(answers)})" if len(answers) > 1 else "")
    )


def _show(file: Path, seen: Sequence[np.ndarray]) -> None:
    """The images beside each other, each pixel four by four, up to sixteen a row."""
    from PIL import Image

    columns = min(16, len(seen))
    rows = -(-len(seen) // columns)
    sheet = np.full((rows, columns, 30, 30), 128, np.uint8)
    sheet.reshape(-1, 30, 30)[: len(seen), 1:-1, 1:-1] = seen
    pixels = sheet.transpose(0, 2, 1, 3).reshape(rows * 30, columns * 30).repeat(4, 0).repeat(4, 1)
    try:
        Image.fromarray(pixels).save(content := io.BytesIO(), "PNG")
        write_bytes(file, content.getvalue())
    except OSError as error:
        raise UsageError(f"--show {file} cannot be written ({error.strerror or error})") from error


if __name__ == "__main__":
    os.environ.setdefault(
        "JAX_PLATFORMS", "cpu"
    )  # a few small images: no accelerator need be taken for them
    sys.exit(main())

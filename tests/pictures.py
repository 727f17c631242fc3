"""Make pictures of handwritten digits, as users have them."""

import json

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from jaxdrill import predict

DIGITS = load_digits()


def drawn(number: int, side: int = 160, margin: int = 40) -> Image.Image:
    """Draw a digit of scikit-learn in black on white, `side` pixels wide, with a margin."""
    ink = Image.fromarray((DIGITS.images[number] * (255 / 16)).astype(np.uint8)).resize(
        (side, side), Image.BICUBIC
    )
    paper = Image.new("L", (side + 2 * margin, side + 2 * margin), 255)
    paper.paste(0, (margin, margin), ink)
    return paper


def read(tmp_path, image: Image.Image, name="digit.png", **options) -> np.ndarray:
    image.save(tmp_path / name, **options)
    return predict.read_picture(tmp_path / name)


def assert_close(a: np.ndarray, b: np.ndarray) -> None:
    """Compare grey levels; edges may differ by rounding."""
    difference = abs(a.astype(int) - b)
    assert difference.mean() < 2 and difference.max() < 60, (difference.mean(), difference.max())


def picture(folder, name: str, image: np.ndarray):
    Image.fromarray(image).save(folder / name)
    return str(folder / name)


def predictions(capsys) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

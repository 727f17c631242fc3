"""A picture of one handwritten digit, made into what a network saw in training.

MNIST's digits were scaled into a box of 20x20 pixels, grey where a pixel is partly ink, and moved in 28x28 so that
their centre of mass is in the middle (LeCun, Cortes and Burges, http://yann.lecun.com/exdb/mnist/). Measured on its
70,000 images: the longer side is 20 pixels (of 16 images 19), and the centre of mass, pixels from the edge, is
everywhere from 13.98 to 15, on average 14.5.
"""

import warnings
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from scipy import ndimage

from jaxdrill.errors import RunError
from jaxdrill.files import assert_regular

SIDE, BOX, CENTRE = 28, 20, 14.5  # pixels
LONGEST = 1024  # pixels of a side that are looked at; a larger picture is reduced first
LARGEST = 50_000_000  # pixels of a file
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")  # EPS, for one, would run a program
FAINTEST = 24  # grey levels of 255 between ink and paper
INK = 1 / 100  # of the pixels that a digit's ink covers at the least
PAPER = 0.25  # of the darkest ink: what is fainter is paper, its shadows and noise


def read(path: Path) -> np.ndarray:
    """The digit in an image file, as uint8[28, 28], light on dark as in MNIST.

    Any size, colour or grey, with or without alpha, dark on light or light on dark, turned as its EXIF says; of an
    animation the first picture. What is already scaled and placed as MNIST's images are is not changed.

    Raises:
        RunError: the file cannot be read, is too large, is blank, or shows several digits.
    """
    try:
        grey = _grey(path)
        if _is_mnist(grey):
            return grey
        return centred(one_digit(ink(grey)))
    except RunError as error:
        raise RunError(f"{path} {error}") from error


def _is_mnist(grey: np.ndarray) -> bool:
    """Whether an image uint8[H, W] is 28x28, light on dark, and scaled and placed as MNIST's."""
    if grey.shape != (SIDE, SIDE) or np.median(_frame(grey)) or not grey.any():
        return False
    spans = [np.flatnonzero(grey.any(axis)) for axis in (1, 0)]
    masses = [(grey.sum(axis) * (np.arange(SIDE) + 0.5)).sum() / grey.sum() for axis in (1, 0)]
    return max(span[-1] - span[0] + 1 for span in spans) in (BOX - 1, BOX) and 13.98 <= min(masses) <= max(masses) < 15


def _grey(path: Path) -> np.ndarray:
    """The image as uint8[H, W], 0 black."""
    try:
        assert_regular(path)
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=FORMATS) as image:  # of large images
            if image.width * image.height > LARGEST:
                raise Image.DecompressionBombError
            mode, deep = image.mode, image.mode.startswith(("I", "F"))  # deep: Pillow would cut it off at 255
            clear = image.has_transparency_data and not deep
            image = ImageOps.exif_transpose(image).convert("RGBA" if clear else "F" if deep else "L")
            image = image.reduce(max(1, -(-max(image.size) // LONGEST)))
        values = np.asarray(_on_paper(image).convert("L") if clear else image)
        return _eight_bits(values, mode) if deep else values
    except Image.DecompressionBombError as error:
        raise RunError(f"has more than {LARGEST:,} pixels; make it smaller") from error
    except RunError:
        raise
    except UnidentifiedImageError as error:
        raise RunError(f"is no image of a known kind: {', '.join(FORMATS)}") from error
    except OSError as error:
        raise RunError(f"cannot be read ({error.strerror or error})") from error
    except Exception as error:  # Pillow's decoders name no common type for what a damaged file can do
        raise RunError(f"is damaged ({type(error).__name__})") from error


def _eight_bits(values: np.ndarray, mode: str) -> np.ndarray:
    """Pixels float32[H, W] of a Pillow mode of 16 bits or more as uint8[H, W]. White is 65535 of whole numbers (`I`);
    of others it is 1, 255 or 65535, the least that none exceeds."""
    if not np.isfinite(values).all():
        raise RunError("holds pixels that are no numbers")
    values = values - min(values.min(), 0)
    white = 65535 if mode.startswith("I") else next((white for white in (1, 255) if values.max() <= white), 65535)
    return np.minimum(values * (255 / white), 255).astype(np.uint8)


def _on_paper(image: Image.Image) -> Image.Image:
    """An RGBA image on white if what is drawn is dark, else on black."""
    grey, alpha = (np.asarray(channel, np.float64) for channel in (image.convert("L"), image.getchannel("A")))
    dark = (grey * alpha).sum() < 128 * alpha.sum()
    return Image.alpha_composite(Image.new("RGBA", image.size, "white" if dark else "black"), image)


def _frame(grey: np.ndarray) -> np.ndarray:
    """The outermost pixels."""
    return np.concatenate([grey[0], grey[-1], grey[1:-1, 0], grey[1:-1, -1]])


def ink(grey: np.ndarray) -> np.ndarray:
    """How much of each pixel is ink, float64[H, W], 0..1, of an image uint8[H, W] with any light and either polarity.

    Raises:
        RunError: it is blank.
    """
    height, width = grey.shape
    if min(height, width) < 8:
        raise RunError(f"has {width} x {height} pixels; a digit needs at least 8 x 8")
    rows, columns = np.mgrid[:height, :width] / max(height, width)
    plane = np.stack([np.ones_like(rows), rows, columns], -1)  # paper lit from one side
    at, seen = np.moveaxis(plane, -1, 0), _frame(grey).astype(np.float64)
    at = np.stack([_frame(each) for each in at], -1)
    kept = np.abs(seen - np.median(seen)) <= 40  # a stroke that leaves the image is no paper
    paper = (plane @ np.linalg.lstsq(at[kept], seen[kept], rcond=None)[0]).clip(1, 254)
    strength = grey - paper
    dark = strength[np.unravel_index(np.abs(strength).argmax(), grey.shape)] < 0
    strength = -strength if dark else strength
    few = min(32, max(4, round(INK * grey.size)))  # a speck is no stroke
    if _largest(strength, few) < FAINTEST:
        raise RunError("is blank: no stroke stands out from its paper")
    strength /= paper if dark else 255 - paper  # where less light falls, ink and paper differ less
    faint = PAPER * (darkest := _largest(strength, few))
    return ((strength - faint) / (darkest - faint)).clip(0, 1)


def _largest(values: np.ndarray, n: int) -> float:
    """The nth largest. NumPy finds it 20 times faster among the negatives where the paper is all one grey."""
    return -np.partition(-values, n - 1, None)[n - 1]


def one_digit(drawn: np.ndarray) -> np.ndarray:
    """The ink without specks, of an image of one digit.

    Raises:
        RunError: it shows several: parts side by side, or one above the other, that are about as tall, or as wide.
    """
    labels, count = cast(Any, ndimage.label(drawn > 0, np.ones((3, 3))))
    areas = ndimage.sum_labels(drawn, labels, range(1, count + 1))
    specks = np.flatnonzero(areas < areas.max() / 50) + 1
    drawn = np.where(np.isin(labels, specks), 0, drawn)
    for axis, name in ((0, "side by side"), (1, "one above the other")):
        if len(parts := _parts(drawn, axis)) > 1:
            raise RunError(f"shows {len(parts)} digits, {name}; cut it into one image a digit")
    return drawn


def _parts(drawn: np.ndarray, axis: int) -> list[slice]:
    """Parts of the ink along columns (axis 0) or rows (1) with a gap between them, each of at least half the largest
    extent across; the dash of a 5 or the dots of a broken line are not among them."""
    marked = (drawn > 0).any(axis)
    gap = max(2, round(0.1 * marked.sum()))
    joined = ndimage.binary_closing(np.pad(marked, gap), np.ones(gap))[gap:-gap]
    found = [part for (part,) in ndimage.find_objects(cast(Any, ndimage.label(joined))[0])]
    extents = []
    for part in found:
        across = np.flatnonzero((drawn[:, part] if axis == 0 else drawn[part]).any(1 - axis))
        extents.append(across[-1] - across[0] + 1)
    return [part for part, extent in zip(found, extents, strict=True) if extent >= max(extents) / 2]


def centred(drawn: np.ndarray) -> np.ndarray:
    """Ink float[H, W], 0..1, scaled and placed as MNIST's: uint8[28, 28]. Each pixel is the mean of what it covers.

    `network.js` does the same.
    """
    rows, columns = (np.flatnonzero(drawn.any(axis)) for axis in (1, 0))
    scale = max(rows[-1] - rows[0], columns[-1] - columns[0], 0) + 1
    scale /= BOX
    sides = []
    for axis, length in ((1, drawn.shape[0]), (0, drawn.shape[1])):
        mass = (drawn.sum(axis) * (np.arange(length) + 0.5)).sum() / drawn.sum()
        edges = mass + scale * (np.arange(SIDE + 1) - CENTRE)
        place = np.arange(length)
        overlap = np.minimum(edges[1:, None], place + 1) - np.maximum(edges[:-1, None], place)
        sides.append(overlap.clip(0) / scale)
    small = sides[0] @ drawn @ sides[1].T
    return (small / small.max() * 255).round().astype(np.uint8)

"""A picture of one handwritten digit, made into what a network saw in training."""

from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image
from scipy import ndimage

from jaxdrill.data.preparation import BOX, CENTRE, MNIST, SIDE, Preparation, frame, is_mnist
from jaxdrill.errors import RunError
from jaxdrill.predict.lines import without_lines
from jaxdrill.predict.pictures import read_grey

FAINTEST = 24  # grey levels of 255 between ink and paper
INK = 1 / 100  # of the pixels that a digit's ink covers at the least
PAPER = 0.25  # of the darkest ink: what is fainter is paper, its shadows and noise
BORDER = 0.25  # of the shorter side, at most, by a border


def read(path: Path, preparation: Preparation = MNIST) -> np.ndarray:
    """Read an image file and prepare it for a network.

    Args:
        path: a picture of any size, colour or grey, with or without alpha. It is rotated as its EXIF data says, and of
            an animation the first picture is read.
        preparation: what the network needs, as `runs.weights.preparation` returns it.

    Returns:
        The image uint8[28, 28], 0..255, as the training images were.

    Raises:
        RunError: the file cannot be read, is too large, is blank, or shows several digits.
    """
    try:
        return prepare(read_grey(path), preparation)
    except RunError as error:
        raise RunError(f"{path} {error}") from error


def prepare(grey: np.ndarray, preparation: Preparation = MNIST) -> np.ndarray:
    """Make a picture uint8[H, W], 0 is black, look like the training images. Returns uint8[28, 28].

    A picture that looks like a training image already is returned unchanged: for `mnist` one that is scaled and placed
    as MNIST's (or its negative, which is inverted where necessary), for `isolated` a 28x28 picture on the same paper,
    for `full_frame` every 28x28 picture. Other pictures for `full_frame` are padded to a square with the median of
    their outermost pixels and resized; they are never inverted. Otherwise the digit is found, scaled and placed.

    Raises:
        RunError: the picture is blank, or shows several digits.
    """
    if preparation.layout == "full_frame":
        return _whole(grey)
    same_paper = (np.median(frame(grey)) > 127) == preparation.is_dark_on_light
    if preparation.layout == "isolated" and grey.shape == (SIDE, SIDE) and same_paper:
        return grey
    as_mnist = preparation.layout == "mnist"
    ready = next((each for each in (grey, 255 - grey) if as_mnist and is_mnist(each)), None)
    image = centred(find(grey), preparation.box, as_mnist) if ready is None else ready
    return 255 - image if preparation.is_dark_on_light else image


def find(grey: np.ndarray) -> np.ndarray:
    """Return the ink float64[H, W], 0..1, of the one digit in a picture uint8[H, W] of either polarity.

    Borders, ruled lines, boxes and specks are removed.

    Raises:
        RunError: the picture is blank, or shows several digits.
    """
    return one_digit(without_lines(ink(inside_border(grey))))


def _whole(grey: np.ndarray) -> np.ndarray:
    """Return a whole picture padded to a square and resized to 28x28; bicubic, antialiased."""
    if grey.shape == (SIDE, SIDE):
        return grey
    height, width = grey.shape
    side = max(height, width)
    square = np.full((side, side), np.median(frame(grey)), np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = grey
    return np.asarray(Image.fromarray(square).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def inside_border(grey: np.ndarray) -> np.ndarray:
    """Cut off a border of a picture uint8[H, W]: outermost pixels nearly all of one shade, dark or light, when those
    further inside are nearly all of the other and a digit is drawn on them."""
    low, high = np.percentile(grey, (1, 99))
    light = grey > (low + high) / 2
    shares = _shares(light, BORDER)
    if high - low < FAINTEST or 0.1 < shares[0] < 0.9:
        return grey
    other = 1 - shares if shares[0] > 0.5 else shares
    if not (other >= 0.9).any():
        return grey
    start = int((other >= 0.9).argmax())
    if start - np.flatnonzero(other[:start] <= 0.1)[-1] > max(2, 0.03 * min(grey.shape)):
        return grey  # a border ends at once; a bold digit on narrow paper does not
    paper = (_cut(light, start) != (shares[0] > 0.5)).mean()
    return _cut(grey, start) if 0.65 <= paper <= 1 - INK else grey


def _shares(light: np.ndarray, depth: float) -> np.ndarray:
    """Return the share of light pixels at each distance from the edge, of an image bool[H, W]. The last distance is
    `depth` times the shorter side."""
    shorter = min(light.shape)
    return np.array(
        [
            frame(_cut(light, n)).mean()
            for n in range(min(int(depth * shorter), (shorter - 2) // 2) + 1)
        ]
    )


def _cut(image: np.ndarray, depth: int) -> np.ndarray:
    """Return an image [H, W] without `depth` pixels along each edge."""
    height, width = image.shape
    return image[depth : height - depth, depth : width - depth]


def ink(grey: np.ndarray) -> np.ndarray:
    """Return how much of each pixel is ink, float64[H, W], 0..1, of an image uint8[H, W] with any light and either
    polarity.

    Raises:
        RunError: the picture is blank or too small.
    """
    height, width = grey.shape
    if min(height, width) < 3 or max(height, width) < 8:
        raise RunError(
            f"has {width} x {height} pixels; a digit needs at least 8 pixels in one direction and 3 in the other"
        )
    paper = _paper(grey)
    strength = grey - paper
    few = min(32, max(4, round(INK * grey.size)))  # a speck is no stroke
    dark = _largest(-strength, few) > _largest(strength, few)
    strength = -strength if dark else strength
    if _largest(strength, few) < FAINTEST:
        raise RunError("is blank: no stroke stands out from its paper")
    strength /= paper if dark else 255 - paper  # where less light falls, ink and paper differ less
    faint = PAPER * (darkest := _largest(strength, few))
    return ((strength - faint) / (darkest - faint)).clip(0, 1)


def _paper(grey: np.ndarray) -> np.ndarray:
    """Return the grey levels of the paper, lit from one side, of an image uint8[H, W]: a plane through its outermost
    pixels.

    Where lines run along the edges, most outermost pixels are of another shade than most of the image, and than nearly
    all pixels at some small distance from the edge. Then the plane goes through all pixels of that shade.
    """
    height, width = grey.shape
    rows, columns = np.mgrid[:height, :width] / max(height, width)
    plane = np.stack([np.ones_like(rows), rows, columns], -1)
    seen = frame(grey).astype(np.float64)
    light = grey > np.percentile(grey, (1, 99)).mean()
    shares, most = _shares(light, 0.08), light.mean() > 0.5
    if (
        (shares[0] > 0.5) != most
        and (shares if most else 1 - shares).max() > 0.8
        and (light == most).mean() > 0.6
    ):
        kept = (light == most) & (np.add.outer(np.arange(height), np.arange(width)) % 7 == 0)
        at, seen = plane[kept], grey[kept].astype(np.float64)
    else:
        kept = np.abs(seen - np.median(seen)) <= 40  # a stroke that leaves the image is no paper
        at, seen = (
            np.stack([frame(each) for each in np.moveaxis(plane, -1, 0)], -1)[kept],
            seen[kept],
        )
    return (plane @ np.linalg.lstsq(at, seen, rcond=None)[0]).clip(1, 254)


def _largest(values: np.ndarray, n: int) -> float:
    """Return the nth largest. NumPy finds it 20 times faster among the negatives where the paper is all one grey."""
    return -np.partition(-values, n - 1, None)[n - 1]


def one_digit(drawn: np.ndarray) -> np.ndarray:
    """Return the ink without specks, of an image of one digit.

    Raises:
        RunError: it shows several: parts side by side, or one above the other, that are about as tall, or as wide.
    """
    labels, count = cast(Any, ndimage.label(drawn > 0, np.ones((3, 3))))
    areas = ndimage.sum_labels(drawn, labels, range(1, count + 1))
    specks = np.flatnonzero(areas < areas.max() / 50) + 1
    drawn = np.where(np.isin(labels, specks), 0, drawn)
    for axis, name in ((0, "side by side"), (1, "one above the other")):
        if (count := _count(drawn > 0, axis)) > 1:
            raise RunError(f"shows {count} digits, {name}; cut it into one image a digit")
    return drawn


def _count(marked: np.ndarray, axis: int) -> int:
    """Count the digits of ink bool[H, W] along columns (axis 0) or rows (1).

    Parts with an empty gap between them, each of at least half the largest extent across, are digits or parts of a
    broken one; the dash of a 5 or the dots of a broken line are not among them. The limits, in extents across of all
    ink, were chosen on training and test images of MNIST (`_are_two`).
    """
    along, across = np.asarray(marked.any(axis)), np.asarray(marked.any(1 - axis))
    found = [part for (part,) in ndimage.find_objects(cast(Any, ndimage.label(along))[0])]
    whole = _extent(across)
    extents = [
        _extent(np.asarray((marked[:, p] if axis == 0 else marked[p]).any(1 - axis))) / whole
        for p in found
    ]
    tall = [
        (part, extent)
        for part, extent in zip(found, extents, strict=True)
        if extent >= max(extents) / 2
    ]
    digits = tall[:1]
    for part, extent in tall[1:]:
        last, before = digits[-1]
        gap, lengths = (
            (part.start - last.stop) / whole,
            [(each.stop - each.start) / whole for each in (last, part)],
        )
        if part.start - last.stop > 1 and _are_two(
            gap, min(lengths), min(extent, before), (part.stop - last.start) / whole, axis
        ):
            digits.append((part, extent))
        else:
            digits[-1] = slice(last.start, part.stop), max(extent, before)
    return len(digits)


def _are_two(gap: float, shorter: float, extent: float, length: float, axis: int) -> bool:
    """Return True if two parts of ink are two digits, not one with a broken stroke. All is relative to the extent
    across: the gap, the shorter part along, the smaller extent across, and the length of both with the gap."""
    if gap >= 0.3:
        return True
    if axis == 1:  # a broken 5 has a short top
        return shorter >= 0.8 and gap >= 0.12 and length >= 1.7
    if shorter >= 0.25 and length > 1.05:
        return gap >= 0.05
    return (
        extent >= 0.9 and gap >= 0.17
    )  # a 1 beside a digit is as tall; half of a broken 0 or 4 is often not


def _extent(marked: np.ndarray) -> int:
    """Return how many places bool[N] there are from the first True to the last."""
    where = np.flatnonzero(marked)
    return int(where[-1] - where[0]) + 1


def centred(drawn: np.ndarray, box: int = BOX, by_mass: bool = True) -> np.ndarray:
    """Scale and place ink float[H, W], 0..1, as training images were: uint8[28, 28]. Each pixel is the mean of what it
    covers.

    Args:
        drawn: the ink of a digit.
        box: pixels that the longer side of the ink gets.
        by_mass: place the centre of mass as MNIST's is; otherwise the middle of the ink in the middle of the image.

    `network.js` does the same.
    """
    rows, columns = (np.flatnonzero(drawn.any(axis)) for axis in (1, 0))
    scale = max(rows[-1] - rows[0], columns[-1] - columns[0], 0) + 1
    scale /= box
    sides = []
    for axis, length, marked in ((1, drawn.shape[0], rows), (0, drawn.shape[1], columns)):
        mass = (drawn.sum(axis) * (np.arange(length) + 0.5)).sum() / drawn.sum()
        middle, centre = (mass, CENTRE) if by_mass else ((marked[0] + marked[-1] + 1) / 2, SIDE / 2)
        edges = middle + scale * (np.arange(SIDE + 1) - centre)
        place = np.arange(length)
        overlap = np.minimum(edges[1:, None], place + 1) - np.maximum(edges[:-1, None], place)
        sides.append(overlap.clip(0) / scale)
    small = sides[0] @ drawn @ sides[1].T
    return (small / small.max() * 255).round().astype(np.uint8)

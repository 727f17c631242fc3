"""Find one handwritten digit in a picture, and scale and centre it like the training images."""

from typing import Any, cast

import numpy as np
from scipy import ndimage

from jaxdrill.data.preparation import BOX, CENTRE, SIDE, frame
from jaxdrill.errors import RunError
from jaxdrill.predict.lines import without_lines, without_specks

MIN_CONTRAST = 24  # grey levels of 255 between ink and paper
MIN_INK = 1 / 100  # share of the pixels that are ink
PAPER = 0.25  # share of the darkest ink; fainter pixels are paper, shadows or noise
MAX_BORDER = 0.25  # width of a border, as a share of the picture's shorter side


def find(grey: np.ndarray) -> np.ndarray:
    """Find the ink of the one digit in a picture, without borders, ruled lines, boxes and specks.

    Args:
        grey: uint8[H, W], light on dark or dark on light.

    Returns:
        The ink float64[H, W], 0..1.

    Raises:
        RunError: the picture is blank, or shows several digits.
    """
    found = without_specks(without_lines(ink(inside_border(grey))), 50)
    for marked, where in ((found > 0, "side by side"), (found.T > 0, "one above the other")):
        if (count := _count_digits(marked, where == "side by side")) > 1:
            raise RunError(f"shows {count} digits, {where}. Cut it into one image per digit.")
    return found


def inside_border(grey: np.ndarray) -> np.ndarray:
    """Cut off the border of a picture uint8[H, W].

    A border consists of outermost pixels nearly all of one shade, dark or light. The pixels further
    inside are nearly all of the other shade, and a digit is drawn on them.
    """
    low, high = np.percentile(grey, (1, 99))
    light = grey > (low + high) / 2
    shares = _light_shares(light, MAX_BORDER)
    is_light = shares[0] > 0.5
    paper = 1 - shares if is_light else shares
    if high - low < MIN_CONTRAST or paper[0] > 0.1 or paper.max() < 0.9:
        return grey
    depth = int((paper >= 0.9).argmax())
    if depth - np.flatnonzero(paper[:depth] <= 0.1)[-1] > max(2, 0.03 * min(grey.shape)):
        return grey  # The change is gradual: not a border, but a bold digit on narrow paper.
    inside = (_crop(light, depth) != is_light).mean()
    return _crop(grey, depth) if 0.65 <= inside <= 1 - MIN_INK else grey


def _light_shares(light: np.ndarray, depth: float) -> np.ndarray:
    """Return the share of light pixels at each distance from the edge, of an image bool[H, W].

    `depth` is the largest distance, as a share of the shorter side.
    """
    shorter = min(light.shape)
    distances = range(min(int(depth * shorter), (shorter - 2) // 2) + 1)
    return np.array([frame(_crop(light, distance)).mean() for distance in distances])


def _crop(image: np.ndarray, depth: int) -> np.ndarray:
    """Remove `depth` pixels along each edge of an image [H, W]."""
    height, width = image.shape
    return image[depth : height - depth, depth : width - depth]


def ink(grey: np.ndarray) -> np.ndarray:
    """Return the ink of each pixel, float64[H, W], 0..1, of a picture uint8[H, W] in any light.

    Raises:
        RunError: the picture is blank or too small.
    """
    height, width = grey.shape
    if min(height, width) < 3 or max(height, width) < 8:
        needed = "a digit needs at least 8 pixels in one direction and 3 in the other"
        raise RunError(f"has {width} x {height} pixels; {needed}")
    paper = _paper(grey)
    strength = grey - paper
    count = min(32, max(4, round(MIN_INK * grey.size)))  # A stroke has more pixels than a speck.
    dark = _nth_largest(-strength, count) > _nth_largest(strength, count)
    strength = -strength if dark else strength
    if _nth_largest(strength, count) < MIN_CONTRAST:
        raise RunError("is blank: no stroke stands out from its paper")
    strength /= paper if dark else 255 - paper  # In less light, ink and paper differ less.
    darkest = _nth_largest(strength, count)
    faint = PAPER * darkest
    return ((strength - faint) / (darkest - faint)).clip(0, 1)


def _paper(grey: np.ndarray) -> np.ndarray:
    """Estimate the grey levels of the paper in a picture uint8[H, W] that is lit from one side.

    Returns:
        A plane float64[H, W] through the outermost pixels. If lines run along the edges, the
        outermost pixels are not paper. The plane then goes through all pixels of the picture's more
        frequent shade, dark or light.
    """
    height, width = grey.shape
    rows, columns = np.mgrid[:height, :width]
    plane = np.stack([np.ones(grey.shape), rows / max(grey.shape), columns / max(grey.shape)], -1)
    light = grey > np.percentile(grey, (1, 99)).mean()
    is_light = light.mean() > 0.5
    same = light == is_light
    shares = _light_shares(same, 0.08)
    if shares[0] <= 0.5 and shares.max() > 0.8 and same.mean() > 0.6:
        used = same & ((rows + columns) % 7 == 0)
    else:
        edge = np.ones(grey.shape, bool)
        edge[1:-1, 1:-1] = False
        near = np.abs(grey - np.median(grey[edge])) <= 40  # A stroke may leave the picture.
        used = edge & near
    factors = np.linalg.lstsq(plane[used], grey[used].astype(float), rcond=None)[0]
    return (plane @ factors).clip(1, 254)


def _nth_largest(values: np.ndarray, n: int) -> float:
    """Return the nth largest value.

    The values are negated because NumPy partitions them 20 times faster if the paper has only one
    shade.
    """
    return -np.partition(-values, n - 1, None)[n - 1]


def _count_digits(marked: np.ndarray, side_by_side: bool) -> int:
    """Count the digits along the columns of ink bool[H, W].

    Parts of the ink with an empty gap between them are digits, or parts of a digit with broken
    strokes. Parts of less than half the largest height are ignored, such as the dash of a 5.
    """
    parts = [part for (part,) in ndimage.find_objects(_label(marked.any(0)))]
    height = _extent(marked.any(1))
    heights = [_extent(marked[:, part].any(1)) / height for part in parts]
    count, start, last, before = 0, 0, slice(0), 0.0
    for part, own in zip(parts, heights, strict=True):
        if own < max(heights) / 2:
            continue
        gap = part.start - last.stop
        shorter = min(last.stop - start, part.stop - part.start)
        both, lower = part.stop - start, min(own, before)
        sizes = gap / height, shorter / height, both / height, lower
        if not count or (gap > 1 and _are_two(sizes, side_by_side)):
            count, start, before = count + 1, part.start, 0.0
        last, before = part, max(own, before)
    return count


def _are_two(sizes: tuple[float, float, float, float], side_by_side: bool) -> bool:
    """Return True if two parts of ink are two digits, not one digit with a broken stroke.

    The thresholds were chosen on training and test images of MNIST.

    Args:
        sizes: divided by the height of all ink: the gap between the parts, the length of the
            shorter part, the length of both parts with the gap, and the height of the lower part.
        side_by_side: False if the picture is transposed and the parts are one above the other.
    """
    gap, shorter, both, lower = sizes
    if gap >= 0.3:
        return True
    if not side_by_side:  # A broken 5 has a short top.
        return shorter >= 0.8 and gap >= 0.12 and both >= 1.7
    if shorter >= 0.25 and both > 1.05:
        return gap >= 0.05
    # A 1 is as tall as the digit beside it. Half of a broken 0 or 4 is often smaller.
    return lower >= 0.9 and gap >= 0.17


def _label(marked: Any) -> np.ndarray:
    """Number the connected parts of bool[N]."""
    return cast(Any, ndimage.label(marked))[0]


def _extent(marked: Any) -> int:
    """Return the distance from the first to the last True of bool[N], both included."""
    return int(np.ptp(np.flatnonzero(marked))) + 1


def centred(drawn: np.ndarray, box: int = BOX, by_mass: bool = True) -> np.ndarray:
    """Scale and centre ink like the training images. `network.js` contains the same function.

    Args:
        drawn: the ink of a digit, float[H, W], 0..1.
        box: the length of the ink's longer side in the result, in pixels.
        by_mass: put the centre of mass where MNIST has it. Otherwise put the middle of the ink in
            the middle.

    Returns:
        An image uint8[28, 28]. Each pixel is the mean of the area that it covers.
    """
    spans = [np.flatnonzero(drawn.any(axis)) for axis in (1, 0)]
    scale = (max(np.ptp(span) for span in spans) + 1) / box
    sides = []
    for axis, span in zip((1, 0), spans, strict=True):
        pixels = np.arange(drawn.shape[1 - axis])
        centre, target = (span[0] + span[-1] + 1) / 2, SIDE / 2
        if by_mass:
            centre = (drawn.sum(axis) * (pixels + 0.5)).sum() / drawn.sum()
            target = CENTRE
        edges = centre + scale * (np.arange(SIDE + 1) - target)
        overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
        sides.append(overlap.clip(0) / scale)
    small = sides[0] @ drawn @ sides[1].T
    return (small / small.max() * 255).round().astype(np.uint8)

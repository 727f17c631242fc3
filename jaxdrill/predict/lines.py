"""Remove straight lines that do not belong to a digit: ruled and squared paper, boxes, borders and
underlines.

A line of the paper reaches two edges of the picture, and a box is closed. A stroke of a digit does
neither, unless the picture is cropped at the ink. Then the rest of the digit reaches the ends of
the stroke. Inside a box or on a line of the paper, the digit does not reach the ends of the line.
"""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from scipy import ndimage

from jaxdrill.errors import RunError

MIN_SIDE = 40  # pixels of a picture; in smaller pictures lines look like strokes
MAX_SLOPE = 0.1  # pixels per pixel: 6 degrees
# Minimum lengths of a line, as shares of the extent of all ink:
MIN_LINE, MIN_SIDE_OF_BOX, MIN_SINGLE_LINE = 0.2, 0.55, 0.8
MARGIN = 0.03  # minimum distance from the digit to the ends of a line, as a share of the line
MIN_RULED = 4  # number of parallel lines from edge to edge that no digit has
MIN_ENCLOSED = 0.25  # minimum size of a digit inside a ring, as a share of the ring's height


@dataclass(frozen=True)
class Line:
    """A nearly horizontal line: at column x its upper edge is at row `top + slope * x`.

    start, end: its first and last column.
    share: its length as a share of the extent of all ink.
    """

    slope: float
    top: float
    start: int
    end: int
    share: float = 1.0

    def row(self, column: Any) -> Any:
        """Return the row of the upper edge at a column, or at each column of an array."""
        return self.top + self.slope * column

    def contains(self, columns: np.ndarray) -> bool:
        """Return True if both ends of the line extend beyond ascending columns."""
        margin = max(1, MARGIN * (self.end - self.start))
        return bool(columns[0] >= self.start + margin and columns[-1] <= self.end - margin)


def without_lines(drawn: np.ndarray) -> np.ndarray:
    """Remove straight lines that do not belong to a digit from ink float64[H, W], 0..1.

    Strokes that cross a line stay whole.

    Raises:
        RunError: lines of the paper cannot be told from the digit, or a ring that is not a straight
        box encloses it.
    """
    if min(drawn.shape) < MIN_SIDE:
        return drawn
    found = [find_lines(drawn > 0), find_lines(drawn.T > 0)]
    box = _find_box(*found)
    flat, upright = (
        sides + _lines_of_paper([line for line in lines if line not in sides], shape)
        for lines, sides, shape in zip(found, box, (drawn.shape, drawn.T.shape), strict=True)
    )
    if flat or upright:
        rest = _erase(_erase(drawn, flat).T, upright).T
        if _is_digit(rest, flat, upright, bool(box[0])):
            drawn = rest
        elif max(len(flat), len(upright)) >= MIN_RULED:
            what = "shows ruled lines that cannot be told from the digit"
            raise RunError(f"{what}. Use a picture on blank paper.")
    if _has_ring(drawn):
        raise RunError("shows a digit inside a ring or a frame. Crop the picture inside it.")
    return drawn


def without_specks(drawn: np.ndarray, parts: int) -> np.ndarray:
    """Remove the parts of ink [H, W] that are smaller than the largest part / `parts`."""
    labels = _label(drawn)
    areas = np.bincount(labels.ravel())[1:]
    large = areas * parts >= areas.max(initial=0)
    return np.where(np.concatenate([[False], large])[labels], drawn, 0)


def _label(drawn: np.ndarray, neighbors: Any = ((1, 1, 1), (1, 1, 1), (1, 1, 1))) -> np.ndarray:
    """Number the connected parts of ink [H, W] from 1; paper is 0."""
    return cast(Any, ndimage.label(drawn > 0, neighbors))[0]


def find_lines(marked: np.ndarray) -> list[Line]:
    """Find nearly horizontal lines of ink bool[H, W] by a Hough transform of its upper edges."""
    height, width = marked.shape
    rows, columns = np.nonzero(_upper_edges(marked))
    extent = np.ptp(columns) + 1 if len(rows) else 0
    if extent < 8:
        return []
    reach = MAX_SLOPE * width
    slopes = np.linspace(-MAX_SLOPE, MAX_SLOPE, 2 * int(np.ceil(reach / 1.5)) + 1)
    pad, span = int(reach) + 2, height + 2 * int(reach) + 5
    tops = np.round(rows - slopes[:, None] * columns).astype(np.int64) + pad
    bins = tops + span * np.arange(len(slopes))[:, None]
    votes = np.bincount(bins.ravel(), minlength=span * len(slopes)).reshape(len(slopes), span)
    votes = ndimage.convolve1d(votes, np.ones(3, int), mode="constant")
    numbers, places = np.nonzero(votes >= MIN_LINE * extent)
    order = np.argsort(-votes[numbers, places], kind="stable")
    slopes, lefts = slopes[numbers[order]], places[order] - pad
    rights = lefts + slopes * width
    minimum, found = max(3.0, height / 60), []
    while len(slopes):
        own = columns[np.abs(rows - lefts[0] - slopes[0] * columns) <= 1.5]
        share = len(np.unique(own)) / extent
        if share >= MIN_LINE:
            first, last = np.sort(own)[[len(own) // 100, -1 - len(own) // 100]]
            found.append(Line(float(slopes[0]), float(lefts[0]), int(first), int(last), share))
        # Lines of paper do not cross inside the picture.
        left, right = lefts - lefts[0], rights - rights[0]
        apart = (np.minimum(np.abs(left), np.abs(right)) >= minimum) & (left * right > 0)
        slopes, lefts, rights = slopes[apart], lefts[apart], rights[apart]
    return found


def _lines_of_paper(lines: list[Line], shape: tuple[int, ...]) -> list[Line]:
    """Return the lines with both ends at an edge of the picture if one of them is long enough.

    One long line is sufficient because strokes may hide parts of the other lines.
    """
    height, width = shape
    near = max(2, 0.03 * max(shape))

    def at_edge(column: int, row: float) -> bool:
        return min(column, width - 1 - column, row, height - 1 - row) <= near

    found = [line for line in lines if all(at_edge(x, line.row(x)) for x in (line.start, line.end))]
    minimum = MIN_SIDE_OF_BOX if len(found) > 1 else MIN_SINGLE_LINE
    return found if any(line.share >= minimum for line in found) else []


def _find_box(flat: list[Line], upright: list[Line]) -> tuple[list[Line], list[Line]]:
    """Return the outermost two lines of each direction if they form a box, otherwise no lines."""
    pairs = []
    for lines in (flat, upright):
        long = [line for line in lines if line.share >= MIN_SIDE_OF_BOX]
        if len(long) < 2:
            return [], []
        long.sort(key=lambda line: line.row((line.start + line.end) / 2))
        pairs.append([long[0], long[-1]])
    near = 0.12 * max(pair[0].end - pair[0].start for pair in pairs)
    closed = all(
        abs(end - side.row(line.row(end))) <= near
        for lines, sides in (pairs, reversed(pairs))
        for line in lines
        for end, side in zip((line.start, line.end), sides, strict=True)
    )
    return (pairs[0], pairs[1]) if closed else ([], [])


def _erase(drawn: np.ndarray, lines: list[Line]) -> np.ndarray:
    """Remove the ink of lines, except where a stroke crosses the line and the ink is thicker."""
    runs = _label(drawn, [[0, 1, 0], [0, 1, 0], [0, 1, 0]])  # of ink in one column
    lengths = np.bincount(runs.ravel())
    rows, columns = np.nonzero(_upper_edges(drawn > 0))
    reach = max(3, drawn.shape[1] // 25)
    own = [np.zeros(0, int)]
    for line in lines:
        near = np.abs(rows - line.row(columns).round()) <= 2
        near &= (columns >= line.start - reach) & (columns <= line.end + reach)
        own.append(runs[rows[near], columns[near]])
    thickness = [np.percentile(lengths[numbers], 25) for numbers in own if len(numbers)]
    thin = lengths <= 1.5 * np.median(thickness or [0]) + 1
    removed = np.isin(np.arange(len(lengths)), np.concatenate(own)) & thin
    return np.where(removed[runs], 0, drawn)


def _upper_edges(marked: np.ndarray) -> np.ndarray:
    """Mark the ink in bool[H, W] that has no ink directly above it."""
    return marked & ~np.pad(marked, ((1, 0), (0, 0)))[:-1]


def _is_digit(rest: np.ndarray, flat: list[Line], upright: list[Line], box: bool) -> bool:
    """Return True if the ink without the lines can be a digit to which the lines do not belong."""
    large = without_specks(rest, 20)
    rows, columns = (np.flatnonzero(large.any(axis)) for axis in (1, 0))
    if not len(rows):
        return False
    longest = max(line.end - line.start for line in flat + upright)
    if max(np.ptp(rows), np.ptp(columns)) + 1 < (0.35 if box else 0.1) * longest:
        return False
    if box:
        return True
    if len(flat) <= 1 and len(upright) <= 1:  # Then the digit must not touch the edges either.
        height, width = rest.shape
        flat = [*flat, Line(0, 0, 0, width - 1)]
        upright = [*upright, Line(0, 0, 0, height - 1)]
    inside = [line.contains(columns) for line in flat] + [line.contains(rows) for line in upright]
    return all(inside)


def _has_ring(drawn: np.ndarray) -> bool:
    """Return True if a part of the ink encloses another part that is large enough for a digit."""
    labels = _label(drawn)
    boxes = dict(enumerate(ndimage.find_objects(labels), start=1))
    for ring, (rows, columns) in boxes.items():
        limits = (MIN_ENCLOSED * _length(rows), 0.4 * MIN_ENCLOSED * _length(columns))
        inner = [
            number
            for number, box in boxes.items()
            if all(
                outer.start < own.start and own.stop < outer.stop and _length(own) >= limit
                for outer, own, limit in zip((rows, columns), box, limits, strict=True)
            )
        ]
        if inner:
            inside = labels[rows, columns]
            enclosed = np.asarray(ndimage.binary_fill_holes(inside == ring))
            if any(enclosed[inside == number].all() for number in inner):
                return True
    return False


def _length(span: slice) -> int:
    return span.stop - span.start

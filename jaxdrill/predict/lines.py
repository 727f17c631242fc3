"""Straight lines that are no part of a digit: ruled and squared paper, a box drawn around it, a border, an underline.

A line of the paper reaches two edges of the picture, and a box is closed. A stroke of a digit does neither, unless the
picture is cut along the ink. Then the rest of the digit reaches the ends of the stroke, which it does not inside a box
or on a line of the paper.
"""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from scipy import ndimage

from jaxdrill.errors import RunError

MIN_SIDE = 40  # pixels of a picture; in smaller ones a line looks as a stroke does
ALONE_COVERED = 0.8  # by a line without another parallel to it
SLOPE = 0.1  # pixels per pixel: lines are tilted by at most 6 degrees
COVERED, SIDE_COVERED = (
    0.2,
    0.55,
)  # of the extent of all ink, at least, by a line, and by a side of a box
MARGIN = 0.03  # of a line, at least, between its ends and the digit
RULED = 4  # parallel lines from edge to edge, at least, that no digit has
ENCLOSED = 0.25  # of the extents of a ring, at least, for what is inside it to be the digit


@dataclass(frozen=True)
class Line:
    """A line along the columns: at column x its upper edge is at row `at + slope * x`, from column `start` to `end`."""

    slope: float
    at: float
    start: int
    end: int
    share: float = 1.0  # of the extent of all ink that it covers

    def row(self, column: Any) -> Any:
        """Return the row of the upper edge at a column, or at each of an array of columns."""
        return self.at + self.slope * column


def without_lines(drawn: np.ndarray) -> np.ndarray:
    """Remove straight lines that are no part of a digit from ink float64[H, W], 0..1.

    Where a stroke crosses a line, the stroke stays whole.

    Raises:
        RunError: lines of the paper cannot be told from the digit, or a ring that is not a straight box encloses it.
    """
    if min(drawn.shape) < MIN_SIDE:
        return drawn
    flat, upright = find_lines(drawn > 0), find_lines(drawn.T > 0)
    box, box_upright = _box(flat, upright)
    removed, removed_upright = (
        box + _through(flat, drawn.shape, box),
        box_upright + _through(upright, drawn.T.shape, box_upright),
    )
    if removed or removed_upright:
        rest = _erase(_erase(drawn, removed).T, removed_upright).T
        if _is_digit(rest, removed, removed_upright, bool(box)):
            drawn = rest
        elif max(len(removed), len(removed_upright)) >= RULED:
            raise RunError(
                "shows ruled lines that cannot be told from the digit. Use a picture on blank paper."
            )
    _assert_no_ring(drawn)
    return drawn


def find_lines(marked: np.ndarray) -> list[Line]:
    """Find the nearly horizontal straight lines of ink bool[H, W]: a Hough transform of its upper edges."""
    height, width = marked.shape
    edges = marked & ~np.pad(marked, ((1, 0), (0, 0)))[:-1]
    rows, columns = np.nonzero(edges)
    extent = np.ptp(np.flatnonzero(marked.any(0))) + 1 if len(rows) else 0
    if extent < 8:
        return []
    reach = SLOPE * width
    slopes = np.linspace(-SLOPE, SLOPE, 2 * int(np.ceil(reach / 1.5)) + 1)
    pad, span = int(reach) + 2, height + 2 * int(reach) + 5
    at = np.round(rows - slopes[:, None] * columns).astype(np.int64) + pad
    votes = np.bincount(
        (at + span * np.arange(len(slopes))[:, None]).ravel(), minlength=span * len(slopes)
    )
    votes = votes.reshape(len(slopes), span)
    votes = ndimage.convolve1d(votes, np.ones(3, int), mode="constant")
    numbers, places = np.nonzero(votes >= COVERED * extent)
    order = np.argsort(-votes[numbers, places], kind="stable")
    slopes, starts = slopes[numbers[order]], places[order] - pad
    ends, near, found = starts + slopes * width, max(3.0, height / 60), []
    while len(slopes):
        own = columns[np.abs(rows - starts[0] - slopes[0] * columns) <= 1.5]
        share = len(np.unique(own)) / extent
        if share >= COVERED:
            first, last = np.sort(own)[[len(own) // 100, -1 - len(own) // 100]]
            found.append(Line(float(slopes[0]), float(starts[0]), int(first), int(last), share))
        left, right = (
            starts - starts[0],
            ends - ends[0],
        )  # lines of paper do not cross inside the picture
        apart = (np.minimum(np.abs(left), np.abs(right)) >= near) & (left * right > 0)
        slopes, starts, ends = slopes[apart], starts[apart], ends[apart]
    return found


def _through(lines: list[Line], shape: tuple[int, ...], box: list[Line]) -> list[Line]:
    """Return the lines, other than the sides of a box, with both ends at an edge of the picture, if one of them is
    covered as well as a side of a box: strokes hide parts of the others."""
    found = [line for line in lines if line not in box and _reaches_edges(line, shape)]
    least = SIDE_COVERED if len(found) > 1 else ALONE_COVERED
    return found if any(line.share >= least for line in found) else []


def _reaches_edges(line: Line, shape: tuple[int, ...]) -> bool:
    """Return True if both ends of a line are at an edge of the picture."""
    height, width = shape
    near = max(2, 0.03 * max(shape))
    return all(
        min(x, width - 1 - x, y, height - 1 - y) <= near
        for x, y in ((x, line.row(x)) for x in (line.start, line.end))
    )


def _box(flat: list[Line], upright: list[Line]) -> tuple[list[Line], list[Line]]:
    """Return the outermost two lines of each direction if they meet in four corners, otherwise no lines."""
    long = [[line for line in lines if line.share >= SIDE_COVERED] for lines in (flat, upright)]
    if min(map(len, long)) < 2:
        return [], []
    outer = [
        sorted(lines, key=lambda line: line.row((line.start + line.end) / 2)) for lines in long
    ]
    (top, *_, bottom), (left, *_, right) = outer
    near = 0.12 * max(top.end - top.start, left.end - left.start)
    corners = [(line.start, left, line) for line in (top, bottom)] + [
        (line.end, right, line) for line in (top, bottom)
    ]
    corners += [(line.start, top, line) for line in (left, right)] + [
        (line.end, bottom, line) for line in (left, right)
    ]
    closed = all(abs(end - other.row(line.row(end))) <= near for end, other, line in corners)
    return ([top, bottom], [left, right]) if closed else ([], [])


def _erase(drawn: np.ndarray, lines: list[Line]) -> np.ndarray:
    """Remove the ink of lines where it is no thicker than the lines: elsewhere a stroke crosses or covers them."""
    left, (height, width) = drawn.copy(), drawn.shape
    near = max(3, width // 25)
    places = [
        np.arange(max(0, line.start - near), min(width, line.end + near + 1)) for line in lines
    ]
    runs = [
        _runs(drawn > 0, np.round(line.row(x)).astype(int), x)
        for line, x in zip(lines, places, strict=True)
    ]
    thick = [
        np.percentile((ends - tops)[ends > tops], 25) for tops, ends in runs if (ends > tops).any()
    ]
    for (tops, ends), columns in zip(runs, places, strict=True):
        thin = (ends > tops) & (ends - tops <= 1.5 * np.median(thick) + 1) if thick else ends > tops
        rows = np.arange(height)[:, None]
        left[:, columns] = np.where(thin & (rows >= tops) & (rows < ends), 0, left[:, columns])
    return left


def _runs(
    marked: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return first rows and ends of the vertical runs of ink whose upper edge is within two rows of a place in each
    column; ends equal first rows where there is none."""
    height = len(marked)
    tops = np.full(len(columns), -1)
    for offset in (2, -2, 1, -1, 0):  # the nearest is looked at last
        row = rows + offset
        inside = (row >= 0) & (row < height)
        at = row.clip(0, height - 1)
        edge = inside & marked[at, columns] & ((at == 0) | ~marked[at - 1, columns])
        tops = np.where(edge, at, tops)
    below = np.arange(height)[:, None] >= tops
    stops = below & ~marked[:, columns]
    ends = np.where(stops.any(0), stops.argmax(0), height)
    return tops, np.where(tops < 0, tops, ends)


def _is_digit(rest: np.ndarray, flat: list[Line], upright: list[Line], box: bool) -> bool:
    """Return True if what is left without the lines can be the digit that they are no part of."""
    rows, columns = _spans(rest)
    if not len(rows):
        return False
    lengths = [line.end - line.start for line in flat + upright]
    if max(np.ptp(rows), np.ptp(columns)) + 1 < (0.35 if box else 0.1) * max(lengths):
        return False
    if box:
        return True
    inside = all(_within(columns, line) for line in flat) and all(
        _within(rows, line) for line in upright
    )
    if max(len(flat), len(upright)) > 1:
        return inside
    height, width = rest.shape
    whole = [_within(columns, Line(0, 0, 0, width - 1)), _within(rows, Line(0, 0, 0, height - 1))]
    return inside and all(whole)


def _spans(drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns with ink, without specks."""
    labels, count = cast(Any, ndimage.label(drawn > 0, np.ones((3, 3))))
    areas = ndimage.sum_labels(drawn, labels, range(1, count + 1))
    kept = np.isin(labels, np.flatnonzero(areas >= areas.max() / 20) + 1) if count else labels > 0
    return np.flatnonzero(kept.any(1)), np.flatnonzero(kept.any(0))


def _within(places: np.ndarray, line: Line) -> bool:
    """Return True if both ends of a line stand out beyond the places."""
    margin = max(1, MARGIN * (line.end - line.start))
    return bool(places[0] >= line.start + margin and places[-1] <= line.end - margin)


def _assert_no_ring(drawn: np.ndarray) -> None:
    """Raises:
    RunError: a part of the ink encloses another that is large enough for a digit.
    """
    labels, _ = cast(Any, ndimage.label(drawn > 0, np.ones((3, 3))))
    parts = ndimage.find_objects(labels)
    for number, part in enumerate(parts, 1):
        sides = [side.stop - side.start for side in part]
        inner = [
            n
            for n, other in enumerate(parts, 1)
            if n != number
            and all(
                own.start < o.start
                and o.stop < own.stop
                and o.stop - o.start >= ENCLOSED * side * (0.4 if axis else 1)
                for axis, (own, o, side) in enumerate(zip(part, other, sides, strict=True))
            )
        ]
        if not inner:
            continue
        enclosed = np.asarray(ndimage.binary_fill_holes(labels[part] == number))
        if any(enclosed[labels[part] == n].all() for n in inner):
            raise RunError("shows a digit inside a ring or a frame. Crop the picture inside it.")

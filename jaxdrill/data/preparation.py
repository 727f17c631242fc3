"""Describe how to prepare a picture so that it looks like a network's training images.

The preparation is measured on the training images and stored in the metadata of each weights file.

MNIST's digits were scaled to fit a box of 20x20 pixels, with grey levels at the edges, and
translated in 28x28 pixels so that their centre of mass is in the middle (LeCun, Cortes and Burges,
http://yann.lecun.com/exdb/mnist/). Measured on its 70,000 images: the longer side is 20 pixels (19
in 16 images), and the centre of mass, in pixels from the edge, is 13.98 to 15, on average 14.5.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

SIDE, BOX, CENTRE = 28, 20, 14.5  # pixels
MAX_IMAGES = 5_000  # training images to measure
# Maximum difference in grey levels between the background of all images and a margin pixel.
MAX_DIFFERENCE = 40
# Minimum share of margin pixels that show background. MNIST translated by 0 and 3 pixels has 1.00
# and 0.97; MNIST enlarged to the full frame has 0.90; scikit-learn's digits have 0.79.
MIN_SHARE = 0.95


@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class Preparation:
    """Describe what `predict.digit` does to a picture.

    layout: `mnist`: scaled and centred as MNIST's digits; `isolated`: one object with a nearly
        empty margin, scaled and placed differently; `full_frame`: any other image.
    polarity: `light_on_dark`, as in MNIST, or `dark_on_light`.
    box: the longer side of the object in pixels: 20 for `mnist`, the median for `isolated`, 28 for
        `full_frame`.
    """

    layout: Literal["mnist", "isolated", "full_frame"] = "mnist"
    polarity: Literal["light_on_dark", "dark_on_light"] = "light_on_dark"
    box: Annotated[int, Field(ge=1, le=SIDE)] = BOX

    @property
    def is_dark_on_light(self) -> bool:
        """Return True if the training images are dark on light."""
        return self.polarity == "dark_on_light"

    def as_table(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return asdict(self)


MNIST, FULL_FRAME = Preparation(), Preparation("full_frame", box=SIDE)
KNOWN = {
    "auto": MNIST,
    "mnist": MNIST,
    "digits": MNIST,
    "fashion_mnist": FULL_FRAME,
    "kmnist": FULL_FRAME,
}


def measure(dataset: str, images: np.ndarray) -> Preparation:
    """Determine the preparation that makes pictures look like training images.

    Args:
        dataset: the dataset's name. Datasets in KNOWN are not measured.
        images: training images uint8[N, 28, 28, 1], 0..255. At most MAX_IMAGES of them, evenly
            spaced, are measured.
    """
    if dataset in KNOWN:
        return KNOWN[dataset]
    images = images[:: -(-len(images) // MAX_IMAGES), ..., 0]
    margins = np.stack([frame(image) for image in images])
    background = np.median(margins)
    polarity = "dark_on_light" if background > 127 else "light_on_dark"
    light = 255 - images if background > 127 else images  # light objects on a dark background
    darkness = min(background, 255 - background)  # the background's grey level in `light`
    if all(is_mnist(image) for image in light):
        return Preparation("mnist", polarity)
    share = (np.abs(margins - background) <= MAX_DIFFERENCE).mean()
    if share < MIN_SHARE or darkness > MAX_DIFFERENCE:
        return Preparation("full_frame", polarity, SIDE)
    marked = light > darkness + MAX_DIFFERENCE
    sides = np.maximum(*(_extents(marked.any(axis)) for axis in (1, 2)))
    return Preparation("isolated", polarity, int(np.median(sides)))


def from_metadata(metadata: Mapping[str, Any], dataset: str) -> Preparation:
    """Return the preparation that the metadata of a weights file records.

    Args:
        metadata: parsed values. Files of early versions have no `preparation`.
        dataset: the name of the training data. Without a record, datasets in KNOWN have their own
            preparation, and all others MNIST's.

    Raises:
        ValueError: The record is not one that `Preparation.as_table` returns.
    """
    if "preparation" not in metadata:
        return KNOWN.get(dataset, MNIST)
    try:
        return Preparation(**metadata["preparation"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"preparation is {metadata['preparation']}") from error


def frame(grey: np.ndarray) -> np.ndarray:
    """Return the outermost pixels of an image [H, W] as one row."""
    return np.concatenate([grey[0], grey[-1], grey[1:-1, 0], grey[1:-1, -1]])


def is_mnist(grey: np.ndarray) -> bool:
    """Return True if an image uint8[H, W] has the size, polarity and centring of MNIST's."""
    if grey.shape != (SIDE, SIDE) or np.median(frame(grey)) or not grey.any():
        return False
    spans = [np.flatnonzero(grey.any(axis)) for axis in (1, 0)]
    masses = [(grey.sum(axis) * (np.arange(SIDE) + 0.5)).sum() / grey.sum() for axis in (1, 0)]
    return (
        max(span[-1] - span[0] + 1 for span in spans) in (BOX - 1, BOX)
        and 13.98 <= min(masses) <= max(masses) < 15
    )


def _extents(marked: np.ndarray) -> np.ndarray:
    """Return the pixels from the first to the last True of each row bool[N, 28]; 0 if none."""
    lengths = SIDE - marked.argmax(1) - marked[:, ::-1].argmax(1)
    return np.where(marked.any(1), lengths, 0)

"""How a picture must be prepared so that a network sees it as it saw its training images.

The record is measured on the training images and stored in the metadata of each weights file.

MNIST's digits were scaled into a box of 20x20 pixels, grey where a pixel is partly ink, and translated in 28x28 so that
their centre of mass is in the middle (LeCun, Cortes and Burges, http://yann.lecun.com/exdb/mnist/). Measured on its
70,000 images: the longer side is 20 pixels (of 16 images 19), and the centre of mass, in pixels from the edge, is
everywhere from 13.98 to 15, on average 14.5.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

SIDE, BOX, CENTRE = 28, 20, 14.5  # pixels
SAMPLE = 5_000  # training images that are measured
MAX_FAINT = (
    40  # grey levels between the paper of all training images and a pixel of an empty margin
)
# Of the outermost pixels of all images, that are paper. MNIST translated by 0 and 3 pixels has 1.00 and 0.97; stretched
# to the full frame it has 0.90, and scikit-learn's digits 0.79.
MIN_SHARE = 0.95


@dataclass(frozen=True)
class Preparation:
    """What `predict.digit` does to a picture.

    layout: `mnist`: scaled and placed as MNIST's digits are; `isolated`: one object with a nearly empty margin,
        scaled and placed in another way; `full_frame`: anything else.
    polarity: `light_on_dark` as MNIST's, or `dark_on_light`.
    box: the longer side of the object in pixels, 20 for `mnist`, the median for `isolated`, 28 for `full_frame`.
    """

    layout: str = "mnist"
    polarity: str = "light_on_dark"
    box: int = BOX

    @property
    def is_dark_on_light(self) -> bool:
        """Return True if the training images were dark on light."""
        return self.polarity == "dark_on_light"

    def as_table(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
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
    """Find the preparation that pictures need to look like training images.

    Args:
        dataset: the dataset's name. The registered datasets are known and are not measured.
        images: training images uint8[N, 28, 28, 1], 0..255. At most SAMPLE of them are measured, evenly spaced.
    """
    if dataset in KNOWN:
        return KNOWN[dataset]
    images = images[:: -(-len(images) // SAMPLE), ..., 0]
    margins = np.stack([frame(image) for image in images])
    paper = np.median(margins)
    polarity = "dark_on_light" if paper > 127 else "light_on_dark"
    light = 255 - images if paper > 127 else images
    if all(is_mnist(image) for image in light):
        return Preparation("mnist", polarity)
    if (
        np.abs(margins - paper) <= MAX_FAINT
    ).mean() < MIN_SHARE or MAX_FAINT < paper < 255 - MAX_FAINT:
        return Preparation("full_frame", polarity, SIDE)
    inked = light > min(paper, 255 - paper) + MAX_FAINT
    sides = np.maximum(*(_extents(inked.any(axis)) for axis in (1, 2)))
    return Preparation("isolated", polarity, int(np.median(sides)))


def of_metadata(texts: Mapping[str, Any], dataset: str) -> Preparation:
    """Return the preparation that the metadata of a weights file records.

    Args:
        texts: the value of `preparation`, if the file has it. Files written before it was recorded have none.
        dataset: the name of the dataset that the weights were trained with. Without a record, known datasets are
            prepared as they need it, and all others as MNIST.

    Raises:
        ValueError: the record is not one that `Preparation.as_table` gave.
    """
    if "preparation" not in texts:
        return KNOWN.get(dataset, MNIST)
    found = texts["preparation"]
    try:
        prepared = Preparation(**dict(found))
    except (TypeError, ValueError) as error:
        raise ValueError(f"preparation is {found}") from error
    allowed = prepared.layout in ("mnist", "isolated", "full_frame") and prepared.polarity in (
        "light_on_dark",
        "dark_on_light",
    )
    if found == [] or not allowed or type(prepared.box) is not int or not 1 <= prepared.box <= SIDE:
        raise ValueError(f"preparation is {found}")
    return prepared


def frame(grey: np.ndarray) -> np.ndarray:
    """Return the outermost pixels of an image [H, W]."""
    return np.concatenate([grey[0], grey[-1], grey[1:-1, 0], grey[1:-1, -1]])


def is_mnist(grey: np.ndarray) -> bool:
    """Return True if an image uint8[H, W] is 28x28, light on dark, and scaled and placed as MNIST's are."""
    if grey.shape != (SIDE, SIDE) or np.median(frame(grey)) or not grey.any():
        return False
    spans = [np.flatnonzero(grey.any(axis)) for axis in (1, 0)]
    masses = [(grey.sum(axis) * (np.arange(SIDE) + 0.5)).sum() / grey.sum() for axis in (1, 0)]
    return (
        max(span[-1] - span[0] + 1 for span in spans) in (BOX - 1, BOX)
        and 13.98 <= min(masses) <= max(masses) < 15
    )


def _extents(marked: np.ndarray) -> np.ndarray:
    """Return the distance from the first to the last True of each row bool[N, 28], in pixels, 0 without any."""
    lengths = SIDE - marked.argmax(1) - marked[:, ::-1].argmax(1)
    return np.where(marked.any(1), lengths, 0)

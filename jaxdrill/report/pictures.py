"""Pictures of digits: what augmentation does, and which images are wrong."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from jaxdrill.report.analysis import DISPUTED, Analysis
from jaxdrill.report.tables import Table
from jaxdrill.runs.reader import FinishedRun

MOST_ROWS = 200  # of the error explorer


@dataclass(frozen=True)
class Picture:
    """Grey images side by side, uint8[H, W], with what they show in words."""

    pixels: np.ndarray
    alt: str
    caption: str = ""

    @property
    def uri(self) -> str:
        """The PNG file as a data URI."""
        file = io.BytesIO()
        Image.fromarray(self.pixels).save(file, "PNG", optimize=True)
        return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def augmentations(runs: Sequence[FinishedRun]) -> list[Picture]:
    """For each augmentation in the runs: three digits, each as it is and then as training sees it."""
    pictures: dict[str, Picture] = {}
    for run in runs:
        how = run.config.augmentation
        limits = (
            (how.rotation_degrees, "rotated by up to {:g} degrees"),
            (100 * how.scale, "scaled by up to {:g} %"),
            (how.shift_pixels, "moved by up to {:g} pixels"),
        )
        done = ", ".join(words.format(limit) for limit, words in limits if limit)
        if not done or not run.images or str(how) in pictures:
            continue
        firsts = [run.images[int(np.argmax(run.labels == digit))] for digit in (2, 4, 7)]
        alt = f"classes 2, 4 and 7 as they are, and eleven times {done}"
        caption = f"{run.name}: {done}. Left as it is, then as training sees it."
        pictures[str(how)] = Picture(
            np.vstack([_augmented(run, image) for image in firsts]), alt, caption
        )
    return list(pictures.values())


def _augmented(run: FinishedRun, image: np.ndarray, count: int = 11) -> np.ndarray:
    """The image, uint8[S, S], and beside it as training sees it, uint8[S, (count + 1) S]."""
    import jax

    from jaxdrill.training import devices
    from jaxdrill.training.augmentation import augment
    from jaxdrill.training.random import root_key

    devices.available_devices()  # else JAX fails with a traceback where its platform is missing
    with devices.single_precision():
        images = jax.numpy.broadcast_to(
            jax.numpy.asarray(image)[None, :, :, None], (count, *image.shape, 1)
        )
        seen = augment(run.config.augmentation, jax.random.split(root_key(0), count), images)
    return np.hstack([image, *np.round(np.asarray(seen)[..., 0]).astype(np.uint8)])


def explorer(analyses: Sequence[Analysis]) -> tuple[str, Table]:
    """How many images some seed gets wrong; and each of them, what each seed of each run says, and which run fixed
    it."""
    runs = [analysis.run for analysis in analyses]
    labels = runs[0].labels
    wrong = [run.predicted != labels for run in runs]
    count = np.concatenate(wrong).sum(axis=0)
    order = np.argsort(-count, kind="stable")
    order = order[count[order] > 0]
    names = [analysis.label for analysis in analyses]
    kinds = {int(i): _kind(names, [float(each[:, i].mean()) for each in wrong]) for i in order}
    totals = {
        kind: sum(other == kind for other in kinds.values()) for kind in sorted(set(kinds.values()))
    }
    rows = []
    for i in map(int, order[:MOST_ROWS]):
        image = next((run.images[i] for run in runs if i in run.images), None)
        picture = (
            "" if image is None else Picture(image, f"{runs[0].split} image {i}, a {labels[i]}")
        )
        said = (
            "".join("·" if p == labels[i] else f"{p}" for p in run.predicted[:, i]) for run in runs
        )
        rows.append(
            [
                picture,
                _number(i, runs[0]),
                f"{labels[i]}",
                kinds[i],
                *(f"`{text}`" for text in said),
            ]
        )
    text = f"{len(order)} of {len(labels):,} {runs[0].split} images are wrong in some seed"
    text += "".join(f", {number} {kind}" for kind, number in totals.items()) + "."
    text += (
        f" The {MOST_ROWS} that are wrong most often are shown." if len(order) > MOST_ROWS else ""
    )
    return text, Table(["", "image", "label", "", *names], rows)


def _kind(names: Sequence[str], fractions: Sequence[float]) -> str:
    """always, sometimes, or fixed by a run, from the fraction of each run's seeds that is wrong."""
    if min(fractions) == 1:
        return "always"
    last = max(n for n, fraction in enumerate(fractions) if fraction)
    fixed = last + 1 < len(names) and max(fractions) > 0.5
    return f"fixed by {names[last + 1]}" if fixed else "sometimes"


def _number(i: int, run: FinishedRun) -> str:
    return f"{i}{' †' if run.dataset == 'mnist' and i in DISPUTED else ''}"


def worst(analysis: Analysis, count: int = 25) -> list[Picture]:
    """The images with the smallest probability of their label among those that some seed gets wrong."""
    run, probabilities = analysis.run, analysis.probabilities
    of_label = probabilities[np.arange(len(run.labels)), run.labels]
    wrong = np.flatnonzero((run.predicted != run.labels).any(axis=0))
    pictures = []
    for i in map(int, wrong[np.argsort(of_label[wrong], kind="stable")][:count]):
        others = probabilities[i].copy()
        others[run.labels[i]] = -1
        said = int(others.argmax())
        caption = f"{_number(i, run)}: {run.labels[i]}, not {said} ({100 * others[said]:.0f} %)"
        if i in run.images:
            alt = f"{run.split} image {i}, a {run.labels[i]} taken for a {said}"
            pictures.append(Picture(run.images[i], alt, caption))
    return pictures

"""Pictures of digits: what augmentation does, and which images are misclassified."""

import base64
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from jaxdrill.report.analysis import DISPUTED, Analysis
from jaxdrill.report.tables import ReportTable
from jaxdrill.runs.reader import FinishedRun

MAX_ROWS = 200  # of the error table
AUGMENTED = 11  # augmented copies of a digit


@dataclass(frozen=True)
class Picture:
    """A grey picture, uint8[H, W], with its alternative text and its caption."""

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
    """Show three digits before and after augmentation, for each augmentation of the runs.

    The pictures are made with the training's own `augment`, and the captions list the changed
    fields of the recipe's [augmentation] table. A new augmentation therefore needs no change here.
    """
    pictures: dict[str, Picture] = {}
    for run in runs:
        changed = run.config.augmentation.model_dump(exclude_defaults=True)
        fields = ", ".join(f"{name} = {value}" for name, value in changed.items())
        if not run.images or not fields or fields in pictures:
            continue
        digits = np.stack([run.images[int(np.argmax(run.labels == digit))] for digit in (2, 4, 7)])
        augmented = _augment(run, digits)
        if (augmented == digits[:, None]).all():
            continue
        rows = np.concatenate([digits[:, None], augmented], axis=1)
        pictures[fields] = Picture(
            rows.swapaxes(1, 2).reshape(3 * digits.shape[1], -1),
            f"digits 2, 4 and 7, each followed by {AUGMENTED} augmented copies",
            f"{run.name}: {fields}. The first column shows the original images, the other columns "
            "show what training sees.",
        )
    return list(pictures.values())


def _augment(run: FinishedRun, images: np.ndarray) -> np.ndarray:
    """Augment uint8[N, S, S], each image with the same keys, to uint8[N, AUGMENTED, S, S]."""
    import jax

    from jaxdrill.training import augmentation, devices
    from jaxdrill.training.random import root_key

    devices.available_devices()  # raises RunError if JAX_PLATFORMS names a missing platform
    copies = np.repeat(images, AUGMENTED, axis=0)[..., None]
    with devices.single_precision():
        keys = jax.numpy.tile(jax.random.split(root_key(0), AUGMENTED), len(images))
        augment = jax.jit(augmentation.augment, static_argnums=0)
        seen = augment(run.config.augmentation, keys, jax.numpy.asarray(copies))
        pixels = np.clip(np.round(np.asarray(seen)), 0, 255).astype(np.uint8)
    return pixels.reshape(len(images), AUGMENTED, *images.shape[1:])


def error_table(analyses: Sequence[Analysis]) -> tuple[str, ReportTable, list[Picture | None]]:
    """List the images that at least one seed misclassifies, the most often misclassified first.

    Returns:
        A summary in words; the table: for each image the predictions of every seed of every run,
        and which run fixed it; for each row the picture, or None if no run kept the image.
    """
    runs, names = [analysis.run for analysis in analyses], [analysis.label for analysis in analyses]
    labels, split = runs[0].labels, runs[0].split
    wrong = [run.predicted != labels for run in runs]
    count = np.concatenate(wrong).sum(axis=0)
    order = [i for i in np.argsort(-count, kind="stable").tolist() if count[i]]
    fractions = np.array([each.mean(axis=0) for each in wrong])
    kinds = {i: _kind(names, fractions[:, i].tolist()) for i in order}
    rows, pictures = [], []
    for i in order[:MAX_ROWS]:
        predicted = [
            "".join("·" if p == labels[i] else f"{p}" for p in run.predicted[:, i]) for run in runs
        ]
        rows.append([_index(i, runs[0]), f"{labels[i]}", kinds[i], *(f"`{p}`" for p in predicted)])
        image = next((run.images[i] for run in runs if i in run.images), None)
        alt = f"{split} image {i}, label {labels[i]}"
        pictures.append(None if image is None else Picture(image, alt))
    totals = ", ".join(f"{n} {kind}" for kind, n in sorted(Counter(kinds.values()).items()))
    text = f"{len(order)} of {len(labels):,} {split} images are misclassified by at least one seed"
    text += f": {totals}." if totals else "."
    if len(order) > MAX_ROWS:
        text += f" The table shows the {MAX_ROWS} images that are misclassified most often."
    return text, ReportTable(["image", "label", "errors", *names], rows), pictures


def _kind(names: Sequence[str], fractions: Sequence[float]) -> str:
    """Classify an image by the fraction of misclassifying seeds of each run.

    Returns:
        `always` if every seed of every run is wrong; `fixed by NAME` if most seeds of an earlier
        run are wrong, and no seed of run NAME and of the later runs is; else `sometimes`.
    """
    if min(fractions) == 1:
        return "always"
    last = max(n for n, fraction in enumerate(fractions) if fraction)
    fixed = last + 1 < len(names) and max(fractions) > 0.5
    return f"fixed by {names[last + 1]}" if fixed else "sometimes"


def _index(i: int, run: FinishedRun) -> str:
    """Return the index of an image, with a dagger if most people reject its label."""
    return f"{i}{' †' if run.dataset == 'mnist' and i in DISPUTED else ''}"


def worst_images(analysis: Analysis, count: int = 25) -> list[Picture]:
    """Return the misclassified images whose labels have the smallest mean probability."""
    run, probabilities = analysis.run, analysis.probabilities
    of_label = probabilities[np.arange(len(run.labels)), run.labels]
    wrong = np.flatnonzero((run.predicted != run.labels).any(axis=0))
    pictures = []
    for i in wrong[np.argsort(of_label[wrong], kind="stable")][:count].tolist():
        label = run.labels[i]
        others = np.where(np.arange(10) == label, -1, probabilities[i])
        other = int(others.argmax())
        caption = f"{_index(i, run)}: {label}, not {other} ({100 * others[other]:.0f} %)"
        if i in run.images:
            alt = f"{run.split} image {i}, label {label}, predicted {other}"
            pictures.append(Picture(run.images[i], alt, caption))
    return pictures

"""From run folders to evidence that a person can read: `python -m jaxdrill.report RUN...` writes `report.html` and
`report.md`."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxdrill import plots, tables
from jaxdrill.document import Block, Drawing, Gallery, Picture, Section, Strip, Table, to_html, to_markdown
from jaxdrill.errors import Parser, UsageError, complain, exit_code
from jaxdrill.folder import Run, read_all, write_text
from jaxdrill.statistics import DISPUTED, Evidence, evidence

MOST_ROWS = 200  # of the error explorer

INTRODUCTION = (
    "The headline is the test accuracy after the last epoch, in percent: mean ± standard deviation over the seeds. The "
    "best epoch is shown because the original notebooks reported it; it is chosen by the test images themselves, so it "
    "is too high."
)
LADDER = (
    "A dot is a seed, the bar is the 95 % bootstrap interval of the mean. With few seeds the interval is too narrow."
)
HELPED = (
    "The difference of the last test accuracies, seed by seed, in percentage points. Seeds of the same number share "
    "initial weights, order and augmentation where the network is the same. Interval and p are of a paired t-test; the "
    "corrected p allows for the number of comparisons (Benjamini and Yekutieli 2001); the verdict is by it, at 5 %. "
    "How many seeds it takes is for a paired t-test that sees such a difference four times in five."
)
CURVES = "The mean over the seeds, and their range. The first fifth of the epochs may lie below the picture."
EXPLORED = (
    "One character a seed, in order: `·` is right, a digit is the wrong answer. Always: wrong in every seed of every "
    "step. Fixed by a step: most seeds of an earlier step were wrong, and from this step on none is. † marks the 15 "
    "labels that most people reject (Northcutt, Athalye and Mueller 2021)."
)
CONFUSION = "Rows are labels, columns answers: test images after the last epoch, the mean over the seeds."
WORST = "The wrong images whose label has the smallest averaged probability: the label, and what is said instead."
METHODS = (
    "Intervals of means: bootstrap (BCa, Efron 1987, 9,999 resamples). Differences: paired t-test. Ensemble: the "
    "seeds' probabilities averaged. Training accuracy is measured while training, with dropout and augmentation."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the report and returns the exit code, as `errors.exit_code` says."""
    return exit_code(lambda: _command(list(sys.argv[1:] if argv is None else argv)))


def _command(arguments: list[str]) -> None:
    about = "Writes report.html and report.md of one run, or of several that are compared."
    parser = Parser(prog="python -m jaxdrill.report", description=about, allow_abbrev=False)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder, or a folder of run folders")
    parser.add_argument("--out", type=Path, help="folder of the report (default: RUN; of several, the one they are in)")
    chosen = parser.parse_args(arguments)
    parents = {folder.resolve().parent for folder in chosen.runs}
    if not chosen.out and len(chosen.runs) > 1 and len(parents) > 1:
        raise UsageError("the runs are in different folders; say with --out where the report goes")
    out = chosen.out or (chosen.runs[0] if len(chosen.runs) == 1 else parents.pop())
    runs = read_all(chosen.runs)
    for caveat in caveats(runs):
        complain(caveat)
    title, sections = contents(runs)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "report.html", to_html(title, sections))
    write_text(out / "report.md", to_markdown(title, sections))
    print(f"{out / 'report.html'} and {out / 'report.md'}")


def summary(folders: Sequence[Path]) -> str:
    """The drill's results and the comparisons as Markdown, as the README shows them."""
    found = evidence(read_all(folders))
    shown = [tables.drill_table(found), *([tables.comparison_table(found)] if len(found) > 1 else [])]
    return "\n\n".join(table.markdown() for table in shown)


def caveats(runs: Sequence[Run]) -> list[str]:
    """What a reader must know before comparing, a line each, naming the folder."""
    lines, most = [], max(len(run.seeds) for run in runs)
    for run in runs:
        if len(run.seeds) == 1:
            why = "its spread is not known, and no difference can be concluded from it"
            lines.append(f"{run.folder} has one seed: {why}.")
        elif len(run.seeds) < most:
            lines.append(f"{run.folder} has {len(run.seeds)} seeds, others {most}: compared over those that both have.")
        if run.about["earlier_sessions"]:
            lines.append(f"{run.folder} was trained in sessions of different versions or machines (last section).")
    if bare := ", ".join(f"{run.folder}" for run in runs if not run.images):
        lines.append(f"No images.npz is in {bare}: pictures of digits are left out.")
    if len({str([run.about[key] for key in ("versions", "devices", "processor")]) for run in runs}) > 1:
        lines.append("The runs were made by different versions or machines (last section).")
    return lines


def contents(runs: Sequence[Run]) -> tuple[str, list[Section]]:
    """The report's title and sections."""
    found, first = evidence(runs), runs[0]
    title = f"The drill on {first.config.data}" if len(runs) > 1 else f"{first.name} on {first.config.data}"
    count = f"{first.epochs} epochs; {len(first.labels):,} test images, each counted once. "
    sections = [
        Section("Target, result, analysis", [count + INTRODUCTION, *caveats(runs), tables.drill(found)]),
        Section("The ladder of steps", [Drawing(plots.ladder(found), LADDER), tables.steps_table(found)]),
    ]
    if len(runs) > 1:
        sections.append(Section("Did the step help?", [tables.comparison_table(found), HELPED]))
    sections += [
        Section("Learning curves", [Drawing(plots.curves(run), CURVES) for run in runs]),
        Section("Learning rate", [Drawing(plots.schedules(runs), "The learning rate at the start of each epoch.")]),
        Section("What augmentation does", _augmentation(runs)),
        Section("Which images are wrong", _explorer(found)),
    ]
    for each in found:
        sections += [
            Section(each.run.name, [tables.analysis(each)]),
            Section("Difference from the step before", [tables.changes_table(each)], level=3),
            Section("Layers", [tables.layers_table(each.run)], level=3),
            Section("Confusion matrix", [CONFUSION, tables.confusion_table(each.run)], level=3),
            Section("Most wrongly classified", [WORST, Gallery(_worst(each))], level=3),
            Section("Time", [tables.time_table(each.run)], level=3),
        ]
    data = f"Data: {first.config.data}, SHA-256 {first.about['dataset_sha256']}."
    return title, [*sections, Section("How it was measured", [data, tables.sessions_table(runs), METHODS])]


def _augmentation(runs: Sequence[Run]) -> list[Block | str]:
    """For each rotation in the runs: some digits, each as it is and then as training sees it."""
    blocks: list[Block | str] = []
    shown: set[tuple[float, int]] = set()
    for run in runs:
        how = run.config.augmentation.rotation_degrees, run.config.augmentation.rotation_fill
        if not how[0] or how in shown or not run.images:
            continue
        shown.add(how)
        firsts = [int(np.argmax(run.labels == digit)) for digit in (2, 4, 7)]
        alt = f"classes 2, 4 and 7 as they are, and eleven times rotated by up to {how[0]:g} degrees"
        blocks += [f"{run.name}: by up to {how[0]:g} degrees. Left as it is, then as training sees it.",
                   Strip(Picture(np.vstack([_rotations(run.images[i], *how) for i in firsts]), alt))]  # fmt: skip
    return blocks or ["Nothing: no run here augments its images, or none holds pictures."]


def _rotations(image: np.ndarray, degrees: float, fill: int, count: int = 11) -> np.ndarray:
    """The image, uint8[S, S], and beside it as training rotates it, uint8[S, (count + 1) S]."""
    import jax

    from jaxdrill import augment

    keys = jax.random.split(jax.random.key(0), count)
    images = jax.numpy.broadcast_to(jax.numpy.asarray(image)[None, :, :, None], (count, *image.shape, 1))
    rotated = np.asarray(augment.random_rotation(keys, images, degrees, fill))[..., 0]
    return np.hstack([image, *rotated])


def _explorer(found: Sequence[Evidence]) -> list[Block | str]:
    """Each image that a seed gets wrong, what each seed of each step says, and which step fixed it."""
    runs = [each.run for each in found]
    labels = runs[0].labels
    wrong = [run.predicted != labels for run in runs]
    count = np.concatenate(wrong).sum(axis=0)
    order = np.argsort(-count, kind="stable")
    order = order[count[order] > 0]
    kinds = {int(i): _kind(i, runs, wrong) for i in order}
    totals = {kind: sum(other == kind for other in kinds.values()) for kind in sorted(set(kinds.values()))}
    rows = []
    for i in map(int, order[:MOST_ROWS]):
        image = next((run.images[i] for run in runs if i in run.images), None)
        picture: str | Picture = "" if image is None else Picture(image, f"test image {i}, a {labels[i]}")
        said = ("".join("·" if p == labels[i] else f"{p}" for p in run.predicted[:, i]) for run in runs)
        rows.append([picture, _number(i, runs[0]), f"{labels[i]}", kinds[i], *(f"`{text}`" for text in said)])
    text = f"{len(order)} of {len(labels):,} test images are wrong in some seed"
    text += "".join(f", {number} {kind}" for kind, number in totals.items()) + "."
    text += f" The {MOST_ROWS} that are wrong most often are shown." if len(order) > MOST_ROWS else ""
    return [text, EXPLORED, Table(["", "image", "label", "", *(run.name for run in runs)], rows)]


def _kind(i: int, runs: Sequence[Run], wrong: Sequence[np.ndarray]) -> str:
    """always, sometimes, or fixed by a step."""
    shares = [float(each[:, i].mean()) for each in wrong]
    if min(shares) == 1:
        return "always"
    last = max(n for n, share in enumerate(shares) if share)
    fixed = last + 1 < len(runs) and max(shares) > 0.5
    return f"fixed by {runs[last + 1].name}" if fixed else "sometimes"


def _number(i: int, run: Run) -> str:
    return f"{i}{' †' if run.config.data == 'mnist' and i in DISPUTED else ''}"


def _worst(each: Evidence, count: int = 25) -> list[Picture]:
    """The images with the smallest probability of their label among those that some seed gets wrong."""
    run, probabilities = each.run, each.probabilities
    of_label = probabilities[np.arange(len(run.labels)), run.labels]
    wrong = np.flatnonzero((run.predicted != run.labels).any(axis=0))
    pictures = []
    for i in map(int, wrong[np.argsort(of_label[wrong], kind="stable")][:count]):
        others = probabilities[i].copy()
        others[run.labels[i]] = -1
        said = int(others.argmax())
        caption = f"{_number(i, run)}: {run.labels[i]}, not {said} ({100 * others[said]:.0f} %)"
        if i in run.images:
            pictures.append(Picture(run.images[i], f"test image {i}, a {run.labels[i]} taken for a {said}", caption))
    return pictures


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # a few rotations: no accelerator need be taken for them
    sys.exit(main())

"""From run folders to evidence that a person can read: `python -m jaxdrill.report RUN...` writes `report.html` and
`report.md`."""

import os
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from jaxdrill import plots
from jaxdrill.config import options
from jaxdrill.document import Drawing, Gallery, Picture, Section, Strip, Table, to_html, to_markdown
from jaxdrill.errors import Parser, RunError, complain, exit_code
from jaxdrill.folder import Run, read_all, write_text
from jaxdrill.statistics import DISPUTED, Evidence, Summary, evidence

MOST_ROWS = 200  # of the error explorer


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the report and returns the exit code, as `errors.exit_code` says."""
    return exit_code(lambda: _command(list(sys.argv[1:] if argv is None else argv)))


def _command(arguments: list[str]) -> None:
    parser = Parser(prog="python -m jaxdrill.report", description=__doc__, allow_abbrev=False)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder, or a folder of run folders")
    parser.add_argument("--out", type=Path, help="folder of the report (default: RUN; of several, the one they are in)")
    chosen = parser.parse_args(arguments)
    runs = read_all(chosen.runs)
    parents = {run.folder.resolve().parent for run in runs}
    out = chosen.out or (chosen.runs[0] if len(chosen.runs) == 1 else parents.pop())
    if parents and not chosen.out and len(chosen.runs) > 1 and len({run.folder.resolve().parent for run in runs}) > 1:
        raise RunError("the runs are in different folders; say with --out where the report goes")
    for caveat in caveats(runs):
        complain(caveat)
    title, sections = contents(runs)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "report.html", to_html(title, sections))
    write_text(out / "report.md", to_markdown(title, sections))
    print(f"{out / 'report.html'} and {out / 'report.md'}")


def summary(folders: Sequence[Path]) -> str:
    """The drill's table and the comparisons, as Markdown."""
    found = evidence(read_all(folders))
    section = Section("", [drill_table(found), comparison_table(found)] if len(found) > 1 else [drill_table(found)])
    return to_markdown("", [section]).lstrip("# \n").rstrip()


def caveats(runs: Sequence[Run]) -> list[str]:
    """What a reader must know before comparing, a line each, naming the folder."""
    lines, most = [], max(len(run.seeds) for run in runs)
    for run in runs:
        if len(run.seeds) == 1:
            lines.append(
                f"{run.folder} has one seed: its spread is not known, and no difference can be concluded from it."
            )
        elif len(run.seeds) < most:
            lines.append(f"{run.folder} has {len(run.seeds)} seeds, others {most}: compared over those that both have.")
        if run.about["earlier_sessions"]:
            lines.append(
                f"{run.folder} was trained in sessions of different versions or machines (see the last section)."
            )
        if not run.images:
            lines.append(f"{run.folder} holds no images.npz: its pictures of digits are left out.")
    made = {str([run.about[key] for key in ("versions", "devices", "processor")]) for run in runs}
    if len(made) > 1:
        lines.append("The runs were made by different versions or machines (see the last section).")
    return lines


def contents(runs: Sequence[Run]) -> tuple[str, list[Section]]:
    """The report's title and sections."""
    found = evidence(runs)
    first = runs[0]
    title = f"The drill on {first.config.data}" if len(runs) > 1 else f"{first.name} on {first.config.data}"
    intro = (
        f"{len(runs)} run(s), {first.epochs} epochs, {first.metrics['test_examples'][0, 0]:,.0f} test images, each "
        "counted once. The headline is the test accuracy after the last epoch, in percent: mean ± standard deviation "
        "over the seeds. The best epoch is shown because the original notebooks reported it; it is chosen by the test "
        "images themselves, so it is too high."
    )
    sections = [
        Section("The drill", [intro, *caveats(runs), drill(found)]),
        Section("The ladder of steps", [Drawing(plots.ladder(found), LADDER), steps_table(found)]),
    ]
    if len(runs) > 1:
        sections.append(Section("Did the step help?", [comparison_table(found), HELPED]))
    sections += [
        Section("Learning curves", [Drawing(plots.curves(run), CURVES) for run in runs]),
        Section("Learning rate", [Drawing(plots.schedules(runs), "The learning rate at the start of each epoch.")]),
        Section("What augmentation does", _augmentation(runs)),
        Section("Which images are wrong", _explorer(found)),
    ]
    for each in found:
        sections += [Section(each.run.name, [analysis(each)]), *_details(each)]
    return title, [*sections, Section("How it was measured", _measured(runs))]


LADDER = (
    "A dot is a seed, the bar is the 95 % bootstrap interval of the mean. With few seeds the interval is too narrow."
)
CURVES = "The mean over the seeds, and their range. The first fifth of the epochs may lie below the picture."
HELPED = (
    "The difference of the last test accuracies, seed by seed, in percentage points. Seeds of the same number share "
    "initial weights, order and augmentation where the network is the same. Interval and p are of a paired t-test; the "
    "corrected p allows for the number of comparisons (Benjamini and Yekutieli 2001); the verdict is by it, at 5 %. "
    "How many seeds it takes is for a paired t-test that sees such a difference four times in five."
)
EXPLORED = (
    "One character a seed, in order: `·` is right, a digit is the wrong answer. Always: wrong in every seed of every "
    "step. Fixed by a step: most seeds of an earlier step were wrong, and from this step on none is. † marks the 15 "
    "labels that most people reject (Northcutt, Athalye and Mueller 2021)."
)


def drill(found: Sequence[Evidence]) -> Table:
    """Target, result and analysis of each step, as the original has them."""
    rows = []
    for each in found:
        result = (
            f"{each.run.about['parameters']:,} parameters. Train {_percent(each.train)} %. Test {_percent(each.last)} %"
        )
        rows.append(
            [each.run.name, each.run.config.goal, f"{result}; best epoch {_percent(each.best)} %.", analysis(each)]
        )
    return Table(["step", "target", "result", "analysis"], rows)


def analysis(each: Evidence) -> str:
    """What the numbers of a run say, in words."""
    change, gap, epochs = each.change, 100 * each.gap.mean, each.run.epochs
    parts = []
    if change is None:
        parts.append(
            f"No seed in common with {each.before.name}." if each.before else "There is no step before it here."
        )
    else:
        interval = f" ({_points(change.interval[0])} to {_points(change.interval[1])})" if change.interval else ""
        parts.append(f"{_points(change.mean)} points{interval} against {change.before}: {change.verdict}.")
    where = f"{abs(gap):.2f} points {'above' if gap > 0 else 'below'} the test"
    parts.append(f"Training ends {where}{': it overfits' if gap >= 0.1 else ', no overfitting'}.")
    count, firsts = each.at_target
    stay = [first for first in firsts if first is not None]
    if each.run.config.data != "mnist":
        pass
    elif count:
        held = f"{len(stay)} of {len(firsts)} seed(s) stay there"
        held += f" (from epoch {statistics.median_low(stay)}, the median)" if stay else ""
        parts.append(f"99.4 % or more in {count:.3g} of {epochs} epochs; {held}.")
    else:
        parts.append("No seed reaches 99.4 % in any epoch.")
    if each.notebook:
        best, epoch, share = each.notebook
        where = f"above the best of {100 * share:.0f} % of our seeds"
        parts.append(f"The notebook's best, {100 * best:.2f} % (epoch {epoch}), is {where}.")
    if len(each.run.seeds) == 1:
        parts.append("One seed: neither its spread nor a difference can be concluded.")
    return " ".join(parts)


def drill_table(found: Sequence[Evidence]) -> Table:
    """One line a run: what the README shows."""
    rows = []
    for each in found:
        notebook = f"{100 * each.notebook[0]:.2f} ({each.notebook[1]})" if each.notebook else "-"
        rows.append([
            each.run.name, each.run.config.data, f"{each.run.about['parameters']:,}", f"{each.run.epochs}",
            f"{len(each.run.seeds)}", _percent(each.last), _interval(each.last), _percent(each.best), notebook,
        ])  # fmt: skip
    header = ["step", "data", "parameters", "epochs", "seeds", "last test %", "95 % interval", "best test %",
              "notebook's best % (epoch)"]  # fmt: skip
    return Table(header, rows)


def steps_table(found: Sequence[Evidence]) -> Table:
    """Everything that is counted of each run, a column each."""

    def row(name: str, text: Callable[[Evidence], str]) -> list[str]:
        return [name, *map(text, found)]

    def stays(each: Evidence) -> str:
        firsts = each.at_target[1]
        stay = [first for first in firsts if first is not None]
        return f"{len(stay)} of {len(firsts)}" + (f", from {statistics.median_low(stay)}" if stay else "")

    def notebook(each: Evidence) -> str:
        return f"{100 * each.notebook[0]:.2f} ({each.notebook[1]})" if each.notebook else "-"

    def share_below(each: Evidence) -> str:
        return f"{100 * each.notebook[2]:.0f}" if each.notebook else "-"

    rows = [
        row("seeds", lambda each: f"{len(each.run.seeds)}"),
        row("test %, last epoch", lambda each: _percent(each.last)),
        row("95 % interval of its mean", lambda each: _interval(each.last)),
        row("test %, best epoch (chosen by the test)", lambda each: _percent(each.best)),
        row("95 % interval of its mean", lambda each: _interval(each.best)),
        row("train %, last epoch", lambda each: _percent(each.train)),
        row("train minus test, points", lambda each: _percent(each.gap)),
        row("notebook's best test % (epoch)", notebook),
        row("our seeds whose best is below that, %", share_below),
        row("ensemble of the seeds, test %", lambda each: f"{100 * each.ensemble:.2f}" if each.ensemble else "-"),
    ]
    if found[0].disputed:
        rows += [
            row("epochs at 99.4 % or more", lambda each: f"{each.at_target[0]:.3g}"),
            row("seeds that stay there, from epoch (median)", stays),
            row("wrong of the 15 disputed labels", lambda each: f"{each.disputed[0]:.3g}" if each.disputed else "-"),
            row("test % without them", lambda each: f"{100 * each.disputed[1]:.2f}" if each.disputed else "-"),
        ]
    return Table(["", *(each.run.name for each in found)], rows)


def comparison_table(found: Sequence[Evidence]) -> Table:
    """Each run against the one before it."""
    rows = []
    for each in found:
        if change := each.change:
            interval = f"{_points(change.interval[0])} to {_points(change.interval[1])}" if change.interval else "-"
            ps = [f"{p:.2g}" if p is not None else "-" for p in (change.p_value, change.corrected)]
            rows.append(
                [each.run.name, change.before, f"{change.seeds}", _points(change.mean), interval, *ps, change.verdict]
            )
    header = ["step", "against", "seeds", "difference, points", "95 % interval", "p", "corrected p", "verdict"]
    return Table(header, rows)


def _percent(values: Summary) -> str:
    deviation = f" ± {100 * values.deviation:.2f}" if values.deviation is not None else ""
    return f"{100 * values.mean:.2f}{deviation}"


def _interval(values: Summary) -> str:
    return f"{100 * values.interval[0]:.2f} to {100 * values.interval[1]:.2f}" if values.interval else "-"


def _points(share: float) -> str:
    return f"{100 * share:+.3f}"


def _augmentation(runs: Sequence[Run]) -> list[str | Strip]:
    """For each rotation in the runs: some digits, each as it is and then as training sees it."""
    blocks: list[str | Strip] = []
    shown: set[tuple[float, int]] = set()
    for run in runs:
        how = run.config.augmentation.rotation_degrees, run.config.augmentation.rotation_fill
        if not how[0] or how in shown or not run.images:
            continue
        shown.add(how)
        firsts = [int(np.argmax(run.labels == digit)) for digit in (2, 4, 7)]
        alt = f"the digits 2, 4 and 7 as they are, and eleven times rotated by up to {how[0]:g} degrees"
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


def _explorer(found: Sequence[Evidence]) -> list[str | Table]:
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


def _details(each: Evidence) -> list[Section]:
    """What a single run has to show."""
    from jaxdrill import models

    run, before = each.run, each.before
    old: dict[str, object] = {name: value for name, _, value in options(before.config)} if before else {}
    new = {name: value for name, _, value in options(run.config)} | {"network": _network(run)}
    old |= {"network": _network(before)} if before else {}
    changed = [[f"`{name}`", f"{old.get(name)}", f"{value}"] for name, value in new.items() if old.get(name) != value]
    changed = [row for row in changed if row[0] not in ("`goal`", "`seed`", "`seeds`")]
    layers = models.layer_table(run.config)
    rows = [[row.layer, f"{row.side}x{row.side}x{row.channels}", f"{row.receptive_field}x{row.receptive_field}",
             f"{row.parameters:,}", f"{row.operations:,}"] for row in layers]  # fmt: skip
    total = [
        "total",
        "",
        "",
        f"{sum(row.parameters for row in layers):,}",
        f"{sum(row.operations for row in layers):,}",
    ]
    seconds = run.about["seconds"]
    time = [[phase, f"{value:,.1f}", f"{100 * value / sum(seconds.values()):.1f}"] for phase, value in seconds.items()]
    differs: list[str | Table] = (
        [Table(["field", before.name, run.name], changed)] if before else ["It is the first here."]
    )
    header = ["layer", "output", "receptive field", "parameters", "multiply-adds an image"]
    return [
        Section("Difference from the step before", differs, 3),
        Section("Layers", [Table(header, [*rows, total])], 3),
        Section("Confusion matrix", [CONFUSION, _confusion(run)], 3),
        Section("Most wrongly classified", [WORST, Gallery(_worst(each))], 3),
        Section("Time", [Table(["phase", "seconds, all seeds", "%"], time)], 3),
    ]


CONFUSION = "Rows are labels, columns answers; test images a seed, the mean over the seeds after the last epoch."
WORST = "The wrong images whose label has the smallest averaged probability: the label, and what is said instead."


def _network(run: Run) -> str:
    """The layers in short."""
    from jaxdrill import models

    return ", ".join(f"{row.layer} to {row.channels}" for row in models.layer_table(run.config))


def _confusion(run: Run) -> Table:
    counts = np.zeros((10, 10))
    for predicted in run.predicted:
        np.add.at(counts, (run.labels, predicted), 1 / len(run.seeds))
    rows = [
        [f"{i}", *(f"{value:.1f}".removesuffix(".0") if value else "·" for value in row)]
        for i, row in enumerate(counts)
    ]
    return Table(["label", *map(str, range(10))], rows)


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


def _measured(runs: Sequence[Run]) -> list[str | Table]:
    """Commands, versions, machines and data."""
    rows = []
    for run in runs:
        for session in (*run.about["earlier_sessions"], run.about):
            versions = ", ".join(f"{name} {number}" for name, number in session["versions"].items())
            machine = f"{session['processor']}; {len(session['devices'])} x {session['devices'][0].split(' ', 1)[-1]}"
            rows.append(
                [
                    run.name,
                    f"`{' '.join(run.about['command'])}`",
                    versions,
                    machine,
                    f"{session['git_commit'] or '-'}"[:10],
                ]
            )
    return [
        f"Data: {runs[0].config.data}, SHA-256 {runs[0].about['dataset_sha256']}.",
        Table(["step", "command", "versions", "machine", "commit"], rows),
        "Intervals of means: bootstrap (BCa, Efron 1987, 9,999 resamples). Differences: paired t-test. Ensemble: the "
        "seeds' probabilities averaged. Training accuracy is measured while training, with dropout and augmentation.",
    ]


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # a few rotations: no accelerator need be taken for them
    sys.exit(main())

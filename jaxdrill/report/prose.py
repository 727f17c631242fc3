"""What the numbers say, in sentences."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from jaxdrill.report.analysis import Analysis
from jaxdrill.report.tables import percent, points
from jaxdrill.runs.reader import FinishedRun


def verdict(analyses: Sequence[Analysis]) -> str:
    """Say in one sentence which steps helped, and then how accurate the best one is."""
    best = max(analyses, key=lambda a: a.last.mean)
    seeds = "a single seed" if len(best.run.seeds) == 1 else f"{len(best.run.seeds)} seeds"
    level = f"{percent(best.last)} % of the {len(best.run.labels):,} {best.run.split} images right after the last epoch"
    if len(analyses) == 1:
        return f"{best.label} gets {level} ({seeds})."
    verdicts = {a.label: a.change.verdict for a in analyses if a.change}
    parts = []
    for word in ("helped", "hurt"):
        if names := [name for name, found in verdicts.items() if found == word]:
            parts.append(f"{', '.join(names)} {word}")
    for word, count in Counter(verdicts.values()).items():
        if word not in ("helped", "hurt"):
            verb = ("has a", "have a") if word == "single seed" else ("is", "are")
            parts.append(f"{count} of {len(verdicts)} comparisons {verb[count > 1]} {word}")
    opening = "; ".join(parts) if parts else "No two runs here can be compared"
    return f"{opening[0].upper()}{opening[1:]}. The highest mean is that of {best.label}: {level} ({seeds})."


def describe(analysis: Analysis) -> str:
    """Say what the numbers of a run show."""
    single = len(analysis.run.seeds) == 1
    parts = [_change(analysis), _gap(analysis)]
    if analysis.has_target:
        parts.append(_target(analysis))
    if analysis.notebook:
        best, epoch, fraction = analysis.notebook
        ours = (
            ""
            if single
            else f"; the best epoch of {100 * fraction:.0f} % of our seeds is below that"
        )
        parts.append(f"The notebook's best is {100 * best:.2f} % (epoch {epoch + 1}){ours}.")
    if single:
        parts.append(
            "A single seed shows neither the spread over seeds nor whether a change helped."
        )
    return " ".join(parts)


def _change(analysis: Analysis) -> str:
    """Say how a run differs from its baseline."""
    change, baseline = analysis.change, analysis.baseline
    if baseline is None:
        return "It is compared with no run here."
    if change is None:
        return f"It has no seed in common with {baseline.name}."
    span = (
        f" ({points(change.interval[0])} to {points(change.interval[1])})"
        if change.interval
        else ""
    )
    text = f"{points(change.mean)} points{span} against {change.baseline}: {change.verdict}."
    if change.verdict == "inconclusive" and change.detectable is not None:
        text += f" The smallest difference that {change.seeds} seeds detect is {100 * change.detectable:.3f} points."
    return text


def _gap(analysis: Analysis) -> str:
    """Say how much better the training images are classified, in evaluation mode."""
    gap = analysis.gap
    if gap is None:
        return "The accuracy on training images in evaluation mode was not measured."
    span = f" ({points(gap.interval[0])} to {points(gap.interval[1])})" if gap.interval else ""
    return f"In evaluation mode, training minus {analysis.run.split} accuracy is {points(gap.mean)} points{span}."


def _target(analysis: Analysis) -> str:
    """Say how often, and from which epoch on, 99.4 % is reached."""
    count, stay, first = analysis.at_target
    seeds = len(analysis.run.seeds)
    if not count:
        return (
            "99.4 % is reached in no epoch."
            if seeds == 1
            else "No seed reaches 99.4 % in any epoch."
        )
    text = f"99.4 % or more in {count:.3g} of {analysis.run.epochs} epochs"
    held = (
        ""
        if seeds == 1
        else f"; {stay} of {seeds} seeds stay there for their last three epochs or more"
    )
    since = f" (from epoch {first + 1}, the median)" if held and first is not None else ""
    return f"{text}{held}{since}."


def caveats(runs: Sequence[FinishedRun]) -> list[str]:
    """List what a reader must know before comparing runs of one dataset, each line naming the folder."""
    lines, most = [], max(len(run.seeds) for run in runs)
    for run in runs:
        if len(run.seeds) == 1:
            lines.append(
                f"{run.folder} has a single seed: the spread over seeds is unknown, so no change is certain."
            )
        elif len(run.seeds) < most:
            lines.append(
                f"{run.folder} has {len(run.seeds)} seeds, others {most}: common seeds are compared."
            )
        if run.left_out:
            seeds = ", ".join(map(str, run.left_out))
            lines.append(
                f"{run.folder} holds seed(s) {seeds} with another number of epochs, which are left out."
            )
        made_by = [
            (_made_by(each), each["git_commit"])
            for each in (run.metadata, *run.metadata["earlier_sessions"])
        ]
        if len(set(made_by)) > 1:
            lines.append(
                f"{run.folder} was trained in sessions of different versions or machines (last section)."
            )
    if len({run.epochs for run in runs}) > 1:
        lines.append(
            "The runs have different numbers of epochs. Each is evaluated after its own last epoch."
        )
    if bare := ", ".join(f"{run.folder}" for run in runs if not run.images):
        lines.append(f"No images.npz is in {bare}: pictures of images are left out.")
    if len({_made_by(run.metadata) for run in runs}) > 1:
        lines.append(
            "The runs were made by different versions or machines (last section). Accuracies of the same seed on other "
            "devices are statistically equivalent, not identical."
        )
    return lines


def _made_by(session: dict[str, Any]) -> str:
    """Return what can change the bits of a session, as text."""
    return str([session[key] for key in ("versions", "devices", "processor")])

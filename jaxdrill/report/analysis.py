"""The results of each run over its seeds, and its comparison with a baseline.

Accuracies are fractions from 0 to 1.
"""

import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median_low

import numpy as np
from scipy import stats

from jaxdrill.config import options, recipe_folder, resolve, steps
from jaxdrill.config.config import Config
from jaxdrill.config.layers import layer_table
from jaxdrill.report.statistics import (
    Difference,
    Summary,
    correct,
    difference,
    epochs_at_target,
    summary,
)
from jaxdrill.runs.reader import FinishedRun

# Indices of the MNIST test labels that most people reject. Source: Northcutt, Athalye and Mueller,
# "Pervasive label errors in test sets destabilize machine learning benchmarks", 2021
# (github.com/cleanlab/label-errors, mnist_mturk.json).
DISPUTED = [947, 1621, 1901, 2130, 2462, 2597, 2654, 3520, 3558, 5937, 6651, 6783, 8527, 9679, 9729]


def notebook_accuracies(name: str, epochs: int) -> list[float]:
    """Return the test accuracies that a step's original notebook printed, at most `epochs`.

    The list is empty for a recipe that has no notebook.
    """
    table = tomllib.loads((recipe_folder() / "notebook_results.toml").read_text("utf-8"))
    return [percent / 100 for percent in table.get(name, [])[:epochs]]


@dataclass(frozen=True)
class Analysis:
    """The results of a run. Accuracies are those of the evaluated images unless stated otherwise.

    Attributes:
        run: the run.
        label: name of the recipe; for several runs of a recipe, also the folder and the fields
            that differ.
        baseline: the run that this run is compared with, or None.
        change: difference from the baseline; None without a baseline or without a common seed.
    """

    run: FinishedRun
    label: str
    baseline: FinishedRun | None
    change: Difference | None

    @cached_property
    def last(self) -> Summary:
        """Accuracy after the last epoch."""
        return summary(self.run.metrics["accuracy"][:, -1])

    @cached_property
    def best(self) -> Summary:
        """Accuracy of the best epoch of each seed, which is selected on the same images."""
        return summary(self.run.metrics["accuracy"].max(axis=1))

    @cached_property
    def train(self) -> Summary | None:
        """Training accuracy in evaluation mode after the last epoch; None if not measured."""
        return None if self.run.train_evaluation is None else summary(self.run.train_evaluation)

    @cached_property
    def gap(self) -> Summary | None:
        """Training minus evaluated accuracy, both in evaluation mode; None if not measured."""
        if self.run.train_evaluation is None:
            return None
        return summary(self.run.train_evaluation - self.run.metrics["accuracy"][:, -1], low=-1)

    @property
    def has_target(self) -> bool:
        """True for MNIST's test images: target, notebooks and disputed labels belong to them."""
        return self.run.dataset == "mnist"

    @cached_property
    def at_target(self) -> tuple[float, int, int | None]:
        """Epochs at 99.4 % or more.

        Their mean number over the seeds; the number of seeds that stay there (`epochs_at_target`);
        the lower median of the first epoch from which these seeds stay, counted from 0.
        """
        counts, firsts = zip(*map(epochs_at_target, self.run.metrics["accuracy"]), strict=True)
        stay = [first for first in firsts if first is not None]
        return float(np.mean(counts)), len(stay), median_low(stay) if stay else None

    @cached_property
    def notebook(self) -> tuple[float, int, float] | None:
        """The best test accuracy of the notebook within this run's number of epochs.

        The accuracy; its epoch, counted from 0; the fraction of seeds whose best accuracy is lower.
        A seed with an equal accuracy counts half. None without a notebook.
        """
        curve = notebook_accuracies(self.run.name, self.run.epochs) if self.has_target else []
        if not curve:
            return None
        best, ours = max(curve), np.round(self.run.metrics["accuracy"].max(axis=1), 6)
        below = stats.percentileofscore(ours, round(best, 6), kind="mean") / 100
        return best, curve.index(best), float(below)

    @cached_property
    def probabilities(self) -> np.ndarray:
        """Probabilities of each evaluated image, averaged over the seeds, float64[N, 10]."""
        return self.run.probabilities.astype(np.float64).mean(axis=0)

    @cached_property
    def ensemble(self) -> float | None:
        """Accuracy of the averaged probabilities; None for a single seed."""
        if len(self.run.seeds) == 1:
            return None
        return float(np.mean(self.probabilities.argmax(axis=-1) == self.run.labels))

    @cached_property
    def disputed(self) -> tuple[float, float] | None:
        """Predictions on the images with disputed labels; None for other images than MNIST's test.

        The mean number of disputed labels that a seed contradicts; the accuracy on the other
        images.
        """
        if not self.has_target or len(self.run.labels) <= max(DISPUTED):
            return None
        right = self.run.predicted == self.run.labels
        contradicted = (~right[:, DISPUTED]).sum(axis=1).mean()
        return float(contradicted), float(np.delete(right, DISPUTED, axis=1).mean())


def analyze(runs: Sequence[FinishedRun]) -> list[Analysis]:
    """Analyse runs that were evaluated on the same images, and compare each with its baseline.

    The baseline of a run is a run of the recipe that it extends. If there are several, the baseline
    is the first with the same number of epochs, else the plain recipe. Further runs of one recipe,
    with other flags or epochs, are compared with the plain recipe. Other runs have no baseline:
    unrelated recipes differ in too many fields to name a cause.
    """
    recipes = {run.name: [other for other in runs if other.name == run.name] for run in runs}
    references = {name: _reference(members) for name, members in recipes.items()}
    labels = {key: label for members in recipes.values() for key, label in _labels(members)}
    baselines = [_baseline(run, runs, references) for run in runs]
    changes = [
        _compare(run, baseline, labels[id(baseline)]) if baseline else None
        for run, baseline in zip(runs, baselines, strict=True)
    ]
    each = zip(runs, baselines, correct(changes), strict=True)
    return [Analysis(run, labels[id(run)], baseline, change) for run, baseline, change in each]


def group_runs(runs: Sequence[FinishedRun]) -> list[list[Analysis]]:
    """Analyse runs in groups that were evaluated on the same images, in the order of the runs."""
    groups: list[list[FinishedRun]] = []
    for run in runs:
        for group in groups:
            if group[0].same_images(run):
                group.append(run)
                break
        else:
            groups.append([run])
    return [analyze(group) for group in groups]


def changed_fields(old: Config, new: Config) -> dict[str, tuple[str, str]]:
    """Return the recipe fields that differ: the dotted name, and both values as text.

    Fields that cannot change the results of a seed are ignored.
    """
    before = _fields(old)
    return {k: (before[k], value) for k, value in _fields(new).items() if before[k] != value}


def _fields(config: Config) -> dict[str, str]:
    """Return every field of a recipe that can change the results of a seed, as text."""
    network = ", ".join(f"{row.layer} to {row.channels}" for row in layer_table(config.network))
    ignored = ("goal", "seed", "seeds", "data", "evaluate_on")
    return {"network": network} | {
        name: f"{value}"
        for name, _, value in options(config)
        if name not in ignored and not name.startswith("execution.")
    }


def _reference(runs: Sequence[FinishedRun]) -> FinishedRun:
    """Return the run of a recipe that the other runs of the recipe are compared with.

    For a built-in recipe it is the run with the fewest changed fields, else the first run.
    """
    if len(runs) == 1 or runs[0].name not in steps():
        return runs[0]
    plain = resolve(runs[0].name)
    return min(runs, key=lambda run: len(changed_fields(plain, run.config)))


def _baseline(
    run: FinishedRun, runs: Sequence[FinishedRun], references: dict[str, FinishedRun]
) -> FinishedRun | None:
    """Return the baseline of a run, as `analyze` defines it.

    `references` contains the reference run of each recipe.
    """
    reference, extended = references[run.name], run.config.extends
    if run is not reference:  # A repetition without a changed field has no baseline.
        return reference if changed_fields(reference.config, run.config) else None
    if extended == run.name:
        return None
    same_epochs = (each for each in runs if each.name == extended and each.epochs == run.epochs)
    return next(same_epochs, references.get(extended))


def _compare(run: FinishedRun, baseline: FinishedRun, label: str) -> Difference | None:
    """Compare the last accuracies of the seeds that both runs have; None without a common seed."""
    common = sorted(set(run.seeds) & set(baseline.seeds))
    if not common:
        return None
    old, new = (
        each.metrics["accuracy"][[each.seeds.index(seed) for seed in common], -1]
        for each in (baseline, run)
    )
    return difference(label, old, new)


def _labels(members: Sequence[FinishedRun]) -> Iterator[tuple[int, str]]:
    """Yield the id and a distinct label of each run of one recipe.

    The label of several runs is the recipe's name, the folder unless it is named after the recipe,
    and the values of the fields that differ. Equal folder names are shown with their path.
    """
    fields = [_fields(run.config) for run in members]
    differing = [name for name in fields[0] if len({each[name] for each in fields}) > 1]
    same_names = len({run.folder.name for run in members}) < len(members)
    for run, own in zip(members, fields, strict=True):
        folder = f"{run.folder}" if same_names else run.folder.name
        if len(members) == 1 or folder in (run.name, f"{run.name}_{run.config.data}"):
            folder = ""
        own["network"] = f"{run.metadata['parameters']:,} parameters"
        values = [own[name] if name == "network" else f"{name} {own[name]}" for name in differing]
        details = ": ".join(filter(None, (folder, ", ".join(values))))
        yield id(run), f"{run.name} ({details})" if details else run.name

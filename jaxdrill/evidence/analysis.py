"""What the seeds of each run show, and whether its step helped. Accuracies are fractions in 0..1."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median_low

import numpy as np
from scipy import stats

from jaxdrill.config import recipe_folder
from jaxdrill.evidence.statistics import Difference, Summary, corrected, difference, epochs_at_target, summary
from jaxdrill.runs.reader import Run

# The test labels that most people reject, by index from 0: Northcutt, Athalye and Mueller, "Pervasive label errors in
# test sets destabilize machine learning benchmarks", 2021 (github.com/cleanlab/label-errors, mnist_mturk.json).
DISPUTED = [947, 1621, 1901, 2130, 2462, 2597, 2654, 3520, 3558, 5937, 6651, 6783, 8527, 9679, 9729]


def notebook(name: str, epochs: int) -> list[float]:
    """The test accuracies that the original notebook of a step printed, of as many epochs; none if it has none."""
    table = tomllib.loads((recipe_folder() / "notebook_results.toml").read_text("utf-8"))
    return [percent / 100 for percent in table.get(name, [])[:epochs]]


@dataclass(frozen=True)
class Analysis:
    """A run, and what its seeds show. Accuracies without a split are those of the run's evaluated images."""

    run: Run
    label: str  # the run's name, and its epochs where there are several of it
    baseline: Run | None  # the run that it is compared with
    change: Difference | None  # from it

    @cached_property
    def last(self) -> Summary:
        """Accuracy after the last epoch."""
        return summary(self.run.metrics["accuracy"][:, -1])

    @cached_property
    def best(self) -> Summary:
        """Accuracy of each seed's best epoch. The epoch is chosen by the evaluated images, so it is too high."""
        return summary(self.run.metrics["accuracy"].max(axis=1))

    @cached_property
    def train(self) -> Summary:
        """Training accuracy of the last epoch, measured while training, with dropout and augmentation."""
        return summary(self.run.metrics["train_accuracy"][:, -1])

    @cached_property
    def gap(self) -> Summary:
        """Training minus evaluated accuracy, last epoch."""
        return summary(self.run.metrics["train_accuracy"][:, -1] - self.run.metrics["accuracy"][:, -1])

    @property
    def has_target(self) -> bool:
        """Whether the drill's target, the notebooks' results and the disputed labels are of the evaluated images."""
        return self.run.dataset == "mnist"

    @cached_property
    def at_target(self) -> tuple[float, int, int | None]:
        """The mean number of epochs at 99.4 % or more, how many seeds stay there to the end, and from which epoch on,
        counted from 0 (their lower median)."""
        counted = [epochs_at_target(curve) for curve in self.run.metrics["accuracy"]]
        stay = [first for _, first in counted if first is not None]
        return float(np.mean([count for count, _ in counted])), len(stay), median_low(stay) if stay else None

    @cached_property
    def notebook(self) -> tuple[float, int, float] | None:
        """The notebook's best test accuracy over as many epochs, its epoch from 0, and the fraction of our seeds whose
        own best is lower (equal ones count half)."""
        curve = notebook(self.run.name, self.run.epochs) if self.has_target else []
        if not curve:
            return None
        ours = np.round(self.run.metrics["accuracy"].max(axis=1), 6)
        best = max(curve)
        return best, curve.index(best), float(stats.percentileofscore(ours, round(best, 6), kind="mean")) / 100

    @cached_property
    def ensemble(self) -> float | None:
        """Accuracy of the seeds' averaged probabilities; None of a single seed."""
        if len(self.run.seeds) == 1:
            return None
        return float(np.mean(self.probabilities.argmax(axis=-1) == self.run.labels))

    @cached_property
    def probabilities(self) -> np.ndarray:
        """Of each evaluated image and class, the mean over the seeds, float64[N, 10]."""
        return self.run.probabilities.astype(np.float64).mean(axis=0)

    @cached_property
    def disputed(self) -> tuple[float, float] | None:
        """Mean number of the disputed labels that a seed contradicts, and its accuracy on the other images; MNIST's
        test only."""
        if not self.has_target or len(self.run.labels) <= max(DISPUTED):
            return None
        right = self.run.predicted == self.run.labels
        return float((~right[:, DISPUTED]).sum(axis=1).mean()), float(np.delete(right, DISPUTED, axis=1).mean())


def analyze(runs: Sequence[Run]) -> list[Analysis]:
    """What runs of one dataset show. Each is compared with its own recipe of fewer epochs, or the one that its recipe
    extends, or the one before it, whichever is here; each after its own last epoch."""
    names = [run.name for run in runs]
    labels = [f"{run.name} ({run.epochs} epochs)" if names.count(run.name) > 1 else run.name for run in runs]
    baselines: list[Run | None] = []
    differences: list[Difference | None] = []
    for n, run in enumerate(runs):
        same = [other for other in runs[:n] if other.name == run.name]
        extended = [other for other in runs if other.name == run.config.extends]
        alike = [other for other in extended if other.epochs == run.epochs]
        baseline = next(iter(same[-1:] or alike or extended or runs[:n][-1:]), None)
        common = sorted(set(run.seeds) & set(baseline.seeds)) if baseline else []
        baselines.append(baseline)
        if baseline and common:
            label = next(label for other, label in zip(runs, labels, strict=True) if other is baseline)
            differences.append(difference(label, _last(baseline, common), _last(run, common)))
        else:
            differences.append(None)
    return [Analysis(*each) for each in zip(runs, labels, baselines, corrected(differences), strict=True)]


def _last(run: Run, seeds: Sequence[int]) -> np.ndarray:
    """The last accuracies of these seeds."""
    return run.metrics["accuracy"][[run.seeds.index(seed) for seed in seeds], -1]

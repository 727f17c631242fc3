"""The commands `jaxdrill check` and `jaxdrill verify`, which test the results of a run."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from jaxdrill.errors import CheckFailed, Parser, UsageError, say

if TYPE_CHECKING:
    import numpy as np

CHECK = """\
Compare the mean accuracy of the seeds after the last epoch with a minimum, for each run.
The exit code is 0 if all runs pass, otherwise 3.

examples:
  jaxdrill check runs/step_5 --min-accuracy 0.994               # mean is at least 99.4 %
  jaxdrill check runs --min-accuracy 0.99                       # all runs in a folder
  jaxdrill check runs/step_5 --min-accuracy 0.994 --confident   # t-test: mean is above 99.4 %"""

VERIFY = """\
Train the first epochs of a run twice, once without interruption and once stopped and resumed.
The exit code is 0 if all bits of the two trainings are equal, otherwise 3. The run is not changed.

examples:
  jaxdrill verify runs/step_5                               # the first two epochs
  jaxdrill verify runs/step_5 --epochs 1                    # faster
  jaxdrill verify runs/step_5 --data-dir mnist --offline    # without internet access"""

OFFLINE = "do not access the internet; read data only from --data-dir or the cache"


def check_parser() -> Parser:
    """Return the parser of `jaxdrill check`."""
    made = Parser("jaxdrill check", CHECK)
    made.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="run folder, or a folder of run folders"
    )
    made.add_argument(
        "--min-accuracy",
        type=_fraction,
        required=True,
        metavar="FLOAT",
        help="minimum of the mean accuracy, from 0 to 1, such as 0.994",
    )
    made.add_argument(
        "--confident",
        action="store_true",
        help="also require that a one-sided t-test over the seeds shows a mean above the minimum",
    )
    made.add_argument(
        "--alpha",
        type=_fraction,
        metavar="FLOAT",
        help="significance level of the test; implies --confident (default: 0.05)",
    )
    return made


def verify_parser() -> Parser:
    """Return the parser of `jaxdrill verify`."""
    made = Parser("jaxdrill verify", VERIFY)
    made.add_argument("run", type=Path, metavar="RUN", help="run folder")
    made.add_argument(
        "--epochs", type=int, default=2, metavar="INT", help="epochs to train (default: 2)"
    )
    made.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="folder with four idx files, as for training"
    )
    made.add_argument("--offline", action="store_true", help=OFFLINE)
    return made


def check(arguments: list[str]) -> None:
    """Compare the mean accuracy of each run with a minimum.

    Raises:
        UsageError: the arguments are invalid.
        CheckFailed: a run does not reach the minimum.
        RunError: a run cannot be read.
    """
    options = check_parser().parse_args(arguments)
    alpha = options.alpha
    if alpha is None and options.confident:
        alpha = 0.05
    from jaxdrill.runs.reader import read_each

    failures = []
    for run in read_each(options.runs):
        passed, finding = _compare(run.metrics["accuracy"][:, -1], options.min_accuracy, alpha)
        line = f"{run.folder}: {run.split} {finding}"
        if passed:
            say(line)
        else:
            failures.append(line)
    if failures:
        raise CheckFailed("; ".join(failures))


def verify(arguments: list[str]) -> None:
    """Train the first epochs of a run again, and compare a stopped and resumed training bit by bit.

    Raises:
        UsageError: the arguments are invalid.
        CheckFailed: the trainings differ.
        RunError: the run cannot be read or trained.
    """
    options = verify_parser().parse_args(arguments)
    if options.epochs < 1:
        raise UsageError(f"--epochs is {options.epochs}; allowed: an integer >= 1")
    from jaxdrill.runs.folder import read_config
    from jaxdrill.runs.progress import stop_on_signal
    from jaxdrill.runs.verify import verify as train_twice
    from jaxdrill.training import devices

    devices.set_up_for([read_config(options.run)])
    with stop_on_signal() as stop:
        say(train_twice(options.run, options.epochs, stop, options.data_dir, options.offline))


def _compare(accuracies: "np.ndarray", minimum: float, alpha: float | None) -> tuple[bool, str]:
    """Compare the accuracies of a run with a minimum.

    Args:
        accuracies: accuracy of each seed after the last epoch, float64[S], 0..1.
        minimum: minimum of the mean over the seeds, 0..1.
        alpha: significance level of a one-sided t-test for a mean above the minimum; None for no
            test.

    Returns:
        Whether the run passes, and the finding as text.
    """
    from jaxdrill.report import statistics

    mean, seeds = accuracies.mean(), len(accuracies)
    measured = f"{100 * mean:g} % over {seeds} seed{'s' if seeds > 1 else ''}"
    wanted = f"{100 * minimum:g} %"
    if mean < minimum - 1e-9:  # Rounding errors of the mean are smaller.
        return False, f"{measured}, below {wanted}"
    if alpha is None:
        return True, f"{measured}, at least {wanted}"
    p_value = statistics.one_sided_p_value(accuracies, minimum)
    if p_value is None:
        few = seeds < statistics.MIN_SEEDS
        why = "a test needs at least 3 seeds" if few else "all seeds are equal"
        finding = f"whether the mean is above {wanted} is inconclusive: {why}. Train more --seeds"
        return False, f"{measured}; {finding}"
    test = f"p = {p_value:.2g}, alpha = {alpha:g}"
    if p_value >= alpha:
        return False, f"{measured}; the mean is not shown to be above {wanted} ({test})"
    return True, f"{measured}; the mean is above {wanted} ({test})"


def _fraction(text: str) -> float:
    """Convert the text of a flag to a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if 0 <= value <= 1:
        return value
    meant = f"; did you mean {value / 100:g}?" if 1 < value <= 100 else ""
    raise argparse.ArgumentTypeError(f"{text} is not a number from 0 to 1{meant}")

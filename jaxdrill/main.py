"""The command line: `python -m jaxdrill.main --step 5`.

argparse, not tyro: every flag goes through the recipe's own reader, so a flag and a TOML key share one check and one
line of complaint, and `--help` needs no further import.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING

from jaxdrill import config as recipe
from jaxdrill.config.schema import describe
from jaxdrill.errors import CheckFailed, Parser, UsageError, exit_code, say, show

if TYPE_CHECKING:
    import numpy as np

COMMANDS = {"train": "python -m jaxdrill.main"}
COMMANDS |= {name: f"python -m jaxdrill.main {name}" for name in ("check", "verify")}
COMMANDS |= {name: f"python -m jaxdrill.{name}" for name in ("report", "predict", "export", "page")}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code, as `errors.exit_code` says."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    others = {"check": _check, "verify": _verify}
    name = next(iter(arguments), "")
    return exit_code(lambda: others[name](arguments[1:]) if name in others else _train(arguments))


def _train(arguments: list[str]) -> None:
    options, flags = _parse(arguments)
    several = options.step == "all"
    configs = recipe.load_all(flags) if several else [recipe.load(options.step, flags)]
    if options.dry_run:
        return _dry_run(configs)
    # Here, not above: `--help`, `--dry-run` and most mistakes are answered before JAX has loaded.
    from jaxdrill.runs.progress import stop_on_signal
    from jaxdrill.runs.session import train
    from jaxdrill.training import devices, processes

    command = [
        "python",
        "-m",
        "jaxdrill.main",
        *(argument for argument in arguments if argument != "--restart"),
    ]
    workdir = None if several else options.workdir
    parent = options.workdir if several and options.workdir else Path("runs")

    with processes.distributed(options.distributed):
        devices.set_up_for(configs)
        with stop_on_signal() as stop:
            folders = [
                train(
                    config,
                    workdir,
                    stop,
                    options.data_dir,
                    options.offline,
                    command,
                    parent,
                    options.restart,
                )
                for config in configs
            ]
        if processes.is_first():
            from jaxdrill.report.page import summary  # here, so that training need not wait for it

            report = ["python", "-m", "jaxdrill.report", f"{parent if several else folders[0]}"]
            width = get_terminal_size((100, 24)).columns
            say("", *summary(folders, width).splitlines(), "", f"report: {shlex.join(report)}")


def _verify(arguments: list[str]) -> None:
    """`verify RUN`: whether this machine continues a run to the same bits, and repeats its numbers."""
    about = "Trains the first epochs of a run again, aside, once in one go and once stopped and continued several "
    about += "times, and compares every bit. Exits with 0 if all are equal, else with 3."
    parser = Parser(prog="python -m jaxdrill.main verify", description=about, allow_abbrev=False)
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder")
    parser.add_argument(
        "--epochs", type=int, default=2, metavar="N", help="how many epochs (default: 2)"
    )
    parser.add_argument("--data-dir", type=Path, help="folder with four idx files, as for training")
    parser.add_argument("--offline", action="store_true", help="make no network call")
    options = parser.parse_args(arguments)
    if options.epochs < 1:
        raise UsageError(f"--epochs is {options.epochs}; allowed: a whole number of at least 1")
    from jaxdrill.runs.folder import read_config
    from jaxdrill.runs.progress import stop_on_signal
    from jaxdrill.runs.verify import verify
    from jaxdrill.training import devices

    devices.set_up_for([read_config(options.run)])
    with stop_on_signal() as stop:
        say(verify(options.run, options.epochs, stop, options.data_dir, options.offline))


def _check(arguments: list[str]) -> None:
    """Run `check RUN --min-accuracy 0.994`: compare the mean accuracy of each run with a minimum."""
    about = "Exits with 0 if the accuracy after the last epoch, the mean over the seeds, is at least a minimum in each "
    about += "run, else with 3."
    parser = Parser(prog="python -m jaxdrill.main check", description=about, allow_abbrev=False)
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="run folder, or a folder of run folders"
    )
    parser.add_argument(
        "--min-accuracy",
        type=_fraction,
        required=True,
        metavar="X",
        help="from 0 to 1, such as 0.994",
    )
    parser.add_argument(
        "--confident",
        action="store_true",
        help="a one-sided t-test over the seeds must show, too, that the mean is above X",
    )
    parser.add_argument(
        "--alpha",
        type=_fraction,
        metavar="X",
        help="the test's p-value must be below this; implies --confident (default: 0.05)",
    )
    options = parser.parse_args(arguments)
    confident = options.confident or options.alpha is not None
    alpha = (0.05 if options.alpha is None else options.alpha) if confident else None
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


def _compare(accuracies: "np.ndarray", minimum: float, alpha: float | None) -> tuple[bool, str]:
    """Compare a run's accuracies with a minimum.

    Args:
        accuracies: of each seed after the last epoch, float64[S], 0..1.
        minimum: for the mean over the seeds, 0..1.
        alpha: upper bound of the p-value of a one-sided t-test for a mean above the minimum; None for no test.

    Returns:
        Whether the run passes, and what was found, in words.
    """
    from jaxdrill.report import statistics

    mean, seeds = accuracies.mean(), len(accuracies)
    measured = f"{100 * mean:g} % over {seeds} seed{'s' if seeds > 1 else ''}"
    wanted = f"{100 * minimum:g} %"
    if mean < minimum - 1e-9:  # rounding errors of the mean are smaller
        return False, f"{measured}, below {wanted}"
    if alpha is None:
        return True, f"{measured}, at least {wanted}"
    p_value = statistics.above(accuracies, minimum)
    if p_value is None:
        why = (
            "all seeds are equal"
            if seeds >= statistics.MIN_SEEDS
            else "a test needs at least 3 seeds"
        )
        return (
            False,
            f"{measured}; whether the mean is above {wanted} is inconclusive: {why}. Train more --seeds",
        )
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


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """The options of the command, and the flags that override the recipe, by dotted field name."""
    about = "Trains a step of the drill, or a recipe of your own."
    others = "other commands: python -m jaxdrill.main check RUN --min-accuracy X and verify RUN; python -m "
    others += "jaxdrill.report, predict, export and page, each with --help"
    parser = Parser(
        prog="python -m jaxdrill.main",
        description=about,
        epilog=others,
        allow_abbrev=False,
        add_help=False,
    )
    steps = [name.removeprefix("step_") for name in recipe.steps()]
    files = {word: word for word in arguments if word.endswith(".toml")}
    meant = {name: name for name in steps} | {f"step_{name}": name for name in steps} | files
    parser.words = COMMANDS | {word: f"--step {name}" for word, name in meant.items()}
    if arguments and not arguments[0].startswith("-"):
        parser.refuse(arguments[0])  # before --help, which would be that of training
    choices = f"{', '.join([*steps, 'all'])}, or the path of a .toml file (default: 5)"
    parser.add_argument("--step", default="5", help=choices)
    named, _ = parser.parse_known_args(arguments)
    parser.add_argument("--help", "-h", action="help", help="show this and exit")
    parser.add_argument(
        "--workdir",
        type=Path,
        help="run folder (default: runs/NAME, or runs/NAME_DATA; with all: folder of all runs)",
    )
    parser.add_argument(
        "--data-dir", type=Path, help="folder with four idx files: the official ones, or your own"
    )
    parser.add_argument("--offline", action="store_true", help="make no network call")
    parser.add_argument(
        "--restart", action="store_true", help="begin afresh; the old run folder gets another name"
    )
    parser.add_argument(
        "--distributed",
        nargs="?",
        const="auto",
        metavar="WHERE",
        help="be one of several processes: as SLURM, Open MPI, Kubernetes or Cloud TPU say, or HOST:PORT,NUMBER,COUNT, "
        "the address of process 0, this one's number from 0, and how many",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the resolved recipe and the layer table, and exit",
    )
    shown = recipe.resolve("5" if named.step == "all" else named.step)
    fields = {name: (info, value) for name, info, value in recipe.options(shown)}
    group = parser.add_argument_group(f"recipe (defaults of {shown.name})")
    for name, (info, value) in fields.items():
        about = f"{describe(info)} (default: {value})".replace("%", "%%")
        group.add_argument(
            _flag(name), dest=name, metavar="X", help=about, default=argparse.SUPPRESS
        )
    options = parser.parse_args(arguments)
    return options, {name: text for name, text in vars(options).items() if name in fields}


_flag = recipe.as_flag


def _dry_run(configs: Sequence[recipe.Config]) -> None:
    from jaxdrill.config.layers import layer_table

    for config in configs:
        fields = [
            f"  {_flag(name)} {shlex.quote(f'{value}')}"
            for name, _, value in recipe.options(config)
        ]
        show(config.name, *fields)
        rows = layer_table(config.network)
        show(f"  {'layer':42} {'output':>12} {'receptive field':>16} {'parameters':>11}")
        for row in rows:
            output, field = (
                f"{row.side}x{row.side}x{row.channels}",
                f"{row.receptive_field}x{row.receptive_field}",
            )
            show(f"  {row.layer:42} {output:>12} {field:>16} {row.parameters:11,}")
        show(f"  {'total':42} {'':12} {'':16} {sum(row.parameters for row in rows):11,}")


if __name__ == "__main__":
    sys.exit(main())

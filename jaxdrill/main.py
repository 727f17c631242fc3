"""The command line: `python -m jaxdrill.main --step 5`.

argparse, not tyro: every flag goes through the recipe's own reader, so a flag and a TOML key share one check and one
line of complaint, and `--help` needs no further import.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxdrill import config as recipe
from jaxdrill.errors import CheckFailed, Parser, UsageError, exit_code, nearest, say, show
from jaxdrill.schema import allowed


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code, as `errors.exit_code` says."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    others = {"check": _check, "verify": _verify}
    name = next(iter(arguments), "")
    return exit_code(lambda: others[name](arguments[1:]) if name in others else _train(arguments))


def _train(arguments: list[str]) -> None:
    options, flags = _parse(arguments)
    several = options.step == "all"
    configs = [recipe.load(name, flags) for name in (recipe.steps() if several else [options.step])]
    if options.dry_run:
        return _dry_run(configs)
    # Here, not above: `--help`, `--dry-run` and most mistakes are answered before JAX has loaded.
    from jaxdrill.runs.session import train
    from jaxdrill.runs.stopping import stop_on_signal
    from jaxdrill.training import backend, processes

    command = ["python", "-m", "jaxdrill.main", *(argument for argument in arguments if argument != "--restart")]
    workdir = None if several else options.workdir
    parent = options.workdir if several and options.workdir else Path("runs")

    def trained() -> None:
        backend.set_up_for(configs)
        with stop_on_signal() as stop:
            folders = [train(config, workdir, stop, options.data_dir, options.offline, command, parent, options.restart)
                       for config in configs]  # fmt: skip
        if processes.is_first():
            from jaxdrill.evidence.page import summary  # here, so that training need not wait for it

            report = ["python", "-m", "jaxdrill.report", f"{parent if several else folders[0]}"]
            say("", *summary(folders).splitlines(), f"report: {shlex.join(report)}")

    processes.together(options.distributed, trained)


def _verify(arguments: list[str]) -> None:
    """`verify RUN`: whether this machine continues a run to the same bits, and repeats its numbers."""
    about = "Trains the first epochs of a run again, aside, once in one go and once stopped and continued several "
    about += "times, and compares every bit. Exits with 0 if all are equal, else with 3."
    parser = Parser(prog="python -m jaxdrill.main verify", description=about, allow_abbrev=False)
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("--epochs", type=int, default=2, metavar="N", help="how many epochs (default: 2)")
    parser.add_argument("--data-dir", type=Path, help="folder with four idx files, as for training")
    parser.add_argument("--offline", action="store_true", help="make no network call")
    options = parser.parse_args(arguments)
    if options.epochs < 1:
        raise UsageError(f"--epochs is {options.epochs}; allowed: a whole number of at least 1")
    from jaxdrill.runs.stopping import stop_on_signal
    from jaxdrill.runs.verify import recipe_of, verify
    from jaxdrill.training import backend

    backend.set_up_for([recipe_of(options.run)])
    with stop_on_signal() as stop:
        say(verify(options.run, options.epochs, stop, options.data_dir, options.offline))


def _check(arguments: list[str]) -> None:
    """`check RUN --min-accuracy 0.994`: whether the seeds show that the accuracy of each run is above a minimum."""
    about = "Exits with 0 if the seeds of each run show that its mean last accuracy is above a minimum, else with 3."
    parser = Parser(prog="python -m jaxdrill.main check", description=about, allow_abbrev=False)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder, or a folder of run folders")
    parser.add_argument("--min-accuracy", type=_fraction, required=True, metavar="X", help="from 0 to 1, such as 0.994")
    parser.add_argument("--alpha", type=_fraction, default=0.05, metavar="X",
                        help="largest p-value of the one-sided t-test (default: 0.05)")  # fmt: skip
    options = parser.parse_args(arguments)
    from jaxdrill.evidence import statistics
    from jaxdrill.runs.reader import read_each

    failures = []
    for run in read_each(options.runs):
        accuracies = run.metrics["accuracy"][:, -1]
        p_value = statistics.above(accuracies, options.min_accuracy)
        measured = f"{run.folder}: {run.split} {100 * accuracies.mean():.2f} % over {len(accuracies)} seed(s)"
        minimum = f"{100 * options.min_accuracy:g} %"
        if p_value is None:
            why = "a single seed has no spread" if len(accuracies) == 1 else "the seeds are all equal"
            failures.append(f"{measured}; whether that is above {minimum} is inconclusive: {why}; train more --seeds")
        elif p_value >= options.alpha:
            failures.append(
                f"{measured}; not shown to be above {minimum} (p = {p_value:.2g}, alpha = {options.alpha:g})"
            )
        else:
            say(f"{measured}, above {minimum} (p = {p_value:.2g})")
    if failures:
        raise CheckFailed("; ".join(failures))


def _fraction(text: str) -> float:
    """A number from 0 to 1."""
    try:
        if 0 <= (value := float(text)) <= 1:
            return value
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text} is no number from 0 to 1")


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """The options of the command, and the flags that override the recipe, by dotted field name."""
    about = "Trains a step of the drill, or a recipe of your own."
    others = "other commands: python -m jaxdrill.main check RUN --min-accuracy X and verify RUN; python -m "
    others += "jaxdrill.report, predict, export and page, each with --help"
    parser = Parser(
        prog="python -m jaxdrill.main", description=about, epilog=others, allow_abbrev=False, add_help=False
    )
    steps = ", ".join([*(name.removeprefix("step_") for name in recipe.steps()), "all"])
    parser.add_argument("--step", default="5", help=f"{steps}, or the path of a .toml file (default: 5)")
    named, _ = parser.parse_known_args(arguments)
    parser.add_argument("--help", "-h", action="help", help="show this and exit")
    parser.add_argument(
        "--workdir", type=Path, help="run folder (default: runs/NAME, or runs/NAME_DATA; with all: folder of all runs)"
    )
    parser.add_argument("--data-dir", type=Path, help="folder with four idx files: the official ones, or your own")
    parser.add_argument("--offline", action="store_true", help="make no network call")
    parser.add_argument("--restart", action="store_true", help="begin afresh; the old run folder gets another name")
    parser.add_argument(
        "--distributed", nargs="?", const="auto", metavar="WHERE",
        help="be one of several processes: as SLURM, Open MPI, Kubernetes or Cloud TPU say, or HOST:PORT,NUMBER,COUNT, "
        "the address of process 0, this one's number from 0, and how many",
    )  # fmt: skip
    parser.add_argument(
        "--dry-run", action="store_true", help="print the resolved recipe and the layer table, and exit"
    )
    shown = recipe.load("5" if named.step == "all" else named.step)
    fields = {name: (info, value) for name, info, value in recipe.options(shown)}
    group = parser.add_argument_group(f"recipe (defaults of {shown.name})")
    for name, (info, value) in fields.items():
        about = f"{info.description}; {allowed(info)} (default: {value})".replace("%", "%%")
        group.add_argument(_flag(name), dest=name, metavar="X", help=about, default=argparse.SUPPRESS)
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        word = unknown[0].split("=")[0]
        known = [option for action in parser._actions for option in action.option_strings]
        raise UsageError(f"{word} is unknown{nearest(word, known)} (--help shows every flag)")
    return options, {name: text for name, text in vars(options).items() if name in fields}


_flag = recipe.as_flag


def _dry_run(configs: Sequence[recipe.Config]) -> None:
    from jaxdrill.nn.architecture import layer_table

    for config in configs:
        fields = [f"  {_flag(name)} {shlex.quote(f'{value}')}" for name, _, value in recipe.options(config)]
        show(config.name, *fields)
        rows = layer_table(config.network)
        show(f"  {'layer':42} {'output':>12} {'receptive field':>16} {'parameters':>11}")
        for row in rows:
            output, field = f"{row.side}x{row.side}x{row.channels}", f"{row.receptive_field}x{row.receptive_field}"
            show(f"  {row.layer:42} {output:>12} {field:>16} {row.parameters:11,}")
        show(f"  {'total':42} {'':12} {'':16} {sum(row.parameters for row in rows):11,}")


if __name__ == "__main__":
    sys.exit(main())

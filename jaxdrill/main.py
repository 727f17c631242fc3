"""The command line: `python -m jaxdrill.main --step 5`.

argparse, not tyro: every flag goes through the recipe's own reader, so a flag and a TOML key share one check and one
line of complaint, and `--help` needs no further import.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxdrill import config as recipe
from jaxdrill.errors import Failed, Parser, RunError, UsageError, complain, exit_code, nearest


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code, as `errors.exit_code` says."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return exit_code(lambda: _check(arguments[1:]) if arguments[:1] == ["check"] else _train(arguments))


def _train(arguments: list[str]) -> None:
    options, flags = _parse(arguments)
    names = recipe.steps() if options.step == "all" else [options.step]
    configs = [recipe.load(name, flags) for name in names]
    if options.dry_run:
        return _dry_run(configs)
    # Here, not above: `--help`, `--dry-run` and most mistakes are answered before JAX has loaded.
    from jaxdrill import models, parallel
    from jaxdrill.run import run

    parallel.set_up(max(map(models.activation_bytes, configs)))
    base = options.workdir or Path("runs")
    folders = [base / config.name if options.step == "all" or not options.workdir else base for config in configs]
    for config, folder in zip(configs, folders, strict=True):
        run(config, folder, options.data_dir, options.offline, ["python", "-m", "jaxdrill.main", *arguments])
    from jaxdrill import report  # here, so that training need not wait for it

    try:
        print(f"\n{report.summary(folders)}")
    except RunError as error:  # what was asked is trained; the folder may hold other seeds that are not
        complain(f"{error}")
    print(f"report: python -m jaxdrill.report {' '.join(map(str, folders))}")


def _check(arguments: list[str]) -> None:
    """`check RUN --min-accuracy 0.994`: whether the seeds show that the run's accuracy is above a minimum."""
    about = "Exits with 0 if the seeds of a run show that its mean last test accuracy is above a minimum, else with 3."
    parser = Parser(prog="python -m jaxdrill.main check", description=about, allow_abbrev=False)
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("--min-accuracy", type=_share, required=True, metavar="X", help="from 0 to 1, such as 0.994")
    parser.add_argument(
        "--alpha",
        type=_share,
        default=0.05,
        metavar="X",
        help="largest p-value of the one-sided t-test (default: 0.05)",
    )
    options = parser.parse_args(arguments)
    from jaxdrill import folder, statistics

    run = folder.read(options.run)
    accuracies = run.metrics["test_accuracy"][:, -1]
    p_value = statistics.above(accuracies, options.min_accuracy)
    found = f"{options.run}: {100 * accuracies.mean():.2f} % over {len(accuracies)} seed(s)"
    minimum = f"{100 * options.min_accuracy:g} %"
    if p_value is None:
        why = "one seed has no spread" if len(accuracies) == 1 else "the seeds are all equal"
        raise Failed(f"{found}; whether that is above {minimum} cannot be told: {why}; train more --seeds")
    if p_value >= options.alpha:
        raise Failed(f"{found}; not shown to be above {minimum} (p = {p_value:.2g}, alpha = {options.alpha:g})")
    print(f"{found}, above {minimum} (p = {p_value:.2g})")


def _share(text: str) -> float:
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
    others = "other commands: python -m jaxdrill.main check RUN --min-accuracy X; python -m jaxdrill.report RUN..."
    parser = Parser(
        prog="python -m jaxdrill.main", description=about, epilog=others, allow_abbrev=False, add_help=False
    )
    steps = ", ".join([*recipe.steps(), "all"])
    parser.add_argument("--step", default="5", help=f"{steps}, or the path of a .toml file (default: 5)")
    named, _ = parser.parse_known_args(arguments)
    parser.add_argument("--help", "-h", action="help", help="show this and exit")
    parser.add_argument("--workdir", type=Path, help="run folder (default: runs/NAME; with all: folder of all runs)")
    parser.add_argument("--data-dir", type=Path, help="folder with the four official idx .gz files")
    parser.add_argument("--offline", action="store_true", help="make no network call")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the resolved recipe and the layer table, and exit"
    )
    shown = recipe.load("5" if named.step == "all" else named.step)
    group = parser.add_argument_group(f"recipe (defaults of {shown.name})")
    for name, field, value in recipe.options(shown):
        about = f"{field.metadata['about']}; {field.metadata['allowed']} (default: {_text(value)})"
        group.add_argument(
            _flag(name), dest=name, metavar="X", help=about.replace("%", "%%"), default=argparse.SUPPRESS
        )
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        word = unknown[0].split("=")[0]
        known = [option for action in parser._actions for option in action.option_strings]
        raise UsageError(f"{word} is unknown{nearest(word, known)} (--help shows every flag)")
    flags = {name: text for name, text in vars(options).items() if name in {n for n, _, _ in recipe.options(shown)}}
    return options, flags


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _text(value: object) -> str:
    """A value as one would type it after its flag."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else f"{value}"


def _dry_run(configs: list[recipe.Config]) -> None:
    from jaxdrill import models

    for config in configs:
        print(f"{config.name}\n" + "\n".join(f"  {_flag(name)} {_text(v)}" for name, _, v in recipe.options(config)))
        rows = models.layer_table(config)
        print(f"  {'layer':42} {'output':>12} {'receptive field':>16} {'parameters':>11}")
        for row in rows:
            output, field = f"{row.side}x{row.side}x{row.channels}", f"{row.receptive_field}x{row.receptive_field}"
            print(f"  {row.layer:42} {output:>12} {field:>16} {row.parameters:11,}")
        print(f"  {'total':42} {'':12} {'':16} {sum(row.parameters for row in rows):11,}")


if __name__ == "__main__":
    sys.exit(main())

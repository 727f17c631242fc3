"""The command line: `python -m jaxdrill.main --step 5`.

argparse, not tyro: every flag goes through the recipe's own reader, so a flag and a TOML key share one check and one
line of complaint, and `--help` needs no further import.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from jaxdrill import config as recipe
from jaxdrill.errors import RunError, Stopped, UsageError, nearest


class Parser(argparse.ArgumentParser):
    """argparse, but an error is one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code: 0 done, 1 failed, 2 wrong usage, 130 or 143 stopped by a signal."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        _command(arguments)
        return 0
    except UsageError as error:
        return _complain(f"{error}", 2)
    except RunError as error:
        return _complain(f"{error}", 1)
    except OSError as error:
        return _complain(f"{error.filename or ''}: {error.strerror}", 1)
    except Stopped as error:
        return _complain(f"{error}", error.exit_code)
    except KeyboardInterrupt:
        return _complain("stopped before training", 130)


def _complain(message: str, code: int) -> int:
    print("jaxdrill: " + " ".join(message.split()), file=sys.stderr)
    return code


def _command(arguments: list[str]) -> None:
    options, flags = _parse(arguments)
    names = recipe.steps() if options.step == "all" else [options.step]
    configs = [recipe.load(name, flags) for name in names]
    if options.dry_run:
        return _dry_run(configs)
    # Here, not above: `--help`, `--dry-run` and most mistakes are answered before JAX has loaded.
    from jaxdrill import models, parallel, report
    from jaxdrill.run import run

    parallel.set_up(max(map(models.activation_bytes, configs)))
    base = options.workdir or Path("runs")
    folders = [base / config.name if options.step == "all" or not options.workdir else base for config in configs]
    for config, folder in zip(configs, folders, strict=True):
        run(config, folder, options.data_dir, options.offline, ["python", "-m", "jaxdrill.main", *arguments])
    print("\n" + report.drill_table(folders))


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """The options of the command, and the flags that override the recipe, by dotted field name."""
    about = "Trains a step of the drill, or a recipe of your own."
    parser = Parser(prog="python -m jaxdrill.main", description=about, allow_abbrev=False, add_help=False)
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
        group.add_argument(_flag(name), dest=name, metavar="X", help=about, default=argparse.SUPPRESS)
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

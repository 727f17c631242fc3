"""The command `jaxdrill`, and its subcommand `jaxdrill train`.

The parser is argparse instead of tyro: every flag is checked by the same code as a TOML key, so the
messages are equal, and `--help` needs no further import.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from shutil import get_terminal_size

from jaxdrill import checks, config
from jaxdrill.config.layers import layer_table
from jaxdrill.config.schema import as_text, describe, metavar
from jaxdrill.errors import Parser, UsageError, exit_code, say, show

COMMANDS = {
    "train": "train steps of the drill or your own recipes",
    "report": "write a report that compares runs",
    "predict": "classify images with a trained network",
    "export": "write a trained network as ONNX, StableHLO or safetensors",
    "page": "write an HTML page on which trained networks classify drawn digits",
    "check": "compare the accuracy of runs with a minimum",
    "verify": "check that stopping and resuming a run gives the same bits",
}
ABOUT = """\
Train small convolutional networks on MNIST, each one change away from the previous one.
Every command has its own help: jaxdrill COMMAND --help.

examples:
  jaxdrill train --step 5
  jaxdrill report runs
  jaxdrill predict runs/step_5 photo.png

commands:
"""
TRAIN = """\
Train one or several steps of the drill, or your own recipe, and write a run folder for each.
An unfinished run is resumed. Flags override all fields of the recipe except extends and network.

examples:
  jaxdrill train --step 5 --seeds 3                # step 5 with seeds 1, 2 and 3
  jaxdrill train --step 3,4,5 --workdir compared   # three steps, each in its own folder
  jaxdrill train --step mine.toml --dry-run        # show your recipe without training"""
DISTRIBUTED = """\
run as one of several processes: auto detects SLURM, Open MPI, Kubernetes and Cloud TPU; otherwise
HOST:PORT,NUMBER,COUNT with the address of process 0, the number of this process from 0, and the
number of processes (default without a value: auto)"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code, see `errors.exit_code`.

    Args:
        argv: the arguments; None for those of the process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if arguments[0].startswith("-") and arguments[0] not in ("--help", "-h", "--version"):
        arguments = ["train", *arguments]  # the form `python -m jaxdrill.main --step 5`
    if argv is None and arguments[0] not in ("train", "verify"):
        os.environ.setdefault("JAX_PLATFORMS", "cpu")  # These commands need no accelerator.
    return exit_code(_find(arguments[0]), arguments[1:])


def command(name: str) -> tuple[Callable[[], Parser], Callable[[list[str]], None]]:
    """Return the functions of a command: one builds its parser, one runs it."""
    if name == "train":
        return parser, run
    if name == "check":
        return checks.check_parser, checks.check
    if name == "verify":
        return checks.verify_parser, checks.verify
    module = import_module(f"jaxdrill.{name}.__main__")
    return module.parser, module.run


def _find(name: str) -> Callable[[list[str]], None]:
    """Return the function that runs a command, or prints the help or an error."""
    if name in COMMANDS:
        return command(name)[1]
    listed = "\n".join(f"  {each:8} {about}" for each, about in COMMANDS.items())
    made = Parser("jaxdrill", ABOUT + listed, _words([name]), usage="jaxdrill COMMAND ...")
    return lambda _: made.parse_args([name])


def _words(arguments: Sequence[str]) -> dict[str, str]:
    """Return what to type instead of a word: a command, or --step with the name of a step."""
    names = [name.removeprefix("step_") for name in config.steps()]
    meant = {name: name for name in names} | {f"step_{name}": name for name in names}
    meant |= {word: word for word in arguments if word.endswith(".toml")}
    words = {name: f"jaxdrill {name}" for name in COMMANDS}
    return words | {word: f"jaxdrill train --step {name}" for word, name in meant.items()}


def parser(arguments: Sequence[str] = ()) -> Parser:
    """Return the parser of `jaxdrill train`. Its defaults are those of the step in `arguments`."""
    made = Parser(
        "jaxdrill train",
        TRAIN,
        _words(arguments),
        usage="jaxdrill train [--step TEXT] [--FLAG VALUE ...]",
        add_help=False,
    )
    add = made.add_argument
    steps = ", ".join(name.removeprefix("step_") for name in config.steps())
    about = f"{steps}, a list such as 2,3,4, all, or the path of a .toml file (default: 5)"
    add("--step", default="5", metavar="TEXT", help=about)
    names = _names(made.parse_known_args(arguments)[0].step)
    # --help is added after --step was read, because it shows the defaults of the step.
    add("--help", "-h", action="help", help="print this help and exit")
    about = (
        "run folder (default: runs/NAME, or runs/NAME_DATA if the data is not MNIST); with several "
        "steps: the folder that contains their run folders (default: runs)"
    )
    add("--workdir", type=Path, metavar="DIR", help=about)
    about = "folder with four idx files: the official files or your own"
    add("--data-dir", type=Path, metavar="DIR", help=about)
    add("--offline", action="store_true", help=checks.OFFLINE)
    about = "start over; the existing run folder is renamed"
    add("--restart", action="store_true", help=about)
    add("--distributed", nargs="?", const="auto", metavar="TEXT", help=DISTRIBUTED)
    about = (
        "print the complete recipe and the layer table, mark the fields that differ from the "
        "parent recipe, and exit"
    )
    add("--dry-run", action="store_true", help=about)
    shown = config.resolve(names[0] if len(names) == 1 else "5")
    group = made.add_argument_group(f"recipe (defaults of {shown.name})")
    for name, info, value in config.options(shown):
        default = f" (default: {as_text(value)})" if value != "" else ""
        about = f"{describe(info)}{default}".replace("%", "%%")
        flag, kind = config.as_flag(name), metavar(info)
        group.add_argument(flag, dest=name, metavar=kind, help=about, default=argparse.SUPPRESS)
    return made


def _names(step: str) -> list[str]:
    """Return the steps that a value of --step names."""
    if step == "all":
        return config.steps()
    return [step] if Path(step).is_file() else step.split(",")


def run(arguments: list[str]) -> None:
    """Train steps.

    Raises:
        UsageError: the arguments or a recipe are invalid.
        RunError: a training failed.
        Stopped: a signal stopped the training.
    """
    options = parser(arguments).parse_args(arguments)
    flags = {name: text for name, text in vars(options).items() if name in config.FLAGS}
    names = _names(options.step)
    configs = config.load_all(names, flags)
    if repeated := [each for n, each in enumerate(configs) if each in configs[:n]]:
        raise UsageError(f"--step {options.step} contains {repeated[0].name} twice")
    if options.dry_run:
        for name, each in zip(names, configs, strict=True):
            _print_recipe(each, config.parent(name))
        return
    # Imported here, so that --help, --dry-run and most mistakes are answered before JAX is loaded.
    from jaxdrill.runs.progress import stop_on_signal
    from jaxdrill.runs.session import train
    from jaxdrill.training import devices, processes

    recorded = ["jaxdrill", "train", *(word for word in arguments if word != "--restart")]
    several = len(configs) > 1
    workdir = None if several else options.workdir
    parent = options.workdir if several and options.workdir else Path("runs")
    data, offline, restart = options.data_dir, options.offline, options.restart

    with processes.distributed(options.distributed):
        devices.set_up_for(configs)
        with stop_on_signal() as stop:
            folders = []
            for each in configs:
                how = workdir, stop, data, offline, recorded, parent, restart
                folders.append(train(each, *how))
        if processes.is_first():
            from jaxdrill.report import summary  # after the training, so that it starts sooner

            report = shlex.join(["jaxdrill", "report", f"{parent if several else folders[0]}"])
            width = get_terminal_size((100, 24)).columns
            say("", *summary(folders, width).splitlines(), "", f"report: {report}")


def _print_recipe(recipe: config.Config, base: config.Config | None) -> None:
    """Print a recipe and its layer table. Mark what differs from the recipe that it extends."""
    old = {name: value for name, _, value in config.options(base)} if base else {}
    show(f"{recipe.name}  (* differs from {base.name})" if base else recipe.name)
    for name, _, value in config.options(recipe):
        mark = "*" if base and old[name] != value else " "
        show(f"{mark} {config.as_flag(name)} {shlex.quote(as_text(value))}")
    show(f"  {'layer':42} {'output':>12} {'receptive field':>16} {'parameters':>11}")
    rows = layer_table(recipe.network)
    for number, (layer, row) in enumerate(zip(recipe.network, rows, strict=True)):
        mark = "*" if base and (layer,) != base.network[number : number + 1] else " "
        output = f"{row.side}x{row.side}x{row.channels}"
        field = f"{row.receptive_field}x{row.receptive_field}"
        show(f"{mark} {row.layer:42} {output:>12} {field:>16} {row.parameters:11,}")
    show(f"  {'total':42} {'':12} {'':16} {sum(row.parameters for row in rows):11,}")


if __name__ == "__main__":
    sys.argv[1:] = sys.argv[1:] or ["train"]  # `python -m jaxdrill.main` trains step 5
    sys.exit(main())

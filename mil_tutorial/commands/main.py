"""Read the command line and run one command.

Each command is a module of this folder, with `options(parser)` and `run(args)`; `import` is `import_`, as Python has
its own.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from keyword import iskeyword

from mil_tutorial import __version__
from mil_tutorial.errors import DataError, ParameterError
from mil_tutorial.process import collector_at_rest, keep_freed_memory

COMMANDS = {
    "doctor": "Say whether this machine is ready for the course. Exit code 1 if it is not.",
    "course": "Execute the six notebooks and print what came out.",
    "fixture": "Draw the synthetic slides; without options, say where they are.",
    "get": "Fetch the real CAMELYON16, or some of it: published features, patch labels, tables.",
    "prepare": "From slides to features in TRIDENT's layout, on a CPU.",
    "labels": "Patch labels from tumour masks or annotations.",
    "camelyon16": "Write wsi_labels.csv, train.csv and test.csv of the real CAMELYON16 into a data root.",
    "import": "Bring features that others share, as CLAM's folders or .npy files, into TRIDENT's layout.",
    "split": "Divide the slides into train.csv and test.csv, by patient and stratified.",
    "check": "Say what is missing in a data root or does not fit. Exit code 1 if it would spoil training.",
    "pack": "Pack a feature folder into one memory-mapped store, from which bags are read many times faster.",
    "train": "Train ABMIL on the training slides.",
    "repeat": "Train folds x seeds x models on the training slides and compare them; test slides are not touched.",
    "evaluate": "Score a checkpoint on the test slides.",
    "predict": "Ask a checkpoint about slide files, without tables: a report for each slide.",
    "localize": "Write detections, GeoJSON for QuPath and viewers of test slides.",
    "view": "Look at one slide in the browser, down to its cells, with scores over it if there are some.",
    "progress": "Show which exercises and quizzes you have solved on this computer; with a name, write a certificate.",
    "grade": "Run the answers in returned notebooks and write a table of exercises and learners. It runs their code.",
}


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Names a default only where there is one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """The parser of all commands; with `only`, just one command's module is loaded and has its options ("": none)."""
    parser = argparse.ArgumentParser(
        prog="mil-tutorial", description="Multiple Instance Learning for whole-slide images: the course's steps."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        sub = commands.add_parser(name, help=summary, description=summary, formatter_class=_Help)
        if only in (None, name):
            module = import_module(f"mil_tutorial.commands.{name}{'_' if iskeyword(name) else ''}")
            module.options(sub)
            sub.set_defaults(run=module.run)
    return parser


def _named(argv: Sequence[str]) -> str:
    """The command that a command line names, or ""."""
    first = next((a for a in argv if not a.startswith("-")), "")
    return first if first in COMMANDS else ""


def _in_flags(error: ParameterError, args: argparse.Namespace) -> str:
    """The library names a parameter, the command line its flag."""
    if not hasattr(args, error.parameter):
        return str(error)
    return f"--{error.parameter}: {error.sentence}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Exit code 0: done; 1: done, with bad news; 2: something to correct, said in one message."""
    argv = list(sys.argv[1:] if argv is None else argv)
    args = build_parser(_named(argv)).parse_args(argv)
    try:
        return args.run(args)
    except (DataError, ParameterError) as error:
        text = _in_flags(error, args) if isinstance(error, ParameterError) else str(error)
    except OSError as error:  # rights, a full disk, a share that is gone: nothing that a traceback would explain
        text = (
            f"{error.filename or 'a file'}: {error.strerror or error}."
            " Check the disk and your rights, then run it again; what is written is whole."
        )
    except KeyboardInterrupt:
        print("\nstopped; what is written is whole, run the same command again to go on", file=sys.stderr)
        return 130
    print(f"mil-tutorial {args.command}: {text}", file=sys.stderr)
    return 2


def program() -> None:
    """The process `mil-tutorial`: it may set what the library must leave alone.

    PyTorch's waiting threads spin by default. Beside one other busy program on two cores that made an epoch 26 times
    slower (7.8 s against 0.3 s); asleep they cost nothing. It must be set before torch loads; kernels that the process
    starts inherit it. Freed memory is kept for the next batch, and what a command loads is no garbage.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_freed_memory()
    with collector_at_rest():
        build_parser(_named(sys.argv[1:]))
    sys.exit(main())


if __name__ == "__main__":
    program()

"""`mil-tutorial progress`: what the checks and quizzes remembered on this computer, and a certificate of it."""

from __future__ import annotations

import argparse

from mil_tutorial.exercises.certificate import write_certificate
from mil_tutorial.exercises.progress import delete_progress, progress_table
from mil_tutorial.exercises.words import texts


def options(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("--name", help="your name: write a certificate")
    parser.add_argument(
        "--out", default="certificate.svg", help="the certificate; browsers open it and print it to PDF"
    )
    parser.add_argument("--delete", action="store_true", help="forget everything: delete the file")


def run(args: argparse.Namespace) -> int:
    """Show it, certify it, or delete it."""
    if args.delete:
        print(delete_progress())
        return 0
    print(progress_table())
    if args.name is not None:
        path = write_certificate(args.out, args.name)
        print(texts("common")["progress"]["written"].format(path=path))
    return 0

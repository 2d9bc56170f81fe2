"""`mil-tutorial predict`: ask a trained model about slide files, without tables and without a split."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from mil_tutorial.asking.answer import SlideAnswer
from mil_tutorial.asking.ask import predict_slide
from mil_tutorial.asking.source import check_slide
from mil_tutorial.asking.trained import load_checkpoint
from mil_tutorial.commands.common import Notes, asked
from mil_tutorial.commands.record import Record
from mil_tutorial.errors import DataError
from mil_tutorial.files import check_writable, written_whole
from mil_tutorial.remote import is_remote, stem


def options(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("slides", nargs="+", metavar="SLIDE", help="slide files, or addresses (https://...)")
    parser.add_argument(
        "--checkpoint",
        action="append",
        metavar="FILE",
        help="written by `mil-tutorial train` (default: build/abmil.pt); give it several times for several models",
    )
    parser.add_argument("--out", default="build/predictions", help="folder to write to, one folder a slide")
    parser.add_argument(
        "--features",
        metavar="FOLDER",
        help="TRIDENT's run folder with the slides' features; without it they are made here",
    )
    parser.add_argument("--mpp", type=float, help="µm per pixel at level 0, in place of what the slides say")
    parser.add_argument("--device", help="such as cpu or cuda; a GPU if there is one by default")


def run(args: argparse.Namespace) -> int:
    """Ask about each slide, write its report and a table; exit code 1 if one is unlike the training slides."""
    args.checkpoint = args.checkpoint or ["build/abmil.pt"]
    for checkpoint in args.checkpoint:
        load_checkpoint(checkpoint)  # before long work
    twice = [name for name, n in Counter(stem(s) for s in args.slides).items() if n > 1]
    if twice:
        raise DataError(f"{twice[0]}: two slides have this name. Their reports would overwrite each other. Rename one.")
    out = Path(args.out)
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: is a file, expected the folder to write reports to.")
    check_writable(out / "predictions.csv")
    inputs = [*args.checkpoint, *(s for s in args.slides if not is_remote(s))]
    tell, answers, failed = Notes(), [], {}
    with Record(out, "predict", asked(args), inputs):
        for slide in tqdm(args.slides, desc="Asking", unit="slide", disable=len(args.slides) == 1):
            try:
                answers.append(_ask(slide, args, tell))
            except DataError as error:
                failed[slide] = str(error)
        tell.end()
        if not answers:  # no record of what was not done
            raise DataError("\n".join(failed.values()))
        _write_table(answers, out)
    if failed:
        done = f"{len(answers)} of {len(args.slides)} slides are done: see {out}."
        raise DataError("\n".join([*failed.values(), done]))
    return int(any(c.verdict == "unlike" for a in answers for c in a.comparisons))


def _ask(slide: str, args: argparse.Namespace, tell: Notes) -> SlideAnswer:
    """One slide: its files are written, its lines printed."""
    answer = predict_slide(
        check_slide(slide),
        args.checkpoint,
        features=args.features,
        out=args.out,
        mpp=args.mpp,
        device=args.device,
        note=tell,
    )
    low, high = answer.spread
    spread = f" ({low:.3f} to {high:.3f} over {len(answer.answers)} checkpoints)" if len(answer.answers) > 1 else ""
    verdict = "tumour" if answer.tumour else "no tumour"
    tqdm.write(
        f"{answer.name}: {verdict} predicted, probability {answer.probability:.4f}{spread},"
        f" threshold {answer.threshold:.3f}"
    )
    for warning in answer.warnings:
        tqdm.write(f"  warning: {warning}")
    tqdm.write(f"  report: {answer.report.resolve() if answer.report else ''}")
    return answer


def _write_table(answers: list[SlideAnswer], out: Path) -> None:
    rows = [
        {
            "slide": a.name,
            "probability": a.probability,
            "threshold": a.threshold,
            "called": int(a.tumour),
            "lowest": a.spread[0],
            "highest": a.spread[1],
            "patches": len(a.patches.coords),
            "unlike": "; ".join(c.what for c in a.comparisons if c.verdict == "unlike"),
            "unusual": "; ".join(c.what for c in a.comparisons if c.verdict == "unusual"),
        }
        for a in answers
    ]
    with written_whole(out / "predictions.csv") as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)

"""`mil-tutorial train`: notebook 4 and the first half of notebook 5 as a command, with the same recipe."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from mil_tutorial.asking.known import know_slides
from mil_tutorial.asking.trained import TrainedModel
from mil_tutorial.bags.collate import make_loader
from mil_tutorial.commands.common import add_data_options, asked, open_root
from mil_tutorial.commands.record import Record
from mil_tutorial.errors import DataError, require_integer, require_number
from mil_tutorial.evaluation.metrics import choose_threshold
from mil_tutorial.files import check_writable, read_json, write_json
from mil_tutorial.models import ABMIL
from mil_tutorial.training.fit import FitOptions, fit
from mil_tutorial.training.predict import predict
from mil_tutorial.training.recipe import BATCH_SIZE, EPOCHS, LEARNING_RATE, positive_weight, split_bags

EARLY = 5  # epochs in which a model may still come to learn


def options(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    add_data_options(parser)
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="most epochs")
    parser.add_argument("--lr", type=float, default=LEARNING_RATE, help="learning rate")
    parser.add_argument("--batch_size", type=int, default=BATCH_SIZE, help="bags in a batch")
    parser.add_argument("--patience", type=int, help="stop after this many epochs without improvement")
    parser.add_argument("--seed", type=int, default=0, help="of the split, the first weights and the order of bags")
    parser.add_argument("--gated", action="store_true", help="gated attention")
    parser.add_argument("--balance", action="store_true", help="weigh tumour bags so that both classes count the same")
    parser.add_argument("--accumulate", type=int, default=1, help="batches whose gradients are averaged for one step")
    parser.add_argument("--schedule", choices=["cosine"], help="let the learning rate fall over the epochs")
    precision = "auto computes in 16 bits where the device gains from it"
    parser.add_argument("--precision", choices=["float32", "bfloat16", "auto"], default="float32", help=precision)
    parser.add_argument("--checkpoint", help="folder for last.pt and best.pt, written after each epoch")
    parser.add_argument("--resume", action="store_true", help="go on from the last.pt of --checkpoint")
    parser.add_argument("--out", default="build/abmil.pt", help="checkpoint to write")


def run(args: argparse.Namespace) -> int:
    """Train, choose the threshold on validation slides, write the checkpoint and its record."""
    require_integer("seed", args.seed, low=0)
    require_number("lr", args.lr, low=0, high=10, open_low=True)
    if args.resume and not args.checkpoint:
        raise DataError("--resume goes on from a folder: name it with --checkpoint.")
    check_writable(args.out)  # before training, not after
    data = open_root(args)
    encoder = args.encoder or data.encoder
    bags = data.bags("train", encoder=encoder)
    train, val = split_bags(bags, seed=args.seed)
    choices = {
        "epochs": args.epochs,
        "lr": args.lr,
        "patience": args.patience,
        "seed": args.seed,
        "precision": args.precision,
        "accumulate": args.accumulate,
        "schedule": args.schedule,
        "pos_weight": positive_weight(train.get_bag_labels()) if args.balance else None,
    }
    FitOptions(**choices)  # refuses what `fit` would refuse, before all slides are read
    out = Path(args.out)
    record = Record(out.parent, f"train-{out.stem}", asked(args), data.inputs(encoder, "train"))
    if args.checkpoint:
        _refuse_other_inputs(Path(args.checkpoint), record, args.resume)
    known = know_slides(train, val, encoder=encoder, synthetic=data.synthetic)  # before training: it may find damage
    torch.manual_seed(args.seed)
    model = ABMIL(bags[0]["X"].shape[1], gated=args.gated)
    train_loader, val_loader = make_loader(train, args.batch_size, seed=args.seed), make_loader(val, args.batch_size)
    history = fit(model, train_loader, val_loader, checkpoint=args.checkpoint, resume=args.resume, **choices)
    validation = predict(model, val_loader)
    threshold = choose_threshold(validation.Y, validation.prob)
    record.refuse_changes()  # before there is a checkpoint
    TrainedModel(model, args.gated, encoder, threshold, args.seed, tuple(bags.get_bag_names()), known).save(out)
    record.write([out])
    best = history.best_epoch
    print(
        f"best epoch {best + 1} of {len(history.val_loss)}, validation loss {history.val_loss[best]:.3f},"
        f" threshold {threshold:.3f}; checkpoint {out.resolve()}"
    )
    if best == 0 and len(history.val_loss) > EARLY:
        print(
            "warning: no epoch after the first was better on the validation slides: what the model learnt later holds"
            " for the training slides alone. Try another --seed or a smaller --lr.",
            file=sys.stderr,
        )
    return 0


def _refuse_other_inputs(folder: Path, record: Record, resume: bool) -> None:
    """What is taken up again must be training on the same files."""
    path, last, now = folder / "inputs.json", folder / "last.pt", record.inputs
    if not resume:
        last.unlink(missing_ok=True)  # before the new list: weights of other inputs must never be beside it
    elif last.exists():
        try:
            before = read_json(path)
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: is damaged ({error!s:.80}). Delete {folder} and train again.") from error
        changed = sorted(k for k in {*before, *now} if before.get(k) != now.get(k))
        if changed:
            raise DataError(
                f"{folder}: {changed[0]} has changed since this training began."
                " Train again without --resume, or in another folder."
            )
    write_json(path, now)

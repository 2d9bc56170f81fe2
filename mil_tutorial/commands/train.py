"""The command `mil-tutorial`: each step of the course from the command line."""

from __future__ import annotations

import argparse
from pathlib import Path

from mil_tutorial.commands.common import _dataset, _encoder_and_data, _options
from mil_tutorial.errors import DataError
from mil_tutorial.files import check_writable, read_json, write_json, written_whole


def options(p: argparse.ArgumentParser) -> None:
    """Its options."""
    p.add_argument("--data", help="data root; by default $MIL_TUTORIAL_DATA or the synthetic slides")
    p.add_argument("--encoder", help="whose features to use")
    p.add_argument("--epochs", type=int, default=20)
    p.add_argument("--lr", type=float, default=2e-4, help="learning rate")
    p.add_argument("--patience", type=int, help="stop after this many epochs without improvement")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--gated", action="store_true", help="gated attention")
    p.add_argument("--balance", action="store_true", help="weigh tumour bags so that both classes count the same")
    p.add_argument("--accumulate", type=int, default=1, help="bags whose gradients are averaged for one step")
    p.add_argument("--schedule", choices=["cosine"], help="let the learning rate fall over the epochs")
    p.add_argument("--precision", choices=["float32", "bfloat16", "auto"], default="float32",
                   help="auto computes in 16 bits where the device gains from it")  # fmt: skip
    p.add_argument("--checkpoint", help="folder for last.pt and best.pt, written after each epoch")
    p.add_argument("--resume", action="store_true", help="go on from the last.pt of --checkpoint")
    p.add_argument("--out", default="build/abmil.pt", help="checkpoint to write")


def run(args: argparse.Namespace) -> int:
    """Run it; the exit code."""
    import torch
    from sklearn.model_selection import train_test_split

    from mil_tutorial.bags.collate import one_by_one
    from mil_tutorial.commands.record import Record
    from mil_tutorial.evaluation.metrics import choose_threshold
    from mil_tutorial.models import ABMIL
    from mil_tutorial.training.fit import fit, positive_weight, predict

    if args.epochs < 1 or not 0 < args.lr < 10 or args.seed < 0:
        raise DataError("expected --epochs of at least 1, --lr above 0 and --seed of at least 0.")
    if args.resume and not args.checkpoint:
        raise DataError("--resume goes on from a folder: name it with --checkpoint.")
    check_writable(args.out)  # before training, not after
    data, encoder = _encoder_and_data(args)
    dataset = _dataset(data, encoder, "train")
    labels = dataset.get_bag_labels()
    try:
        train, val = train_test_split(range(len(dataset)), test_size=0.2, random_state=args.seed, stratify=labels)
    except ValueError as error:
        raise DataError(
            f"{data.root / 'train.csv'}: cannot be split 80/20 with both classes on both sides ({error}). Add slides."
        ) from error
    record = Record(
        Path(args.out).parent, f"train-{Path(args.out).stem}", _options(args), data.inputs(encoder, "train")
    )
    if args.checkpoint:
        _refuse_other_inputs(Path(args.checkpoint), record, args.resume)
    dim = dataset[0]["X"].shape[1]
    torch.manual_seed(args.seed)
    model = ABMIL(dim, gated=args.gated)
    val_loader = one_by_one(dataset.subset(val))
    history = fit(
        model,
        one_by_one(dataset.subset(train), args.seed),
        val_loader,
        epochs=args.epochs,
        lr=args.lr,
        patience=args.patience,
        seed=args.seed,
        precision=args.precision,
        accumulate=args.accumulate,
        schedule=args.schedule,
        pos_weight=positive_weight([labels[i] for i in train]) if args.balance else None,
        checkpoint=args.checkpoint,
        resume=args.resume,
    )
    validation = predict(model, val_loader)
    threshold = choose_threshold(validation.Y, validation.prob)
    state = {
        "model": model.cpu().state_dict(),
        "in_dim": dim,
        "gated": args.gated,
        "encoder": encoder,
        "threshold": threshold,
        "seed": args.seed,
    }
    record.refuse_changes()  # before there is a checkpoint
    with written_whole(args.out) as temporary:
        torch.save(state, temporary)
    record.write([args.out])
    print(f"best epoch {history.best_epoch + 1} of {len(history.val_loss)}, validation loss {history.val_loss[history.best_epoch]:.3f},"
          f" threshold {threshold:.3f}; checkpoint {Path(args.out).resolve()}")  # fmt: skip
    return 0


def _refuse_other_inputs(folder: Path, record, resume: bool) -> None:
    """What is taken up again must be training on the same files."""
    path, last, now = folder / "inputs.json", folder / "last.pt", record.inputs
    if not resume:
        last.unlink(missing_ok=True)  # before the new list: weights of other inputs must never lie beside it
    elif last.exists():
        try:
            before = read_json(path)
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: is damaged ({error!s:.80}). Delete {folder} and train again.") from error
        changed = sorted(k for k in {*before, *now} if before.get(k) != now.get(k))
        if changed:
            raise DataError(
                f"{folder}: {changed[0]} has changed since this training began. Train again without --resume, or in another folder."
            )
    write_json(path, now)

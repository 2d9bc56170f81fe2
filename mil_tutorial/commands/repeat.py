"""Repeated training: folds x seeds x models, each a task of its own, here or on a cluster. Test slides are not touched."""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from mil_tutorial.commands.common import SCHEDULER, _encoder_and_data, _options
from mil_tutorial.errors import DataError
from mil_tutorial.files import read_json, write_json, written_whole

# The command line takes the names from here at its start, so nothing large is imported above.
MODELS = ("ABMIL", "gated ABMIL", "mean pooling", "max pooling")


def _model(name: str, dim: int):
    from mil_tutorial.models import ABMIL, MaxPool, MeanPool

    makers = {
        "ABMIL": ABMIL,
        "gated ABMIL": lambda d: ABMIL(d, gated=True),
        "mean pooling": MeanPool,
        "max pooling": MaxPool,
    }
    return makers[name](dim)


def fingerprint(root: str | None, encoder: str) -> str:
    """What runs stand on, in 16 hex digits: labels, split, and the features of all training slides."""
    from mil_tutorial.data import open_data
    from mil_tutorial.files import digest

    files = open_data(root).inputs(encoder, "train")
    return hashlib.sha256(" ".join(digest(f) for f in files).encode()).hexdigest()[:16]


def train_once(
    root: str | None,
    encoder: str,
    model: str,
    fold: int,
    folds: int,
    seed: int,
    epochs: int,
    lr: float,
    target: str,
    inputs: str,
) -> dict:
    """Train one model on all folds but one, score that one, and write the result; take the result that is there.

    An inner part of the training folds chooses the epoch, so that the fold that is scored chooses nothing. It runs on the CPU, where
    as many runs as there are cores go side by side.

    Args:
        root: data root; None takes what `open_data()` finds.
        encoder: name of the features.
        model: one of `MODELS`.
        fold, folds: which fold is scored, of how many; folds are stratified and depend on `seed`.
        epochs, lr: see `fit`.
        target: JSON file of the result.
        inputs: see `fingerprint`; a result of other inputs is refused.

    Returns:
        settings, best_epoch, and of the scored fold: slides, labels, probabilities, auc (None if it holds one class only).

    Raises:
        DataError: the data do not fit, there are too few slides, or the file is of a run with other settings.
    """
    import numpy as np
    import torch
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, train_test_split

    from mil_tutorial.bags.collate import one_by_one
    from mil_tutorial.bags.dataset import TridentWSIDataset
    from mil_tutorial.data import open_data
    from mil_tutorial.training.fit import fit, predict

    settings = {
        "encoder": encoder,
        "model": model,
        "fold": fold,
        "folds": folds,
        "seed": seed,
        "epochs": epochs,
        "lr": lr,
        "inputs": inputs,
    }
    path = Path(target)
    if path.exists():
        return read_result(path, settings)
    data = open_data(root)
    names = data.split("train")["wsi_name"].tolist()
    bags = TridentWSIDataset(
        data.trident_dir, data.root / "wsi_labels.csv", encoder, wsi_names=names, bag_keys=("X", "Y")
    )
    labels = np.array(bags.get_bag_labels())
    try:
        parts = list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(labels, labels))
        train, scored = parts[fold]
        train, val = train_test_split(train, test_size=0.2, random_state=seed, stratify=labels[train])
    except ValueError as error:
        raise DataError(
            f"{data.root / 'train.csv'}: {len(labels)} slides cannot be split into {folds} folds ({error})."
        ) from error

    torch.manual_seed(seed)
    network = _model(model, bags[0]["X"].shape[1])
    history = fit(
        network, one_by_one(bags.subset(train), seed), one_by_one(bags.subset(val)), epochs=epochs, lr=lr, device="cpu", seed=seed,
        progress=False,
    )  # fmt: skip
    found = predict(network, one_by_one(bags.subset(scored)), "cpu")
    if fingerprint(root, encoder) != inputs:
        raise DataError(f"{data.root}: labels or features have changed since this command began. Run it again.")
    both = 0 < found.Y.sum() < len(found.Y)
    result = {
        "settings": settings, "best_epoch": history.best_epoch, "slides": found.names, "labels": found.Y.tolist(),
        "probabilities": [float(p) for p in found.prob], "auc": float(roc_auc_score(found.Y, found.prob)) if both else None,
    }  # fmt: skip
    write_json(path, result)
    return result


def read_result(path: Path, settings: dict) -> dict:
    """A result that is there already.

    Raises:
        DataError: it is damaged or was made with other settings.
    """
    try:
        result = read_json(path)
        before = result["settings"]
        changed = [k for k in settings if before.get(k) != settings[k]]
        sizes = {len(result[k]) for k in ("slides", "labels", "probabilities")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: is no whole result of repeated training ({error!s:.80}). Delete it and run again."
        ) from error
    if changed or len(sizes) != 1:
        what = (
            f"{changed[0]} {before.get(changed[0])}, now it is {settings[changed[0]]}"
            if changed
            else "lists of different lengths"
        )
        raise DataError(f"{path}: was made with {what}. Choose another --out, or delete the file.")
    return result


def repeat(
    root: str | os.PathLike | None, encoder: str, out: str | os.PathLike, models: Sequence[str] = MODELS, folds: int = 5,
    seeds: Sequence[int] = (0, 1, 2), epochs: int = 20, lr: float = 5e-4, scheduler: str | None = None, progress: bool = True,
):  # fmt: skip
    """Train folds x seeds x models and write one file for each, and `summary.csv`; what is there already stays.

    Returns:
        DataFrame with a row for each model: runs, auc_mean over seeds (each the AUC of all folds' slides together),
        auc_sd between seeds.

    Raises:
        DataError: an unknown model, or some runs failed (the message names each).
    """
    import numpy as np
    import pandas as pd
    from sklearn.metrics import roc_auc_score

    from mil_tutorial.commands.engine import refuse_failures, run_tasks

    unknown = [m for m in models if m not in MODELS]
    if unknown:
        raise DataError(f"--models {unknown[0]}: no such model. Choose of {', '.join(MODELS)}.")
    if folds < 2 or not seeds or epochs < 1:
        raise DataError(f"expected at least 2 --folds, one seed and one epoch, got {folds}, {len(seeds)} and {epochs}.")
    out = Path(out).resolve()
    root = None if root is None else str(Path(root).resolve())
    inputs, tasks = fingerprint(root, encoder), {}
    for model in models:
        for seed in seeds:
            for fold in range(folds):
                name = f"{model.replace(' ', '-')}_seed{seed}_fold{fold}"
                tasks[name] = (root, encoder, model, fold, folds, seed, epochs, lr, str(out / f"{name}.json"), inputs)
    results, errors = run_tasks(train_once, tasks, scheduler, "Training", "run", progress)
    refuse_failures([*errors.values()], len(results), len(tasks), "runs")
    rows = []
    for model in models:
        aucs = []
        for seed in seeds:
            runs = [r for r in results.values() if r["settings"]["model"] == model and r["settings"]["seed"] == seed]
            aucs.append(
                roc_auc_score(
                    np.concatenate([r["labels"] for r in runs]), np.concatenate([r["probabilities"] for r in runs])
                )
            )
        rows.append(
            {
                "model": model,
                "runs": folds * len(seeds),
                "auc_mean": np.mean(aucs),
                "auc_sd": np.std(aucs, ddof=1) if len(aucs) > 1 else np.nan,
            }
        )
    table = pd.DataFrame(rows)
    with written_whole(out / "summary.csv") as temporary:
        table.to_csv(temporary, index=False)
    return table


def options(p: argparse.ArgumentParser) -> None:
    """Its options."""
    p.add_argument("--data", help="data root; by default $MIL_TUTORIAL_DATA or the synthetic slides")
    p.add_argument("--encoder", help="whose features to use")
    p.add_argument("--models", nargs="+", default=list(MODELS), help="which models: " + ", ".join(MODELS))
    p.add_argument("--folds", type=int, default=5)
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    p.add_argument("--epochs", type=int, default=20)
    p.add_argument("--lr", type=float, default=5e-4, help="learning rate")
    p.add_argument("--out", default="build/repeat", help="folder of the results; what is there already stays")
    p.add_argument("--scheduler", help=SCHEDULER)


def run(args: argparse.Namespace) -> int:
    """Run it; the exit code."""
    from mil_tutorial.commands.record import Record
    from mil_tutorial.commands.repeat import repeat

    data, encoder = _encoder_and_data(args)
    root = None if data.synthetic and not args.data else str(data.root)
    with Record(args.out, "repeat", _options(args), data.inputs(encoder, "train")):
        table = repeat(
            root, encoder, args.out, args.models, args.folds, args.seeds, args.epochs, args.lr, args.scheduler
        )
    print(
        f"AUC of {args.folds} folds' slides together, mean and deviation over {len(args.seeds)} seeds; test slides were not touched"
    )
    print(table.to_string(index=False, float_format="%.3f"))
    return 0

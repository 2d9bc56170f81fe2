"""`mil-tutorial repeat`: folds x seeds x models, each a task of its own, here or on a cluster.

Test slides are not touched.
"""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score

from mil_tutorial.bags.collate import make_loader
from mil_tutorial.commands.common import SCHEDULER, add_data_options, asked, open_root
from mil_tutorial.commands.engine import refuse_failures, run_tasks
from mil_tutorial.commands.record import Record
from mil_tutorial.data import open_data
from mil_tutorial.errors import DataError, require, require_integer, require_number
from mil_tutorial.files import digest, read_json, write_json, written_whole
from mil_tutorial.models import ABMIL, MaxPool, MeanPool, MILPool
from mil_tutorial.training.fit import fit
from mil_tutorial.training.patients import cases_of, folds_by_patient
from mil_tutorial.training.predict import predict
from mil_tutorial.training.recipe import EPOCHS, LEARNING_RATE, split_bags

MODELS: dict[str, Callable[[int], MILPool]] = {
    "ABMIL": ABMIL,
    "gated ABMIL": lambda dim: ABMIL(dim, gated=True),
    "mean pooling": MeanPool,
    "max pooling": MaxPool,
}


def options(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    add_data_options(parser)
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="which models: " + ", ".join(MODELS))
    parser.add_argument("--folds", type=int, default=5, help="parts of the training slides; each is left out once")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], help="starting weights and orders of the bags"
    )
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="most epochs")
    parser.add_argument("--lr", type=float, default=LEARNING_RATE, help="learning rate")
    parser.add_argument("--out", default="build/repeat", help="folder of the results; what is there already stays")
    parser.add_argument("--scheduler", help=SCHEDULER)


def run(args: argparse.Namespace) -> int:
    """Run what is not there yet, and print the table."""
    data = open_root(args)
    encoder = args.encoder or data.encoder
    root = None if data.synthetic and not args.data else str(data.root)
    with Record(args.out, "repeat", asked(args), data.inputs(encoder, "train")):
        table = repeat(
            root,
            encoder,
            args.out,
            models=args.models,
            folds=args.folds,
            seeds=args.seeds,
            epochs=args.epochs,
            lr=args.lr,
            scheduler=args.scheduler,
            trident_run=data.trident_dir.name,
        )
    print(
        f"AUC of {args.folds} folds' slides together, mean and deviation over {len(args.seeds)} seeds;"
        " test slides were not touched"
    )
    print(table.to_string(index=False, float_format="%.3f"))
    return 0


def repeat(
    root: str | os.PathLike[str] | None,
    encoder: str,
    out: str | os.PathLike[str],
    *,
    models: Sequence[str] = tuple(MODELS),
    folds: int = 5,
    seeds: Sequence[int] = (0, 1, 2),
    epochs: int = EPOCHS,
    lr: float = LEARNING_RATE,
    scheduler: str | None = None,
    progress: bool = True,
    trident_run: str | None = None,
) -> pd.DataFrame:
    """Train folds x seeds x models and write one file for each, and `summary.csv`; what is there already stays.

    Args:
        root: data root; None takes what `open_data()` finds.
        encoder: name of the features.
        out: folder of the results.
        models: some of ABMIL, gated ABMIL, mean pooling, max pooling.
        folds, seeds: each seed makes its own folds, stratified by label; a patient's slides are in one fold.
        epochs, lr: see `fit`.
        scheduler: of Dask, see `run_tasks`; None works here.
        trident_run: name of the TRIDENT run folder, where the root holds several.

    Returns:
        DataFrame with a row for each model: runs, auc_mean over seeds (each the AUC of all folds' slides together),
        auc_sd between seeds.

    Raises:
        ParameterError: an unknown model, or fewer than two folds, one seed or one epoch.
        DataError: some runs failed (the message names each).
    """
    for model in models:
        require(model in MODELS, "models", model, f"some of {', '.join(MODELS)}")
    require_integer("folds", folds, low=2)
    require_integer("epochs", epochs, low=1)
    require_number("lr", lr, low=0, open_low=True)
    require(len(seeds) > 0 and min(seeds) >= 0, "seeds", list(seeds), "whole numbers of at least 0, one or more")
    out = Path(out).resolve()
    place = None if root is None else str(Path(root).resolve())
    inputs, tasks = fingerprint(place, encoder, trident_run), {}
    for model in models:
        for seed in seeds:
            for fold in range(folds):
                settings = {"encoder": encoder, "model": model, "fold": fold, "folds": folds, "seed": seed}
                settings |= {"epochs": epochs, "lr": lr, "inputs": inputs}
                name = f"{model.replace(' ', '-')}_seed{seed}_fold{fold}"
                tasks[name] = (place, trident_run, settings, str(out / f"{name}.json"))
    results, errors = run_tasks(train_once, tasks, scheduler=scheduler, what="Training", unit="run", progress=progress)
    refuse_failures([*errors.values()], len(results), len(tasks), "runs")
    table = _summarize(list(results.values()), models, seeds)
    with written_whole(out / "summary.csv") as temporary:
        table.to_csv(temporary, index=False)
    return table


def _summarize(results: Sequence[dict], models: Sequence[str], seeds: Sequence[int]) -> pd.DataFrame:
    rows = []
    for model in models:
        aucs, runs = [], 0
        for seed in seeds:
            folds = [r for r in results if (r["settings"]["model"], r["settings"]["seed"]) == (model, seed)]
            runs += len(folds)
            labels, probabilities = (np.concatenate([r[k] for r in folds]) for k in ("labels", "probabilities"))
            aucs.append(roc_auc_score(labels, probabilities))
        deviation = np.std(aucs, ddof=1) if len(aucs) > 1 else np.nan
        rows.append({"model": model, "runs": runs, "auc_mean": np.mean(aucs), "auc_sd": deviation})
    return pd.DataFrame(rows)


def fingerprint(root: str | None, encoder: str, trident_run: str | None = None) -> str:
    """What runs rest on, in 16 hex digits: labels, split, and the features of all training slides."""
    files = open_data(root, run=trident_run).inputs(encoder, "train")
    return hashlib.sha256(" ".join(digest(f) for f in files).encode()).hexdigest()[:16]


def train_once(root: str | None, trident_run: str | None, settings: dict[str, Any], target: str) -> dict[str, Any]:
    """Train one model on all folds but one, score that one, and write the result; take the result that is there.

    An inner part of the training folds chooses the epoch, so that the fold that is scored chooses nothing. It runs on
    the CPU, where as many runs as there are cores go side by side.

    Args:
        root, trident_run: see `repeat`.
        settings: encoder, model, fold, folds, seed, epochs, lr, and inputs, see `fingerprint`.
        target: JSON file of the result.

    Returns:
        settings, best_epoch, and of the scored fold: slides, labels, probabilities, auc (None if it holds one class
            only).

    Raises:
        DataError: the data do not fit, there are too few slides, or the file is of a run with other settings or inputs.
    """
    path = Path(target)
    if path.exists():
        return read_result(path, settings)
    data, seed = open_data(root, run=trident_run), settings["seed"]
    bags = data.bags("train", encoder=settings["encoder"])
    labels = bags.get_bag_labels()
    try:
        folds = folds_by_patient(labels, cases_of(bags), folds=settings["folds"], seed=seed)
        kept, scored = folds[settings["fold"]]
    except ValueError as error:
        raise DataError(
            f"{data.root / 'train.csv'}: {len(labels)} slides cannot be split into {settings['folds']} folds ({error})."
        ) from error
    train, val = split_bags(bags.subset(kept), seed=seed)
    torch.manual_seed(seed)
    model = MODELS[settings["model"]](bags[0]["X"].shape[1])
    history = fit(
        model,
        make_loader(train, seed=seed),
        make_loader(val),
        epochs=settings["epochs"],
        lr=settings["lr"],
        device="cpu",
        seed=seed,
        progress=False,
    )
    predictions = predict(model, make_loader(bags.subset(scored)), device="cpu")
    if fingerprint(root, settings["encoder"], trident_run) != settings["inputs"]:
        raise DataError(f"{data.root}: labels or features have changed since this command began. Run it again.")
    both = 0 < predictions.Y.sum() < len(predictions.Y)
    result = {
        "settings": settings,
        "best_epoch": history.best_epoch,
        "slides": predictions.names,
        "labels": predictions.Y.tolist(),
        "probabilities": [float(p) for p in predictions.prob],
        "auc": float(roc_auc_score(predictions.Y, predictions.prob)) if both else None,
    }
    write_json(path, result)
    return result


def read_result(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
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
            f"{path}: is not a whole result of repeated training ({error!s:.80}). Delete it and run again."
        ) from error
    if changed:
        key = changed[0]
        raise DataError(
            f"{path}: was made with {key} {before.get(key)}, now it is {settings[key]}."
            " Choose another --out, or delete the file."
        )
    if len(sizes) != 1:
        raise DataError(f"{path}: holds lists of different lengths. Delete it and run again.")
    return result

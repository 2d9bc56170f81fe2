"""torchmil's models on the synthetic slides through our `fit`, one bag a step: python benchmarks/zoo.py

Test AUC over seeds, seconds and parameters. The test slides choose nothing; one learning rate for all, not tuned.
"""

from __future__ import annotations

import argparse
import inspect
import time

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from torchmil import models as zoo

from mil_tutorial import ABMIL, MaxPool, MeanPool, bags_in_memory, fit, one_by_one, open_data
from mil_tutorial.bags.lists import ListOfBags

OURS = {"our ABMIL": ABMIL, "mean pooling": MeanPool, "max pooling": MaxPool}
THEIRS = ["ABMIL", "DSMIL", "CLAM_SB", "TransformerABMIL", "TransMIL", "SmABMIL", "DeepGraphSurv"]

STOPS = (RuntimeError, ValueError, TypeError, IndexError)  # what torchmil's models raise on bags that they cannot take


@torch.inference_mode()
def test_auc(model: torch.nn.Module, bags: ListOfBags) -> float:
    """AUC over all bags."""
    wanted = inspect.signature(model.forward).parameters
    scores = [model(**{k: batch[k] for k in batch.keys() if k in wanted}) for batch in one_by_one(bags)]
    scores = [float(s[0] if isinstance(s, tuple) else s) for s in scores]
    return roc_auc_score(bags.get_bag_labels(), scores)


def train_once(name: str, bags: ListOfBags, seed: int, epochs: int) -> torch.nn.Module:
    """A model trained on 80 % of the bags; the others choose the epoch."""
    dim = bags[0]["X"].shape[1]
    known, val = train_test_split(range(len(bags)), test_size=0.2, random_state=seed, stratify=bags.get_bag_labels())
    torch.manual_seed(seed)
    model = OURS[name](dim) if name in OURS else getattr(zoo, name)(in_shape=(dim,))
    loaders = one_by_one(bags.subset(known), seed), one_by_one(bags.subset(val))
    fit(model, *loaders, epochs=epochs, lr=5e-4, device="cpu", progress=False)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=[*OURS, *THEIRS])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6)
    args = parser.parse_args()
    data, keys = open_data(""), ["X", "Y", "adj", "coords"]
    train, test = (
        bags_in_memory(data.bags(split, keys=keys, encoder="efficientnet_lite0"), progress=False)
        for split in ("train", "test")
    )
    print(f"{'model':18} {'test AUC':>16} {'s/epoch':>8} {'parameters':>11}")
    for name in args.models:
        aucs, start = [], time.perf_counter()
        try:
            for seed in range(args.seeds):
                model = train_once(name, train, seed, args.epochs)
                aucs.append(test_auc(model, test))
        except STOPS as error:
            print(f"{name:18} stops in torchmil: {type(error).__name__}: {str(error)[:90]}", flush=True)
            continue
        seconds = (time.perf_counter() - start) / args.seeds / args.epochs
        count = sum(p.numel() for p in model.parameters())
        print(f"{name:18} {np.mean(aucs):.3f} +- {np.std(aucs):.3f} {seconds:8.2f} {count:11,}", flush=True)


if __name__ == "__main__":
    main()

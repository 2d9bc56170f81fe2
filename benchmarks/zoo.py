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

from mil_tutorial import ABMIL, MaxPool, MeanPool, TridentWSIDataset, bags_in_memory, fit, one_by_one, open_data

OURS = {"our ABMIL": ABMIL, "mean pooling": MeanPool, "max pooling": MaxPool}
THEIRS = ["ABMIL", "DSMIL", "CLAM_SB", "TransformerABMIL", "TransMIL", "SmABMIL", "DeepGraphSurv"]


def load(split: str):
    data = open_data("")
    names = data.split(split)["wsi_name"]
    keys = ["X", "Y", "adj", "coords"]
    dataset = TridentWSIDataset(
        data.trident_dir, data.root / "wsi_labels.csv", "efficientnet_lite0", wsi_names=names, bag_keys=keys
    )
    return bags_in_memory(dataset, progress=False)


@torch.inference_mode()
def test_auc(model, bags) -> float:
    wanted = inspect.signature(model.forward).parameters
    scores = [model(**{k: batch[k] for k in batch.keys() if k in wanted}) for batch in one_by_one(bags)]
    scores = [float(s[0] if isinstance(s, tuple) else s) for s in scores]
    return roc_auc_score(bags.get_bag_labels(), scores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=[*OURS, *THEIRS])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6)
    args = parser.parse_args()
    train, test = load("train"), load("test")
    dim = train[0]["X"].shape[1]
    print(f"{'model':18} {'test AUC':>16} {'s/epoch':>8} {'parameters':>11}")
    for name in args.models:
        aucs, start = [], time.perf_counter()
        try:
            for seed in range(args.seeds):
                index = range(len(train))
                a, b = train_test_split(index, test_size=0.2, random_state=seed, stratify=train.get_bag_labels())
                torch.manual_seed(seed)
                model = OURS[name](dim) if name in OURS else getattr(zoo, name)(in_shape=(dim,))
                fit(
                    model,
                    one_by_one(train.subset(a), seed),
                    one_by_one(train.subset(b)),
                    epochs=args.epochs,
                    lr=5e-4,
                    device="cpu",
                    progress=False,
                )
                aucs.append(test_auc(model, test))
        except (
            RuntimeError,
            ValueError,
            TypeError,
            IndexError,
        ) as error:  # inside torchmil: said, and the next model goes on
            print(f"{name:18} stops in torchmil: {type(error).__name__}: {str(error)[:90]}", flush=True)
            continue
        seconds = (time.perf_counter() - start) / args.seeds / args.epochs
        count = sum(p.numel() for p in model.parameters())
        print(f"{name:18} {np.mean(aucs):.3f} +- {np.std(aucs):.3f} {seconds:8.2f} {count:11,}", flush=True)


if __name__ == "__main__":
    main()

"""How far apart are runs of one recipe? Notebook 5's, from many seeds: python benchmarks/seeds.py

A seed decides the split, the first weights and the order of the slides, as in notebook 5. Prints the AUC on the
synthetic test slides, and for each run the kept epoch and the AUC on its own validation slides. Nothing is chosen.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from mil_tutorial import ABMIL, MaxPool, MeanPool, fit, make_loader, open_data, predict, split_bags

POOLS = {"ABMIL": ABMIL, "max pooling": MaxPool, "mean pooling": MeanPool}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    args = parser.parse_args()
    data = open_data("")
    bags, test_loader = data.bags("train"), make_loader(data.bags("test"))
    for name, make in POOLS.items():
        rows = []
        for seed in range(args.seeds):
            known, val = split_bags(bags, seed=seed)
            torch.manual_seed(seed)
            model, val_loader = make(bags[0]["X"].shape[1]), make_loader(val)
            train_loader = make_loader(known, data.budget.batch_size, seed=seed)
            run = fit(model, train_loader, val_loader, epochs=20, device="cpu", progress=False)
            found = [roc_auc_score(p.Y, p.prob) for p in (predict(model, test_loader), predict(model, val_loader))]
            rows.append((*found, run.best_epoch + 1))
        test = np.array([row[0] for row in rows])
        spread = f"{test.std(ddof=1):.3f}, from {test.min():.3f} to {test.max():.3f}"
        print(f"{name}: test AUC {test.mean():.3f} +- {spread}")
        for seed, (on_test, on_val, epoch) in enumerate(rows):
            print(f"   seed {seed:2d}: test {on_test:.3f}, validation {on_val:.3f}, kept epoch {epoch}")


if __name__ == "__main__":
    main()

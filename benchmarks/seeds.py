"""What of notebooks 5 and 6 holds for other seeds? Their recipe, from many: python benchmarks/seeds.py [--only maps]

A seed decides the split, the first weights and the order of the slides, as in the notebooks. The test slides are the
synthetic ones, and nothing is chosen. `pools`: the AUC of three poolings, with the kept epoch and the AUC on the run's
own validation slides. `scanner`: training slides in which the scanner tells the label. `maps`: deletion curves.
"""

from __future__ import annotations

import argparse
from collections import defaultdict

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from mil_tutorial import (
    ABMIL,
    MaxPool,
    MeanPool,
    deletion_insertion,
    fit,
    make_loader,
    open_data,
    patch_metrics,
    patch_scores,
    predict,
    split_bags,
)

DATA = open_data("")
BAGS, TEST = DATA.bags("train"), DATA.bags("test", keys=["X", "Y", "y_inst"])
TEST_LOADER = make_loader(TEST)


def train_once(seed, make=ABMIL, bags=BAGS):
    """A model, its history and its validation loader."""
    known, val = split_bags(bags, seed=seed)
    torch.manual_seed(seed)
    model, val_loader = make(bags[0]["X"].shape[1]), make_loader(val)
    train_loader = make_loader(known, DATA.budget.batch_size, seed=seed)
    return model, fit(model, train_loader, val_loader, epochs=20, device="cpu", progress=False), val_loader


def pools(seeds: int) -> None:
    for name, make in {"ABMIL": ABMIL, "max pooling": MaxPool, "mean pooling": MeanPool}.items():
        rows = []
        for seed in range(seeds):
            model, run, val_loader = train_once(seed, make)
            found = [roc_auc_score(p.Y, p.prob) for p in (predict(model, TEST_LOADER), predict(model, val_loader))]
            rows.append((*found, run.best_epoch + 1))
        test = np.array([row[0] for row in rows])
        spread = f"{test.std(ddof=1):.3f}, from {test.min():.3f} to {test.max():.3f}"
        print(f"{name}: test AUC {test.mean():.3f} +- {spread}")
        for seed, (on_test, on_val, epoch) in enumerate(rows):
            print(f"   seed {seed:2d}: test {on_test:.3f}, validation {on_val:.3f}, kept epoch {epoch}")


def patch_auc(seen) -> float:
    """Mean patch AUC of the attention over the tumour slides."""
    sick = np.flatnonzero(seen.Y == 1)
    return float(np.nanmean([patch_metrics(TEST[i]["y_inst"].numpy(), seen.attention[i])["auc"] for i in sick]))


def scanner(seeds: int) -> None:
    of = DATA.reference.set_index("wsi_name")["scanner"].astype(str)
    here, there = of[BAGS.get_bag_names()].to_numpy(), of[TEST.get_bag_names()].to_numpy()
    tells = BAGS.subset(np.flatnonzero((here == "B") == (np.array(BAGS.get_bag_labels()) == 1)))
    print("trained where the scanner tells the label: AUC where it agrees, where it disagrees; patch AUC of the map")
    for seed in range(seeds):
        seen = predict(train_once(seed, bags=tells)[0], TEST_LOADER)
        agrees = (there == "B") == (seen.Y == 1)
        aucs = [roc_auc_score(seen.Y[part], seen.prob[part]) for part in (agrees, ~agrees)]
        print(f"   seed {seed:2d}: {aucs[0]:.2f}  {aucs[1]:.2f}  {patch_auc(seen):.2f}")


def maps(seeds: int) -> None:
    print("deletion, mean over the tumour slides called with 0.8 or more: area of the curve, and (last point but one)")
    for seed in range(seeds):
        model = train_once(seed)[0]
        seen, found = predict(model, TEST_LOADER), defaultdict(list)
        for i in np.flatnonzero((seen.Y == 1) & (seen.prob >= 0.8)):
            X = TEST[i]["X"]
            for key in ("attention x n", "logit contribution"):
                curves = deletion_insertion(model, X, patch_scores(model, X)[key], steps=15, n_random=5)
                found[key].append(curves["deletion"])
            found["random order"].append(curves["random deletion"])
        words = [
            f"{k} {np.mean([c.area for c in v]):.2f} ({np.mean([c.prob[-2] for c in v]):.2f})" for k, v in found.items()
        ]
        print(f"   seed {seed:2d}: {', '.join(words) or 'no slide is called tumour'}; patch AUC {patch_auc(seen):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["pools", "scanner", "maps"])
    args = parser.parse_args()
    for name, measure, seeds in (("pools", pools, 20), ("scanner", scanner, 10), ("maps", maps, 10)):
        if args.only in (None, name):
            measure(seeds)


if __name__ == "__main__":
    main()

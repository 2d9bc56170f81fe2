"""Do other versions, other numbers of threads, give the same numbers?

    OMP_NUM_THREADS=1 python benchmarks/same.py build/same/a.npz        in each environment
    python benchmarks/same.py --compare build/same/*.npz

Features of one synthetic slide from its pixels, then a training on the shipped features from seed 0 and the
probabilities of the test slides.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from pathlib import Path

import numpy as np
import torch

from mil_tutorial import ABMIL, bag_metrics, bags_in_memory, fit, one_by_one, open_data, predict, split_bags
from mil_tutorial.commands.prepare import prepare
from mil_tutorial.slides.options import PrepareOptions
from mil_tutorial.trident import read_features


def numbers(epochs: int) -> dict[str, np.ndarray]:
    """Everything that is compared."""
    data = open_data("")
    encoder = data.encoders[0]
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder, "images")
        images.mkdir()
        slide = data.slide_path("tumor_003")
        (images / slide.name).write_bytes(slide.read_bytes())
        prepare(images, folder, PrepareOptions(), progress=False)
        (made,) = Path(folder).rglob(f"features_*/{slide.stem}.h5")
        features, coords = read_features(made)

    known, test = (bags_in_memory(data.bags(which, encoder=encoder), progress=False) for which in ("train", "test"))
    train, val = split_bags(known)
    torch.manual_seed(0)
    model = ABMIL(features.shape[1])
    loaders = one_by_one(train, seed=0), one_by_one(val)
    history = fit(model, *loaders, epochs=epochs, lr=5e-4, device="cpu", seed=0, progress=False)
    predicted = predict(model, one_by_one(test), device="cpu")
    metrics = bag_metrics(predicted.Y, predicted.prob)
    return {
        "coordinates": coords,
        "features": features,
        "training loss": np.array(history.train_loss),
        "probabilities": predicted.prob,
        "AUC": np.array(metrics["auc"].value),
        "accuracy": np.array(metrics["accuracy"].value),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args()
    if not args.compare:
        values = numbers(args.epochs)
        versions = f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}"
        what = f"{versions}, {torch.get_num_threads()} threads"
        args.files[0].parent.mkdir(parents=True, exist_ok=True)
        np.savez(args.files[0], what=what, **values)
        print(what, f"AUC {values['AUC']:.6f}, accuracy {values['accuracy']:.6f}")
        return
    first = dict(np.load(args.files[0]))
    print(f"{'largest difference to the first':60}", *(f"{k:>14}" for k in first if k != "what"))
    for path in args.files:
        other = dict(np.load(path))
        parts = [np.abs(other[k].astype(float) - first[k].astype(float)).max() for k in first if k != "what"]
        print(f"{other['what']!s:60}", *(f"{p:14.1e}" for p in parts))
    print(f"largest feature {np.abs(first['features']).max():.1f}; on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()

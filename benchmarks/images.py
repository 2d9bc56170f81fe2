"""Real H&E pictures through the embedded encoder, our bags and our ABMIL, in cross-validation: python benchmarks/images.py FOLDER

FOLDER holds pictures whose names say the class, as the 58 of the UCSB breast cancer benchmark do (`..._benign1_ccd.tif`,
`..._malignant1_ccd.tif`; Drelie Gelasca et al., ICIP 2008). They are not in this repository: bring your own. A picture is
a bag, its patches are cut side by side. The setting is that of `classic.py`; nothing is tuned.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import cv2
import numpy as np
import torch
from classic import cross_validate
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from tqdm.auto import tqdm

from mil_tutorial import load_encoder

SUFFIXES = {".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp"}


def cut(path: Path, side: int, px: int) -> np.ndarray:
    """Patches (n, px, px, 3) of a picture, side by side from its upper left corner, without those that are almost white."""
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        raise SystemExit(f"{path}: cannot be read as a picture.")
    rgb = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    corners = [(x, y) for y in range(0, rgb.shape[0] - side + 1, side) for x in range(0, rgb.shape[1] - side + 1, side)]
    patches = [rgb[y : y + side, x : x + side] for x, y in corners]
    kept = [p for p in patches if (p.min(axis=2) < 220).mean() > 0.25] or patches
    return np.stack(
        [cv2.resize(p, (px, px), interpolation=cv2.INTER_AREA if side > px else cv2.INTER_CUBIC) for p in kept]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--positive", default="malignant", help="a name with this word is a positive bag")
    parser.add_argument(
        "--group", default=r"^(ytma\d+_\d+)", help="pictures of one group are of one tissue; see the last column"
    )
    parser.add_argument("--side", type=int, default=128, help="side of a patch in pixels of the picture")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    files = sorted(p for p in args.folder.iterdir() if p.suffix.lower() in SUFFIXES)
    if not files:
        raise SystemExit(f"{args.folder}: no pictures here.")
    labels = np.array([int(args.positive in p.name) for p in files])
    groups = np.array([m[1] if (m := re.search(args.group, p.name)) else p.name for p in files])
    encoder = load_encoder()
    arrays = [encoder.encode(cut(p, args.side, encoder.px)) for p in tqdm(files, desc="Encoding", unit="picture")]
    torch.set_num_threads(1)
    print(
        f"{len(files)} pictures, {labels.sum()} positive, {len(set(groups))} groups, {np.mean([len(a) for a in arrays]):.0f} patches a bag"
    )
    for what, folds in (
        ("ten folds, as the paper", StratifiedKFold),
        ("folds that keep a group together", StratifiedGroupKFold),
    ):
        n = min(10, len(set(groups))) if folds is StratifiedGroupKFold else 10
        accuracies, aucs = cross_validate(
            arrays, labels, folds, n, args.repeats, args.seed, args.hidden, args.epochs, groups
        )
        print(
            f"{what:34} accuracy {np.mean(accuracies):.3f} +- {np.std(accuracies):.3f}   AUC {np.mean(aucs):.3f} +- {np.std(aucs):.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()

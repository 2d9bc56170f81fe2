"""Real H&E images through the embedded encoder, our bags and our ABMIL, in cross-validation:

    python benchmarks/images.py FOLDER

FOLDER holds images whose names tell the class, as the 58 of the UCSB breast cancer benchmark do
(`..._benign1_ccd.tif`, `..._malignant1_ccd.tif`; Drelie Gelasca et al., ICIP 2008). They are not in this repository:
bring your own. An image is a bag, its patches are cut side by side. The setting is that of `classic.py`; nothing is
tuned.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import cv2
import numpy as np
import torch
from classic import add_setting, cross_validate, read_setting, spread
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from tqdm.auto import tqdm

from mil_tutorial import load_encoder

SUFFIXES = {".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp"}


def cut(path: Path, side: int, px: int) -> np.ndarray:
    """Patches (n, px, px, 3) of an image, side by side from the upper left corner, without almost white ones."""
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        raise SystemExit(f"{path}: cannot be read as an image.")
    rgb = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    corners = [(x, y) for y in range(0, rgb.shape[0] - side + 1, side) for x in range(0, rgb.shape[1] - side + 1, side)]
    patches = [rgb[y : y + side, x : x + side] for x, y in corners]
    kept = [p for p in patches if (p.min(axis=2) < 220).mean() > 0.25] or patches
    how = cv2.INTER_AREA if side > px else cv2.INTER_CUBIC
    return np.stack([cv2.resize(p, (px, px), interpolation=how) for p in kept])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--positive", default="malignant", help="a name with this word is a positive bag")
    parser.add_argument("--group", default=r"^(ytma\d+_\d+)", help="images with the same match are of one tissue")
    parser.add_argument("--side", type=int, default=128, help="side of a patch in pixels of the image")
    add_setting(parser)
    args = parser.parse_args()
    files = sorted(p for p in args.folder.iterdir() if p.suffix.lower() in SUFFIXES)
    if not files:
        raise SystemExit(f"{args.folder}: no images here.")
    labels = np.array([int(args.positive in p.name) for p in files])
    groups = np.array([m[1] if (m := re.search(args.group, p.name)) else p.name for p in files])
    encoder = load_encoder()
    arrays = [encoder.encode(cut(p, args.side, encoder.px)) for p in tqdm(files, desc="Encoding", unit="image")]
    torch.set_num_threads(1)
    patches = np.mean([len(a) for a in arrays])
    print(f"{len(files)} images, {labels.sum()} positive, {len(set(groups))} groups, {patches:.0f} patches a bag")
    ways = {
        "ten folds, as the paper": {"folds": StratifiedKFold, "n": 10},
        "folds that keep a group together": {"folds": StratifiedGroupKFold, "n": min(10, len(set(groups)))},
    }
    for way, options in ways.items():
        accuracies, aucs = cross_validate(arrays, labels, read_setting(args), groups=groups, **options)
        print(f"{way:34} accuracy {spread(accuracies)}   AUC {spread(aucs)}", flush=True)


if __name__ == "__main__":
    main()

"""Small inputs for tests: a data root of some of the fixture's slides, and a pyramid TIFF of given pixels."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile

RUN = "trident_processed/20x_512px_0px_overlap"


def copy_root(data, root: Path, splits: Mapping[str, Sequence[str]]) -> Path:
    """A data root with the slides of `splits` ("train", "test"): patches, features and patch labels, no images."""
    run, labels = root / RUN, data.labels.set_index("wsi_name")["wsi_label"]
    everything = [name for names in splits.values() for name in names]
    for name in everything:
        for part in ("patches", "features_efficientnet_lite0", "patch_labels"):
            for file in (data.trident_dir / part).glob(f"{name}*.h5"):
                (run / part).mkdir(parents=True, exist_ok=True)
                shutil.copy(file, run / part)
    for file, names in {**splits, "wsi_labels": everything}.items():
        table = pd.DataFrame({"wsi_name": names, "wsi_label": labels[names].to_numpy()})
        table.to_csv(root / f"{file}.csv", index=False)
    return root


def page_data(path: Path) -> dict:
    """What a slide's page knows: places, scores, labels, tiles."""
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def write_pyramid(path: Path, pixels: np.ndarray, mpp: float) -> None:
    """A tiled TIFF of three levels that OpenSlide opens: `pixels` (H, W, 3) as an image, (H, W) as a mask."""
    kind = "rgb" if pixels.ndim == 3 else "minisblack"
    with tifffile.TiffWriter(path) as file:
        for level in range(3):
            per_cm = 1e4 / (mpp * 2**level)
            file.write(
                pixels[:: 2**level, :: 2**level],
                tile=(256, 256),
                compression="zlib",
                photometric=kind,
                resolution=(per_cm, per_cm),
                resolutionunit="CENTIMETER",
                subfiletype=int(level > 0),
            )


def write_tissue_slide(path: Path, mpp: float | None = 0.5, *, turned: bool = False, glass: bool = False) -> None:
    """A slide of 1024 x 1024 pixels, 600 x 600 of them tissue: 16 patches of 256. Without `mpp` it does not say it."""
    pixels = np.full((1024, 1024, 3), 240, np.uint8)
    if not glass:
        pixels[200:800, 200:800] = (180, 90, 160) + np.random.default_rng(0).integers(-20, 20, (600, 600, 3))
    size = {} if mpp is None else {"resolution": (1e4 / mpp,) * 2, "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, pixels[::-1] if turned else pixels, tile=(256, 256), photometric="rgb", **size)

"""Data, models and scores that several slides show. Each is computed once, when a slide first asks for it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from mil_tutorial import (
    ABMIL,
    MaxPool,
    MeanPool,
    Predictions,
    fit,
    label_patches,
    make_loader,
    open_data,
    open_slide,
    predict,
    read_overview,
    split_bags,
)
from mil_tutorial.fixture.tree import fixture_root
from mil_tutorial.trident import Patches, read_patch_labels, read_patches

SEEDS = range(5)
POOLINGS = {"ABMIL": ABMIL, "mean pooling": MeanPool, "max pooling": MaxPool}


@cache
def data():
    """The synthetic slides, whatever MIL_TUTORIAL_DATA says."""
    return open_data(fixture_root())


@cache
def patches_of(name: str) -> Patches:
    """Corners and grid of a slide."""
    return read_patches(data().trident_dir / "patches" / f"{name}_patches.h5")


@cache
def truth_of(name: str) -> np.ndarray:
    """Patch labels of a slide."""
    return read_patch_labels(data().trident_dir / "patch_labels" / f"{name}.h5")


@cache
def shares_of(name: str) -> np.ndarray:
    """Tumour share of each patch."""
    patches = patches_of(name)
    return label_patches(data().mask_path(name), patches.coords, patches.geometry.patch_size_level0).fraction


@cache
def overview_of(name: str, width: int = 1600) -> np.ndarray:
    """A slide, `width` pixels wide."""
    with open_slide(data().slide_path(name)) as slide:
        return read_overview(slide, downsample=slide.dimensions[0] / width)


@cache
def side_of(name: str) -> int:
    """Side of a patch in level-0 pixels."""
    return patches_of(name).geometry.patch_size_level0


@cache
def facts_of(name: str) -> tuple[tuple[int, int], float]:
    """Size of a slide in level-0 pixels, and µm per pixel."""
    with open_slide(data().slide_path(name)) as slide:
        return slide.dimensions, float(slide.properties["openslide.mpp-x"])


@cache
def mask_of(name: str, x: int, y: int, side: int, pixels: int = 500) -> np.ndarray:
    """Where tumour is in a square of a slide, about `pixels` wide."""
    with open_slide(data().mask_path(name)) as mask:
        values = np.array(mask.read_region((x, y), 0, (side, side)))[:, :, 0] == 2
    return values[:: max(1, side // pixels), :: max(1, side // pixels)]


@cache
def of_size(kind: str, split: str = "train") -> list[str]:
    """Names of the tumour slides of a split with lesions of one size: `itc`, `micro` or `macro`."""
    names = set(data().split(split)["wsi_name"])
    reference = data().reference
    return [n for n in reference.loc[reference["lesion_size"] == kind, "wsi_name"] if n in names]


@cache
def bags(split: str):
    """The bags of a split; each is read once."""
    return data().bags(split, keys=["X", "Y", "y_inst"])


@dataclass
class Run:
    """One training: the model with its best weights, its history, and its slides."""

    model: torch.nn.Module
    history: object
    train: object
    val: object
    diary: list

    @property
    def validation(self) -> Predictions:
        """Answers on the validation slides."""
        return predict(self.model, make_loader(self.val))


class Diary(list):
    """A logger for `fit` that keeps validation loss and weights of every epoch."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def log(self, record: dict) -> None:
        """Called by `fit` after each epoch."""
        self.append((record["val_loss"], copy.deepcopy(self.model.state_dict())))


@cache
def train(seed: int = 0, pooling: str = "ABMIL", split: int | None = None) -> Run:
    """Train as notebooks 5 and 6 do; with `split`, the split has a seed of its own, as in notebook 4."""
    fit_part, val_part = split_bags(bags("train"), seed=seed if split is None else split)
    torch.manual_seed(seed)
    model = POOLINGS[pooling](bags("train")[0]["X"].shape[1])
    diary = Diary(model)
    history = fit(model, make_loader(fit_part, seed=seed), make_loader(val_part), progress=False, logger=diary)
    return Run(model, history, fit_part, val_part, diary)


@cache
def test_answers(seed: int = 0, pooling: str = "ABMIL") -> Predictions:
    """Answers on the test slides. Chapters 5 and 6 alone may ask for them."""
    return predict(train(seed, pooling).model, make_loader(bags("test")))

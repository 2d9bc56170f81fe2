"""What the training slides of a model are like, in numbers, so that another slide can be compared with them.

The question is always the same: how many of the training slides are as extreme as this slide? Each of them is measured
by axes that were fitted without it, so the answer is a false-alarm rate, and no threshold has to be guessed: of slides
that come from where the n training slides came from, at most 1 of n + 1 lies beyond all of them.

Source: Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World", 2005 (conformal p-values, by folds).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from sklearn.utils.extmath import randomized_svd
from tqdm.auto import tqdm

from mil_tutorial.bags.dataset import TridentWSIDataset
from mil_tutorial.errors import DataError
from mil_tutorial.slides.encoders import weights_digest
from mil_tutorial.trident import features_header, read_how, read_patches

AXES = 16  # directions in which the training patches differ most; a slide may lie anywhere in them

FOLDS = 5  # each training slide is measured by axes of the other four fifths

ROWS = 32  # patches of a slide that the axes are fitted to

MEASURED = 256  # patches of a slide that its distance is measured on

CHOICES = ("min_tissue_proportion", "remove_penmarks")  # of `PrepareOptions`, where `prepare` has written the files

# What a slide is when at most this part of slides like the training slides would be as extreme.
LEVELS = {"unlike": 0.01, "unusual": 0.05}


@dataclass(frozen=True, kw_only=True)
class KnownSlides:
    """What a checkpoint knows of the slides that its model was trained and validated on.

    Attributes:
        synthetic: they were drawn by a program.
        training, validation: how many slides, and how many of them with tumour: pairs.
        digest: of their names.
        weights: digest of the encoder's file of weights, "" where it is not known.
        patches: how their patches were made: mag, patch_size, overlap, and what else their files say.
        dtype, step: type of their features; what they are multiples of, 0 if of nothing.
        magnifications: nominal ones at level 0.
        mpp: smallest and largest µm per pixel at level 0 where files say it, else empty.
        counts: number of patches of each slide, ascending.
        center, axes: float32 (D,) and (k, D): mean of their patches, and the directions in which these differ most.
        distances: of each slide from the axes of others, ascending.
    """

    synthetic: bool
    training: tuple[int, int]
    validation: tuple[int, int]
    digest: str
    weights: str
    patches: dict[str, Any]
    dtype: str
    step: float
    magnifications: tuple[float, ...]
    mpp: tuple[float, ...]
    counts: np.ndarray
    center: np.ndarray
    axes: np.ndarray
    distances: np.ndarray

    @property
    def n(self) -> int:
        """Number of slides."""
        return len(self.counts)

    def state(self) -> dict[str, Any]:
        """For a file of `torch.save`: plain values and tensors."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in values.items()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> KnownSlides:
        """What `state` gave.

        Raises:
            KeyError, ValueError: something is missing, or of another shape.
        """
        values: dict[str, Any] = {}
        for f in fields(cls):
            value = state[f.name]
            value = value.numpy() if isinstance(value, torch.Tensor) else value
            values[f.name] = tuple(value) if isinstance(value, list) else value
        known = cls(**values)
        if known.axes.shape[1:] != known.center.shape or len(known.distances) != known.n:
            raise ValueError(f"axes of shape {known.axes.shape} for a center of shape {known.center.shape}")
        return known


def know_slides(
    train: TridentWSIDataset, val: TridentWSIDataset, *, encoder: str, synthetic: bool, progress: bool = True
) -> KnownSlides:
    """Measure the slides of two data sets of bags, which a model was trained and validated on.

    Args:
        train, val: the bags.
        encoder: name of their features.
        synthetic: the slides were drawn by a program.
        progress: show a bar.

    Raises:
        DataError: a file is damaged.
    """
    parts = [(bags, i) for bags in (train, val) for i in range(len(bags))]
    rows, counts, step = [], [], 1.0
    made: list[dict[str, Any]] = []
    for bags, i in tqdm(parts, desc="Knowing the slides", unit="slide", leave=False, delay=2, disable=not progress):
        X = bags[i]["X"].numpy()
        rows.append(even_rows(X, MEASURED))
        step = _step_of(rows[-1], step)
        counts.append(len(X))
        made.append(_how_made(bags, bags.get_bag_names()[i]))
    sizes = [how["mpp"] for how in made if "mpp" in how]
    names = sorted(train.get_bag_names() + val.get_bag_names())
    center, axes = fit_axes(rows)
    header = features_header(train.features_path / f"{train.get_bag_names()[0]}.h5", coords=False)
    return KnownSlides(
        synthetic=synthetic,
        training=(len(train), sum(train.get_bag_labels())),
        validation=(len(val), sum(val.get_bag_labels())),
        digest=hashlib.sha256("\n".join(names).encode()).hexdigest()[:16],
        weights=weights_digest(encoder),
        patches={k: v for k, v in made[0].items() if k in ("mag", "patch_size", "overlap", *CHOICES)},
        dtype=header[1].name,
        step=step,
        magnifications=tuple(sorted({how["level0"] for how in made if "level0" in how})),
        mpp=(min(sizes), max(sizes)) if len(sizes) == len(made) else (),
        counts=np.sort(np.array(counts)),
        center=center,
        axes=axes,
        distances=np.sort(held_out_distances(rows)),
    )


def _how_made(bags: TridentWSIDataset, name: str) -> dict[str, Any]:
    """How the patches of a slide were made, as far as their file says it; without a file, nothing."""
    path = bags.base_path / "patches" / f"{name}_patches.h5"
    if not path.is_file():
        return {}
    grid = read_patches(path).geometry
    how = {"mag": grid.target_magnification, "patch_size": grid.patch_size, "overlap": grid.overlap}
    return {**how, "level0": grid.level0_magnification, **read_how(path, ("mpp", *CHOICES))}


def _step_of(X: np.ndarray, step: float) -> float:
    """The largest 2^-k up to `step` that all values are multiples of; 0 if there is none above 2^-12."""
    while step >= 2.0**-12:
        if np.array_equal(np.round(X / step) * step, X):
            return step
        step /= 2
    return 0.0


def even_rows(X: np.ndarray, most: int) -> np.ndarray:
    """At most so many rows, evenly spread over all."""
    return X if len(X) <= most else X[np.linspace(0, len(X) - 1, most).astype(np.int64)]


def fit_axes(slides: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) of patches and the directions (k, D) in which they differ most, each slide counting the same.

    Args:
        slides: features of the slides' patches, (n, D) each.
    """
    patches = np.concatenate([even_rows(X, ROWS) for X in slides])
    center = patches.mean(0)
    _, _, axes = randomized_svd(patches - center, min(AXES, *patches.shape), n_iter=4, random_state=0)
    return center.astype(np.float32), axes.astype(np.float32)


def distance(X: np.ndarray, center: np.ndarray, axes: np.ndarray) -> float:
    """How far the mean of a slide's patches lies off the axes, in the features' own units.

    Which tissue a slide has moves its patches along the axes; another stain, blur or magnification moves all of them
    together, off the axes. What a mean of few patches moves by chance is taken off.

    Args:
        X: (n, D) features of its patches.
        center, axes: as `fit_axes` gives them.
    """
    off = even_rows(X, MEASURED) - center
    off = off - off @ axes.T @ axes
    squared, n = float((off.mean(0, dtype=np.float64) ** 2).sum()), len(off)
    chance = (float((off.astype(np.float64) ** 2).sum()) / n - squared) / (n - 1) if n > 1 else 0.0
    return float(np.sqrt(max(0.0, squared - chance)))


def held_out_distances(slides: Sequence[np.ndarray]) -> np.ndarray:
    """The distance of each slide from the axes of slides in other folds, (n,)."""
    if len(slides) < 2:
        raise DataError(f"{len(slides)} slides with patches: two are needed to say how they differ. Check the split.")
    fold = np.arange(len(slides)) % FOLDS
    out = np.empty(len(slides))
    for f in np.unique(fold).tolist():
        center, axes = fit_axes([X for X, g in zip(slides, fold, strict=True) if g != f])
        for i in np.flatnonzero(fold == f).tolist():
            out[i] = distance(slides[i], center, axes)
    return out


def rarity(value: float, training: np.ndarray, *, both_sides: bool = False) -> float:
    """The part of slides like the training slides that would be as extreme as `value`, from 1 / (n + 1) to 1.

    >>> rarity(7.0, np.arange(4.0)), rarity(1.5, np.arange(4.0))
    (0.2, 0.6)

    Args:
        value: of the slide in question.
        training: the same measure of n training slides.
        both_sides: a value that is too small is extreme, too.
    """
    n = len(training)
    above = (1 + int((training >= value).sum())) / (n + 1)
    below = (1 + int((training <= value).sum())) / (n + 1)
    return min(1.0, 2 * min(above, below)) if both_sides else above


def false_alarms(n: int) -> float:
    """At most this part of slides like n training slides is called `unlike`, by look (one side) or size (both)."""
    return sum(max(LEVELS["unlike"], sides / (n + 1)) for sides in (1, 2))


def verdict(part: float, n: int, *, both_sides: bool = False) -> str:
    """`unlike`, `unusual` or `like`, for a `rarity` among n training slides.

    Few slides cannot show that something is rare: then only what lies beyond all of them is `unlike`.
    """
    least = (1 + both_sides) / (n + 1)
    return next((word for word, level in LEVELS.items() if part <= max(level, least) + 1e-12), "like")

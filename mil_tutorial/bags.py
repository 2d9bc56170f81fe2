"""Bags: all patches of one slide as a TensorDict, with one label for the whole.

The keys are torchmil's: `X` features, `Y` bag label, `y_inst` patch labels, `adj` which patches touch, `coords` grid places.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.spatial import cKDTree
from tensordict import TensorDict
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from mil_tutorial import trident
from mil_tutorial.files import DataError
from mil_tutorial.labels import read_label_table, read_patch_labels

KEYS = ("X", "Y", "y_inst", "adj", "coords")


def build_adjacency(
    cells: np.ndarray, distance: float = np.sqrt(2), features: np.ndarray | None = None, normalize: bool = True
) -> torch.Tensor:
    """Which patches are neighbours in the grid.

    Args:
        cells: (n, 2) grid places.
        distance: patches at most this far apart are neighbours; sqrt(2) takes the eight around a patch.
        features: if given, (n, D): an edge weighs exp(-|x_i - x_j| / D) in place of 1.
        normalize: divide by the square roots of both degrees.

    Returns:
        Sparse COO float32 (n, n), coalesced. A bag of one patch is its own neighbour.
    """
    n = len(cells)
    pairs = cKDTree(cells).query_pairs(distance + 1e-6, output_type="ndarray") if n > 1 else np.empty((0, 2), np.int64)
    row, column = np.concatenate([pairs, pairs[:, ::-1]]).T
    weight = np.ones(len(row))
    if features is not None:
        weight = np.exp(
            -np.linalg.norm(features[row].astype(np.float64) - features[column], axis=1) / features.shape[1]
        )
    if normalize:
        degree = np.bincount(row, weight, n)
        weight = weight / np.sqrt(degree[row] * degree[column])
    if n == 1:
        row, column, weight = np.zeros((3, 1), np.int64)
        weight = np.ones(1)
    ordered = coo_array((weight, (row, column)), shape=(n, n)).tocsr().tocoo()  # sorted by row, then column
    index = torch.from_numpy(np.stack(ordered.coords).astype(np.int64))
    return torch.sparse_coo_tensor(
        index, torch.from_numpy(ordered.data.astype(np.float32)), (n, n), is_coalesced=True, check_invariants=False
    )


class TridentWSIDataset(Dataset):
    """Bags from TRIDENT's files, read when asked for. Takes torchmil's call of the same name as it stands.

    Args:
        base_path: TRIDENT's run folder, such as `.../20x_512px_0px_overlap`.
        labels_path: CSV with the slides' labels.
        feature_extractor: name of the encoder; features lie in `features_<name>`.
        patch_labels_path: folder of patch labels; `<base_path>/patch_labels` by default.
        wsi_names: the slides to take; by default all that have features and a label.
        bag_keys: which of X, Y, y_inst, adj, coords a bag holds.
        patch_size: not needed, the files know; if given and in conflict with them, an error.
        dist_thr, adj_with_dist, norm_adj: see `build_adjacency`.
        load_at_init: read all bags now and keep them in memory.
        wsi_name_col, wsi_label_col: columns of the CSV.

    `dataset[i]` is a TensorDict with X (n, D) float32, Y () float32, y_inst (n,) int64, adj sparse (n, n) float32,
    coords (n, 2) int64 grid column and row from 0.

    Raises:
        DataError: a file is missing, damaged or does not fit, or a slide has no patch. The message names it.

    Source: call and keys follow torchmil 1.0.2 (Castro-Macías et al., 2025).
    """

    def __init__(
        self, base_path: str | os.PathLike, labels_path: str | os.PathLike, feature_extractor: str,
        patch_labels_path: str | os.PathLike | None = None, wsi_names: Sequence[str] | None = None, bag_keys: Sequence[str] = KEYS,
        patch_size: int | None = None, dist_thr: float | None = None, adj_with_dist: bool = False, norm_adj: bool = True,
        load_at_init: bool = False, wsi_name_col: str = "wsi_name", wsi_label_col: str = "wsi_label",
    ):  # fmt: skip
        self.base_path = Path(base_path)
        self.features_path = self.base_path / f"features_{feature_extractor}"
        self.patch_labels_path = Path(patch_labels_path) if patch_labels_path else self.base_path / "patch_labels"
        unknown = set(bag_keys) - set(KEYS)
        if unknown:
            raise ValueError(f"bag_keys {sorted(unknown)} are unknown, expected some of {KEYS}.")
        self.bag_keys, self.patch_size = tuple(bag_keys), patch_size
        self.distance, self.adj_with_dist, self.norm_adj = dist_thr or np.sqrt(2), adj_with_dist, norm_adj
        self.labels_path = Path(labels_path)
        table = read_label_table(labels_path, wsi_name_col, wsi_label_col)
        self._label = dict(zip(table["wsi_name"], table["wsi_label"], strict=True))
        if not self.features_path.is_dir():
            others = ", ".join(sorted(p.name for p in self.base_path.glob("features_*"))) or "none"
            raise DataError(
                f"{self.features_path}: there is no such folder (feature folders there: {others}). Check the encoder's name."
            )
        there = {p.stem for p in self.features_path.glob("*.h5") if not p.name.startswith(".")}
        names = sorted(there & set(self._label)) if wsi_names is None else sorted(wsi_names)
        lost = [n for n in names if n not in there]
        if lost or not names:
            what = (
                f"{len(lost)} of {len(names)} slides have no features, such as {lost[0]}"
                if lost
                else "no slide has both features and a label"
            )
            raise DataError(f"{self.features_path}: {what}. Prepare them, or take them out of {self.labels_path.name}.")
        nameless = [n for n in names if n not in self._label]
        if nameless:
            raise DataError(
                f"{labels_path}: no label for slide {nameless[0]} and {len(nameless) - 1} more. Add the lines."
            )
        self.bag_names = names
        self._first: dict[str, tuple[int, str]] = {}  # feature size of the first slide read
        self._kept: dict[str, TensorDict] = {}
        if load_at_init:
            self._kept = {name: self._build_bag(name) for name in tqdm(names, desc="Loading bags", unit="bag")}

    def __len__(self) -> int:
        return len(self.bag_names)

    def __getitem__(self, index: int) -> TensorDict:
        name = self.bag_names[index]
        return self._kept[name].copy() if name in self._kept else self._build_bag(name)

    def get_bag_names(self) -> list[str]:
        """Names of the slides, in the order of the bags."""
        return list(self.bag_names)

    def get_bag_labels(self) -> list[int]:
        """Labels of the slides, in the order of the bags. No feature file is opened."""
        return [self._label[name] for name in self.bag_names]

    def subset(self, indices: Sequence[int]) -> TridentWSIDataset:
        """The same dataset with these bags only, in this order."""
        part = copy.copy(self)
        part.bag_names = [self.bag_names[i] for i in indices]
        return part

    def read_patches(self, name: str) -> trident.Patches:
        """Coordinates in level-0 pixels and geometry of a slide's patches."""
        return trident.read_patches(self.base_path / "patches" / f"{name}_patches.h5")

    def _check_features(self, path: Path, features: np.ndarray) -> None:
        """All slides need features of one size, all finite."""
        dim, first = self._first.setdefault("dim", (features.shape[1], path.name))
        if features.shape[1] != dim:
            raise DataError(
                f"{path}: {features.shape[1]} features for each patch, {first} has {dim}. Use one encoder for all slides."
            )
        if not np.isfinite(features).all():
            bad = int((~np.isfinite(features)).sum())
            raise DataError(f"{path}: {bad} features are NaN or infinite. Make its features again.")

    def _build_bag(self, name: str) -> TensorDict:
        path = self.features_path / f"{name}.h5"
        features, feature_coords = trident.read_features(path)
        n = len(features)
        if n == 0:
            raise DataError(
                f"{path}: slide {name} has no patches, and a bag needs at least one. Leave the slide out of the split."
            )
        self._check_features(path, features)
        patches = self.read_patches(name)
        side = patches.geometry.patch_size_level0
        if self.patch_size is not None and self.patch_size != side:
            raise DataError(
                f"{path}: patches are {side} level-0 pixels wide, patch_size={self.patch_size} was given. Leave patch_size out."
            )
        order = trident.match_rows(path, feature_coords, n, patches)
        if order is not None:
            features = features[order]
        bag = {"X": torch.from_numpy(features.astype(np.float32, copy=False))}
        cells = patches.geometry.cells(patches.coords)
        bag["coords"] = torch.from_numpy(cells)
        if "adj" in self.bag_keys:
            bag["adj"] = build_adjacency(cells, self.distance, features if self.adj_with_dist else None, self.norm_adj)
        if "y_inst" in self.bag_keys:
            bag["y_inst"] = torch.from_numpy(read_patch_labels(self.patch_labels_path / f"{name}.h5", n))
        bag["Y"] = torch.tensor(float(self._label[name]))
        return TensorDict({key: bag[key] for key in self.bag_keys})


class ListOfBags(Dataset):
    """Bags that are in memory already; see `bags_from_arrays`."""

    def __init__(self, bags: list[TensorDict], names: list[str]):
        self.bags, self.bag_names = bags, names

    def __len__(self) -> int:
        return len(self.bags)

    def __getitem__(self, index: int) -> TensorDict:
        return self.bags[index].copy()

    def get_bag_names(self) -> list[str]:
        """Names of the bags."""
        return list(self.bag_names)

    def get_bag_labels(self) -> list[int]:
        """Labels of the bags."""
        return [int(bag["Y"]) for bag in self.bags]

    def subset(self, indices: Sequence[int]) -> ListOfBags:
        """The bags of these numbers, in this order."""
        return ListOfBags([self.bags[i] for i in indices], [self.bag_names[i] for i in indices])


def bags_from_arrays(
    arrays: Sequence[np.ndarray], labels: Sequence[int], names: Sequence[str] | None = None
) -> ListOfBags:
    """A dataset from plain arrays: one (n, D) array and one label (0 or 1) for each bag.

    Raises:
        DataError: a bag is empty, not two-dimensional, of another D, not finite, or its label is not 0 or 1. It is named.
    """
    names = [f"bag {i}" for i in range(len(arrays))] if names is None else list(names)
    if not len(arrays) == len(labels) == len(names):
        raise DataError(
            f"{len(arrays)} bags, {len(labels)} labels and {len(names)} names: give one of each for every bag."
        )
    bags = []
    for name, array, label in zip(names, arrays, labels, strict=True):
        X = torch.as_tensor(np.asarray(array), dtype=torch.float32)
        if X.ndim != 2 or len(X) == 0:
            raise DataError(
                f"{name}: has shape {tuple(X.shape)}, expected (n, D) with n at least 1. Leave empty bags out."
            )
        if bags and X.shape[1] != bags[0]["X"].shape[1]:
            raise DataError(
                f"{name}: has {X.shape[1]} features, {names[0]} has {bags[0]['X'].shape[1]}. Use one encoder for all bags."
            )
        if not torch.isfinite(X).all():
            raise DataError(f"{name}: holds NaN or infinite features. Make its features again.")
        if label not in (0, 1):
            raise DataError(f"{name}: its label is {label!r}, expected 0 or 1.")
        bags.append(TensorDict({"X": X, "Y": torch.tensor(float(label))}))
    return ListOfBags(bags, names)

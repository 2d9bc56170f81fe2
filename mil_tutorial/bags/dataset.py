"""Bags: all patches of one slide as a TensorDict, with one label for the whole.

The keys are torchmil's: `X` features, `Y` bag label, `y_inst` patch labels, `adj` which patches touch, `coords` grid places.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from tensordict import TensorDict
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from mil_tutorial.bags.adjacency import build_adjacency
from mil_tutorial.bags.packed import PackedFeatures, pack, packed_folder
from mil_tutorial.errors import DataError
from mil_tutorial.geometry import grid_cells
from mil_tutorial.hdf5 import count_bad
from mil_tutorial.tables import read_label_table
from mil_tutorial.trident import Patches, match_rows, read_features, read_patch_labels, read_patches

KEYS = ("X", "Y", "y_inst", "adj", "coords")

KEEP = 256 * 2**20  # bytes of adjacency and patch labels that a dataset may remember


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
        packed: True packs the features into one memory-mapped store first, if that is not done yet (see `packed`); False
            reads TRIDENT's files; None takes a store if one is there and fits.
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
        packed: bool | None = None,
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
        self._store = self._open_store(feature_extractor, packed)
        self._first: dict[str, tuple[int, str]] = {}  # feature size of the first slide read
        self._kept: dict[str, TensorDict] = {}
        self._small: dict[tuple[str, str], torch.Tensor] = {}  # adjacency and patch labels that were built before
        self._small_bytes = 0
        if load_at_init:
            self._kept = {name: self._build_bag(name) for name in tqdm(names, desc="Loading bags", unit="bag")}

    def _open_store(self, encoder: str, packed: bool | None) -> PackedFeatures | None:
        if packed:
            return pack(self.base_path, encoder)
        folder = packed_folder(self.base_path, encoder)
        if packed is False or not folder.exists():
            return None
        try:
            store = PackedFeatures(folder)
            if not (why := store.changed(self.bag_names)):
                return store
        except DataError as error:  # damaged, or of another version: TRIDENT's files hold the same
            why = str(error).rstrip(".")
        warnings.warn(f"{folder} is not used: {why}. Run `mil-tutorial pack` again, or delete it.", stacklevel=3)
        return None

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

    def read_patches(self, name: str) -> Patches:
        """Coordinates in level-0 pixels and geometry of a slide's patches."""
        return read_patches(self.base_path / "patches" / f"{name}_patches.h5")

    def _check_dim(self, path: Path, dim: int) -> None:
        """All slides need features of one size."""
        usual, first = self._first.setdefault("dim", (dim, path.name))
        if dim != usual:
            raise DataError(
                f"{path}: {dim} features for each patch, {first} has {usual}. Use one encoder for all slides."
            )

    def _check_side(self, path: Path, side: int) -> None:
        if self.patch_size is not None and self.patch_size != side:
            raise DataError(
                f"{path}: patches are {side} level-0 pixels wide, patch_size={self.patch_size} was given. Leave patch_size out."
            )

    def _read_file(self, name: str, places: bool) -> tuple[np.ndarray, np.ndarray | None]:
        """Features (n, D) and grid places (n, 2), these only if asked for, from TRIDENT's files."""
        path = self.features_path / f"{name}.h5"
        features, feature_coords = read_features(path, coords=places)
        self._check_dim(path, features.shape[1])
        if bad := count_bad(features):
            raise DataError(f"{path}: {bad} features are NaN or infinite. Make its features again.")
        if not places:
            return features, None
        patches = self.read_patches(name)
        self._check_side(path, patches.geometry.patch_size_level0)
        order = match_rows(path, feature_coords, len(features), patches)
        return features if order is None else features[order], patches.geometry.cells(patches.coords)

    def _read_store(self, name: str, places: bool) -> tuple[np.ndarray, np.ndarray | None]:
        """The same from the packed store."""
        slide = self._store.slides[name]
        self._check_side(self._store.folder, slide.patch_size_level0)
        features, coords = self._store.rows(name)
        return features, grid_cells(coords, slide.step_level0) if places else None

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_small": {}, "_small_bytes": 0}  # workers build their own

    def _remember(self, key: str, name: str, build: Callable[[], torch.Tensor]) -> torch.Tensor:
        """What is small beside the features is built once, as long as all of it stays below `KEEP` bytes."""
        if (key, name) not in self._small:
            value = build()
            if self._small_bytes >= KEEP:
                return value
            self._small[key, name] = value
            count = value._nnz() * 20 if value.is_sparse else value.numel() * 8
            self._small_bytes += count
        return self._small[key, name]

    def _build_bag(self, name: str) -> TensorDict:
        places = bool({"coords", "adj", "y_inst"} & set(self.bag_keys)) or self.patch_size is not None
        features, cells = (self._read_store if self._store else self._read_file)(name, places)
        if len(features) == 0:
            raise DataError(
                f"{self.features_path / name}.h5: slide {name} has no patches, and a bag needs at least one. Leave the slide out of the split."
            )
        bag = {"X": torch.from_numpy(features.astype(np.float32, copy=False))}
        if "coords" in self.bag_keys:
            bag["coords"] = torch.from_numpy(cells)
        if "adj" in self.bag_keys:
            weigh = features if self.adj_with_dist else None
            bag["adj"] = self._remember(
                "adj", name, lambda: build_adjacency(cells, self.distance, weigh, self.norm_adj)
            )
        if "y_inst" in self.bag_keys:
            file = self.patch_labels_path / f"{name}.h5"
            bag["y_inst"] = self._remember(
                "y_inst", name, lambda: torch.from_numpy(read_patch_labels(file, len(features)))
            ).clone()
        bag["Y"] = torch.tensor(float(self._label[name]))
        return TensorDict({key: bag[key] for key in self.bag_keys})

"""Bags from TRIDENT's files, read when asked for."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict
from torch.utils.data import Dataset, get_worker_info
from tqdm.auto import tqdm

from mil_tutorial.bags.adjacency import build_adjacency
from mil_tutorial.bags.memory import KEEP, Memory, first_twice, memory_for_features, off_heap, pick_indices, room_for
from mil_tutorial.bags.packed import PackedFeatures, list_features, pack, packed_folder
from mil_tutorial.errors import DataError, require, require_integer, require_number
from mil_tutorial.geometry import grid_cells, grid_places
from mil_tutorial.hdf5 import count_bad
from mil_tutorial.tables import CASE, read_label_table
from mil_tutorial.trident import Patches, match_rows, read_features, read_patch_labels, read_patches

KEYS = ("X", "Y", "y_inst", "adj", "coords")

NO_CORNERS = np.empty((0, 2), np.int64), 1


def _check_types(values: dict[str, Any], kind: type | tuple[type, ...], expected: str) -> None:
    for parameter, value in values.items():
        require(isinstance(value, kind), parameter, value, expected)


def _as_keys(bag_keys: Sequence[str]) -> tuple[str, ...]:
    keys = tuple(bag_keys) if isinstance(bag_keys, Iterable) and not isinstance(bag_keys, str) else ()
    good = bool(keys) and all(key in KEYS for key in keys)
    require(good, "bag_keys", bag_keys, f"a list of some of {', '.join(KEYS)}")
    return keys


def _as_names(wsi_names: Sequence[str]) -> list[str]:
    """The slides that were asked for, sorted."""
    is_list = isinstance(wsi_names, Iterable) and not isinstance(wsi_names, str)
    names: list[Any] = list(wsi_names) if is_list else [None]
    require(all(isinstance(name, str) for name in names), "wsi_names", wsi_names, "a list of slide names")
    if not names:
        raise DataError(
            "wsi_names: no slide is named, so there are no bags. Check the list or the split it comes from."
        )
    if (twice := first_twice(names)) is not None:
        raise DataError(f"wsi_names: slide {twice} is named twice. Name each slide once.")
    return sorted(names)


class TridentWSIDataset(Dataset):
    """Bags from TRIDENT's files, read when asked for. Takes torchmil's call of the same name as it stands.

    Args:
        base_path: TRIDENT's run folder, such as `.../20x_512px_0px_overlap`.
        labels_path: CSV with the slides' labels.
        feature_extractor: name of the encoder; its features are in the folder `features_<name>`.
        patch_labels_path: folder of patch labels; `<base_path>/patch_labels` by default.
        wsi_names: the slides to take; by default all that have features and a label.
        bag_keys: which of X, Y, y_inst, adj, coords a bag holds.
        patch_size: side of a patch in level-0 pixels. Not needed, as the files know it; another one is an error.
        dist_thr: patches at most this many grid steps apart are neighbours; sqrt(2), the eight around a patch, by
            default.
        adj_with_dist: weigh neighbours by the distance of their features, see `build_adjacency`.
        norm_adj: divide by the square roots of both degrees.
        load_at_init: read all bags now and keep them in memory, however large. By default a bag that was read is kept:
            all of them if their files have 1 GB at most, else 256 MB; never more than an eighth of the free memory.
        wsi_name_col: column of the CSV with the slides' names.
        wsi_label_col: column of the CSV with their labels, 0 or 1.
        packed: True packs the features into one memory-mapped store first, if that is not done yet (see `pack`); False
            reads TRIDENT's files; None takes a store if one is there and fits.

    `dataset[i]` is a TensorDict with X (n, D) float32, Y () float32, y_inst (n,) int64, adj sparse (n, n) float32,
    coords (n, 2) int64 grid column and row from 0. Corners need not lie on one grid, see `grid_cells`; neighbours are
    found by their true places.

    Raises:
        ParameterError: an argument cannot be used.
        DataError: a file is missing, damaged or does not fit, or a slide has no patch. The message names it.

    Source: call and keys follow torchmil 1.0.2 (Castro-Macías et al., 2025).

    >>> from mil_tutorial import open_data
    >>> data = open_data()
    >>> dataset = TridentWSIDataset(data.trident_dir, data.root / "wsi_labels.csv", data.encoder, bag_keys=["X", "Y"])
    >>> dataset[0]["X"].shape
    torch.Size([38, 1280])
    """

    # More than twelve parameters, and by position: torchmil's order. What is ours comes after the star.
    def __init__(
        self,
        base_path: str | os.PathLike[str],
        labels_path: str | os.PathLike[str],
        feature_extractor: str,
        patch_labels_path: str | os.PathLike[str] | None = None,
        wsi_names: Sequence[str] | None = None,
        bag_keys: Sequence[str] = KEYS,
        patch_size: int | None = None,
        dist_thr: float | None = None,
        adj_with_dist: bool = False,
        norm_adj: bool = True,
        load_at_init: bool = False,
        wsi_name_col: str = "wsi_name",
        wsi_label_col: str = "wsi_label",
        *,
        packed: bool | None = None,
    ):
        texts = {"feature_extractor": feature_extractor, "wsi_name_col": wsi_name_col, "wsi_label_col": wsi_label_col}
        paths = {"base_path": base_path, "labels_path": labels_path, "patch_labels_path": patch_labels_path or ""}
        flags = {"adj_with_dist": adj_with_dist, "norm_adj": norm_adj, "load_at_init": load_at_init}
        _check_types(texts, str, "a text")
        _check_types(paths, (str, os.PathLike), "a path")
        _check_types(flags | {"packed": packed or False}, (bool, np.bool_), "True or False")
        require_integer("patch_size", 1 if patch_size is None else patch_size, low=1)
        self.distance = np.sqrt(2) if dist_thr is None else dist_thr
        require_number("dist_thr", self.distance, low=0, open_low=True)
        self.base_path, self.labels_path = Path(base_path), Path(labels_path)
        self.features_path = self.base_path / f"features_{feature_extractor}"
        self.patch_labels_path = Path(patch_labels_path) if patch_labels_path else self.base_path / "patch_labels"
        self.bag_keys, self.patch_size = _as_keys(bag_keys), patch_size
        self.adj_with_dist, self.norm_adj = adj_with_dist, norm_adj
        table = read_label_table(labels_path, name_column=wsi_name_col, label_column=wsi_label_col)
        self._label = dict(zip(table["wsi_name"], table["wsi_label"], strict=True))
        self._case = dict(zip(table["wsi_name"], table.get(CASE, table["wsi_name"]), strict=True))
        self.bag_names = self._find_slides(wsi_names)
        self.store = self._open_store(feature_extractor, packed)
        self._first: dict[str, tuple[int, str]] = {}  # feature size of the first slide. Subsets share all from here
        self._memory = Memory(KEEP)
        self._features = memory_for_features(room_for(self.features_path / f"{name}.h5" for name in self.bag_names))
        self._kept: dict[str, TensorDict] = {}
        if load_at_init:
            self._kept = {n: self._build_bag(n) for n in tqdm(self.bag_names, desc="Loading bags", unit="bag")}

    def _find_slides(self, wanted: Sequence[str] | None) -> list[str]:
        """The slides that were asked for, sorted; without `wanted`, all with features and a label."""
        there = list_features(self.features_path)
        if wanted is None:
            names = sorted(there.keys() & self._label.keys())
            if not names:
                raise DataError(
                    f"{self.features_path}: no slide has both features and a label: {len(there)} files, such as"
                    f" {min(there)}.h5, and {len(self._label)} labels in {self.labels_path}, such as"
                    f" {min(self._label, default='none')}. The names must be the same."
                )
            return names
        names = _as_names(wanted)
        lost = [n for n in names if n not in there]
        if lost:
            raise DataError(
                f"{self.features_path}: {len(lost)} of {len(names)} slides have no features, such as {lost[0]}."
                f" Prepare them, or take them out of {self.labels_path.name}."
            )
        if nameless := [n for n in names if n not in self._label]:
            more = f" and {len(nameless) - 1} more" if len(nameless) > 1 else ""
            raise DataError(f"{self.labels_path}: no label for slide {nameless[0]}{more}. Add it.")
        return names

    def _open_store(self, encoder: str, packed: bool | None) -> PackedFeatures | None:
        if packed:
            return pack(self.base_path, encoder)
        folder = packed_folder(self.base_path, encoder)
        if packed is False or not folder.exists():
            return None
        try:
            store = PackedFeatures(folder)
            why = store.changed(self.bag_names)
            if why is None:
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

    def get_bag_cases(self) -> list[str]:
        """The patient of each bag, from the column case_id; without it each slide is a patient of its own."""
        return [self._case[name] for name in self.bag_names]

    def subset(self, indices: Iterable[int]) -> TridentWSIDataset:
        """The same dataset with these bags only, in this order. It shares what the whole dataset keeps in memory.

        Raises:
            ParameterError: a number that is not in the dataset.
        """
        part = copy.copy(self)
        part.bag_names = [self.bag_names[i] for i in pick_indices(indices, len(self))]
        return part

    def with_memory(self, room: int) -> TridentWSIDataset:
        """The same bags, of whose features it keeps `room` bytes at most; 0 for those who keep them themselves."""
        other = self.subset(range(len(self)))
        other._features = memory_for_features(room)
        return other

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
                f"{path}: patches are {side} level-0 pixels wide, patch_size={self.patch_size} was given."
                " Leave patch_size out."
            )

    def _read_file(self, name: str, with_corners: bool) -> tuple[np.ndarray, tuple[np.ndarray, int]]:
        """Features (n, D), and corners (n, 2) with their step, if they are asked for, from TRIDENT's files."""
        path = self.features_path / f"{name}.h5"
        features, feature_coords = read_features(path, coords=with_corners)
        self._check_dim(path, features.shape[1])
        if bad := count_bad(features):
            raise DataError(f"{path}: {bad} features are NaN or infinite. Make its features again.")
        if not with_corners:
            return features, NO_CORNERS
        patches = self.read_patches(name)
        self._check_side(path, patches.geometry.patch_size_level0)
        order = match_rows(path, feature_coords, len(features), patches)
        return features if order is None else features[order], (patches.coords, patches.geometry.step_level0)

    def _read_store(self, store: PackedFeatures, name: str) -> tuple[np.ndarray, tuple[np.ndarray, int]]:
        """The same from the packed store."""
        slide = store.slides[name]
        self._check_side(store.folder, slide.patch_size_level0)
        features, coords = store.rows(name)
        return features, (coords, slide.step_level0)

    def _build_bag(self, name: str) -> TensorDict:
        with torch.inference_mode(False):  # what is kept may be trained on later
            X, corners = self._rows(name)
            if len(X) == 0:
                raise DataError(
                    f"{self.features_path / name}.h5: slide {name} has no patches, and a bag needs at least one."
                    " Leave the slide out of the split."
                )
            bag = {"X": X if X.dtype == torch.float32 else off_heap(X, torch.float32)}
            if "coords" in self.bag_keys:
                bag["coords"] = self._memory.get("coords", name, lambda: torch.from_numpy(grid_cells(*corners)))
            if "adj" in self.bag_keys:
                bag["adj"] = self._memory.get("adj", name, lambda: self._adjacency(grid_places(*corners), X.numpy()))
            if "y_inst" in self.bag_keys:
                p = self.patch_labels_path / f"{name}.h5"
                bag["y_inst"] = self._memory.get("y_inst", name, lambda: torch.from_numpy(read_patch_labels(p, len(X))))
            bag["Y"] = torch.tensor(float(self._label[name]))
            return TensorDict({key: bag[key] for key in self.bag_keys})

    def _rows(self, name: str) -> tuple[torch.Tensor, tuple[np.ndarray, int]]:
        """Features (n, D), in the files' type, and a slide's corners (n, 2) with their step, if they are needed."""
        if self.store is not None:  # it is mapped: the system keeps what there is room for
            features, corners = self._read_store(self.store, name)
            return torch.from_numpy(features), corners
        if kept := self._features.find("rows", name):
            X, coords, step = kept
            return X, (coords.numpy(), int(step))
        needed = bool({"coords", "adj", "y_inst"} & set(self.bag_keys)) or self.patch_size is not None
        features, corners = self._read_file(name, needed)
        X = torch.from_numpy(features)
        if get_worker_info() is None:  # each worker of a loader would keep its own
            self._features.keep("rows", name, X, torch.from_numpy(corners[0]), torch.tensor(corners[1]))
        return X, corners

    @property
    def reads_files(self) -> bool:
        """Whether some bags have to be read from files each time: those that are not kept in memory."""
        kept = (n in self._kept or self._features.find("rows", n) is not None for n in self.bag_names)
        return self.store is None and not all(kept)

    def _adjacency(self, places: np.ndarray, features: np.ndarray) -> torch.Tensor:
        weigh = features if self.adj_with_dist else None
        return build_adjacency(places, distance=self.distance, features=weigh, normalize=self.norm_adj)

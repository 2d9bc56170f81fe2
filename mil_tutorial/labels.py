"""Patch labels from what a pathologist drew: the share of tumour pixels in each patch."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mil_tutorial import trident
from mil_tutorial.annotations import Annotation, polygon_pixels, read_asap_xml
from mil_tutorial.engine import refuse_failures, run_tasks
from mil_tutorial.files import DataError
from mil_tutorial.geometry import Geometry, as_coords
from mil_tutorial.masks import count_pixels
from mil_tutorial.record import digest
from mil_tutorial.slides import open_slide


@dataclass(frozen=True)
class PatchLabels:
    """Labels of one slide's patches.

    Attributes:
        fraction: float32 (n,), share of tumour pixels; the part of a patch beyond the slide counts as not tumour.
        label: int8 (n,), 1 tumour, 0 not, -1 unknown.
        threshold: a patch is 1 if its fraction is larger.
    """

    fraction: np.ndarray
    label: np.ndarray
    threshold: float


def _label(fraction: np.ndarray, threshold: float, halve: bool, unknown: bool) -> PatchLabels:
    if halve and fraction.max(initial=0) > 0:
        while not (fraction > threshold).any():
            threshold /= 2
    positive = fraction > threshold
    negative = -1 if unknown else 0
    return PatchLabels(fraction, np.where(positive, 1, np.where(fraction > 0, 0, negative)).astype(np.int8), threshold)


def label_patches(
    mask_path: str | os.PathLike,
    coords: np.ndarray,
    patch_size_level0: int,
    tumor_value: int = 2,
    threshold: float = 0.5,
    halve: bool = False,
    partly_annotated: bool = False,
) -> PatchLabels:
    """Label the patches of a slide from its mask, equal to counting every level-0 pixel (see `masks`).

    Args:
        mask_path: mask pyramid of the slide's size, one grey value for each class.
        coords: (n, 2) x, y of the patches in level-0 pixels.
        patch_size_level0: side of a patch in level-0 pixels.
        tumor_value: the mask's value for tumour: 2 in CAMELYON16's released masks, 1 or 255 in converted ones.
        threshold: a patch is tumour if more than this share of it is.
        halve: halve the threshold until some patch is tumour, as the original tutorial does, if the mask has tumour at all.
        partly_annotated: patches without annotated tumour are unknown (-1), not normal.

    Raises:
        DataError: no such mask, or it cannot be read.
    """
    coords, side = as_coords(coords), int(patch_size_level0)
    if side < 1:
        raise ValueError(f"patch_size_level0 is {side}, expected at least 1.")
    fraction = (count_pixels(mask_path, coords, side, tumor_value) / side**2).astype(np.float32)
    return _label(fraction, threshold, halve, partly_annotated)


def label_patches_from_annotation(
    annotation: Annotation,
    coords: np.ndarray,
    patch_size_level0: int,
    threshold: float = 0.5,
    halve: bool = False,
    partly_annotated: bool = False,
) -> PatchLabels:
    """Label patches from polygons; equal to `label_patches` except for pixels that an outline passes through.

    Args:
        annotation: from `read_asap_xml`.
        coords, patch_size_level0, threshold, halve, partly_annotated: as `label_patches`.
    """
    side = int(patch_size_level0)
    fraction = (polygon_pixels(annotation, coords, side) / side**2).astype(np.float32)
    return _label(fraction, threshold, halve, partly_annotated)


def write_patch_labels(path: str | os.PathLike, labels: PatchLabels, **how: object) -> None:
    """Write `patch_labels/<slide>.h5`: dataset `patch_labels` int8 (n,), `tumor_fraction` float32 (n,) beside it.

    Args:
        how: attributes that say how the labels were made; None is left out.
    """
    with trident.create_h5(path) as file:
        dataset = file.create_dataset("patch_labels", data=labels.label)
        dataset.attrs.update(threshold=labels.threshold, **{k: v for k, v in how.items() if v is not None})
        file.create_dataset("tumor_fraction", data=labels.fraction)


def read_patch_labels(path: str | os.PathLike, n: int | None = None) -> np.ndarray:
    """Read `patch_labels/<slide>.h5`, also those of the original script: int64 (n,).

    Raises:
        DataError: no such file, damaged, or not `n` labels.
    """
    with trident.open_h5(path) as file:
        labels = trident.read_rows(trident.get_dataset(file, "patch_labels", path, "Run `mil-tutorial labels`."))
    if n is not None and labels.shape != (n,):
        raise DataError(
            f"{path}: {labels.shape} labels for {n} patches. Run `mil-tutorial labels` again with these coordinates."
        )
    if not np.isin(labels, (-1, 0, 1)).all():
        raise DataError(f"{path}: labels other than -1, 0 and 1. Delete the file and run `mil-tutorial labels` again.")
    return labels.astype(np.int64)


def read_label_table(
    path: str | os.PathLike, name_column: str = "wsi_name", label_column: str = "wsi_label"
) -> pd.DataFrame:
    """Read a CSV of slide labels: DataFrame with columns wsi_name (no file ending) and wsi_label (0 or 1).

    Raises:
        DataError: no such file, a column is missing, a label is not 0 or 1, or a slide is named twice with different labels.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(
            f"{path}: there is no such label file. Expected a CSV with columns {name_column}, {label_column}."
        )
    try:
        table = pd.read_csv(path, dtype={name_column: str})
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: is no readable CSV ({error}). Expected columns {name_column}, {label_column}."
        ) from error
    missing = [c for c in (name_column, label_column) if c not in table]
    if missing:
        raise DataError(
            f"{path}: column {', '.join(missing)} is missing, found {', '.join(map(str, table.columns))}. Rename the columns or name yours."
        )
    names = table[name_column].astype(str).str.replace(r"\.(tif|tiff|svs|ndpi|mrxs|h5)$", "", regex=True)
    labels = pd.to_numeric(table[label_column], errors="coerce")
    if not labels.isin([0, 1]).all():
        bad = table.loc[~labels.isin([0, 1])].iloc[0]
        raise DataError(
            f"{path}: slide {bad[name_column]} has the label {bad[label_column]}, expected 0 (normal) or 1 (tumour). Correct the file."
        )
    clean = pd.DataFrame({"wsi_name": names, "wsi_label": labels.astype(int)}).drop_duplicates()
    twice = clean.loc[clean["wsi_name"].duplicated(), "wsi_name"]
    if len(twice):
        raise DataError(f"{path}: slide {twice.iloc[0]} is named twice with different labels. Keep one line.")
    return clean.reset_index(drop=True)


def _refuse_other_options(target: Path, how: dict) -> None:
    """An existing label file must have been made from these patches in this way."""
    with trident.open_h5(target) as file:
        before = dict(file["patch_labels"].attrs)
    changed = [k for k, v in how.items() if k in before and before[k] != v]
    if "coords_digest" in changed:
        raise DataError(
            f"{target}: was made for other patches; the coordinates have changed since. Delete the file and run again."
        )
    if "source_digest" in changed:
        raise DataError(
            f"{target}: the mask or annotation that it was made from has changed since. Delete the file and run again."
        )
    if changed:
        raise DataError(
            f"{target}: was made with {changed[0]} {before[changed[0]]}, now it is {how[changed[0]]}."
            " Delete the file, or choose another --save_dir."
        )


def label_slide(
    name: str,
    wsi_label: int,
    masks_dir: str | os.PathLike | None,
    coords_dir: str | os.PathLike,
    save_dir: str | os.PathLike,
    tumor_value: int = 2,
    threshold: float = 0.5,
    halve: bool = True,
    patch_size: int | None = None,
    annotations_dir: str | os.PathLike | None = None,
    partly_annotated: bool = False,
) -> PatchLabels | None:
    """Label one slide and write its file; None if it is there already and fits.

    Args:
        name, wsi_label: the slide, 1 with tumour, 0 without. Normal slides need neither mask nor annotation.
        masks_dir: folder of `<name>_mask.tif`; None takes `annotations_dir` with `<name>.xml`.
        coords_dir, save_dir: folder of `<name>_patches.h5`, and where `<name>.h5` goes.
        patch_size: not needed; if given, it must be the patches' side in level-0 pixels.
        tumor_value, threshold, halve, partly_annotated: see `label_patches`.

    Raises:
        DataError: a file is missing or does not fit, or was made with other options.
    """
    patches_file, target = Path(coords_dir) / f"{name}_patches.h5", Path(save_dir) / f"{name}.h5"
    patches = trident.read_patches(patches_file)
    side = patches.geometry.patch_size_level0
    if patch_size is not None and patch_size != side:
        raise DataError(
            f"{patches_file}: its patches are {side} level-0 pixels wide, --patch_size says {patch_size}. Leave the option out; the file knows."
        )
    how = {
        "coords_digest": trident.coords_digest(patches.coords),
        "asked_threshold": threshold,
        "wsi_label": int(wsi_label),
    }
    if wsi_label == 1:
        how["halve"] = bool(halve)
        how |= {"source": "mask" if masks_dir else "annotation", "partly_annotated": bool(partly_annotated)}
        how |= {"tumor_value": tumor_value} if masks_dir else {}
        source = Path(masks_dir) / f"{name}_mask.tif" if masks_dir else Path(annotations_dir) / f"{name}.xml"
        if source.is_file():
            how["source_digest"] = digest(source)
    if target.exists():
        read_patch_labels(target, len(patches.coords))
        _refuse_other_options(target, how)
        return None
    if wsi_label == 0:
        labels = _label(np.zeros(len(patches.coords), np.float32), threshold, False, False)
    elif masks_dir:
        check_mask_size(source, patches.geometry)
        labels = label_patches(source, patches.coords, side, tumor_value, threshold, halve, partly_annotated)
        hint = f"holds the value {tumor_value}. Check --tumor_value (2 in CAMELYON16's own masks, 1 or 255 in converted ones)"
    else:
        annotation = read_asap_xml(source)
        labels = label_patches_from_annotation(annotation, patches.coords, side, threshold, halve, partly_annotated)
        found = ", ".join(f"{n} x {what}" for what, n in annotation.ignored.items()) or "nothing else"
        hint = f"is touched by one of its {len(annotation.tumor)} tumour polygons (not used: {found}). Check the groups"
    if wsi_label == 1 and labels.fraction.max(initial=0) == 0:
        raise DataError(
            f"{source}: slide {name} is labelled tumour, but none of its {len(patches.coords)} patches {hint}"
            " and that both belong to this slide."
        )
    write_patch_labels(target, labels, **how)
    return labels


def check_mask_size(mask: Path, geometry: Geometry) -> None:
    """A mask must have its slide's size.

    Raises:
        DataError: it has another one, or cannot be opened.
    """
    with open_slide(mask) as opened:
        size = opened.dimensions
    if size != (geometry.width, geometry.height):
        raise DataError(
            f"{mask}: is {size[0]} x {size[1]} pixels, its slide is {geometry.width} x {geometry.height}."
            " The mask of another slide or resolution gives wrong labels. Take the right one."
        )


def label_folder(
    csv_path: str | os.PathLike,
    masks_dir: str | os.PathLike | None,
    coords_dir: str | os.PathLike,
    save_dir: str | os.PathLike,
    patch_size: int | None = None,
    tumor_value: int = 2,
    threshold: float = 0.5,
    halve: bool = True,
    progress: bool = True,
    annotations_dir: str | os.PathLike | None = None,
    partly_annotated: Collection[str] = (),
    scheduler: str | None = None,
) -> dict[str, PatchLabels]:
    """Label every slide that has coordinates; files that are there already stay. A slide that fails does not stop the others.

    Args:
        csv_path: the slides' labels.
        partly_annotated: names of slides whose annotation is not complete; see `camelyon16.camelyon16_slides`.
        masks_dir, coords_dir, save_dir, patch_size, tumor_value, threshold, halve, annotations_dir: see `label_slide`.
        scheduler: of Dask, see `engine.run_tasks`; None works here.

    Returns:
        The labels of the slides done now.

    Raises:
        DataError: no coordinates, slides unknown to the label file, or some slides failed (the message names each).
    """
    if not 0 <= threshold < 1:
        raise DataError(f"--threshold {threshold}: expected a share from 0 to less than 1.")
    if (masks_dir is None) == (annotations_dir is None):
        raise DataError("expected either --masks_dir or --annotations_dir: labels come from one of them.")
    coords_dir = Path(coords_dir)
    names = sorted(
        p.name.removesuffix("_patches.h5") for p in coords_dir.glob("*_patches.h5") if not p.name.startswith(".")
    )
    if not names:
        raise DataError(
            f"{coords_dir}: no coordinates here. Expected files <slide>_patches.h5, as TRIDENT writes them. Check --coords_dir."
        )
    table = read_label_table(csv_path).set_index("wsi_name")["wsi_label"]
    unknown = [n for n in names if n not in table.index]
    if unknown:
        raise DataError(
            f"{csv_path}: no label for {', '.join(unknown[:5])}{' and more' if len(unknown) > 5 else ''}, whose coordinates lie in {coords_dir}. Add the lines."
        )

    def place(folder):
        return None if folder is None else str(Path(folder).resolve())

    tasks = {
        name: (name, int(table[name]), place(masks_dir), place(coords_dir), place(save_dir), tumor_value, threshold, halve, patch_size,
               place(annotations_dir), name in partly_annotated)
        for name in names
    }  # fmt: skip
    results, errors = run_tasks(label_slide, tasks, scheduler, "Labelling", progress=progress)
    done = {name: labels for name, labels in results.items() if labels is not None}
    for name, labels in done.items():
        if labels.threshold < threshold:
            print(
                f"{name}: no patch is more than {threshold:.0%} tumour; threshold halved to {labels.threshold:.2%},"
                f" {int((labels.label == 1).sum())} tumour patches."
            )
    refuse_failures([*errors.values()], len(results), len(names))
    return done

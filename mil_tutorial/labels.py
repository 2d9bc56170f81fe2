"""Patch labels from what a pathologist drew: the share of tumour pixels in each patch."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import h5py
import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from mil_tutorial import trident
from mil_tutorial.files import DataError, written_whole
from mil_tutorial.slides import open_slide

TUMOR_GROUPS = ("_0", "_1", "Tumor")  # CAMELYON16's groups in train and test files; _2 and Exclusion are holes
HOLE_GROUPS = ("_2", "Exclusion")


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


def _mask_values(slide, x, y, width, height, path) -> np.ndarray:
    """The mask's own grey values in a rectangle of level-0 pixels; 0 beyond the mask."""
    try:
        return np.asarray(slide.read_region((int(x), int(y)), 0, (int(width), int(height))))[:, :, 0]
    except Exception as error:  # OpenSlide reports damage in several ways; each means that this file is not whole
        raise DataError(
            f"{path}: cannot be read at x={x}, y={y} ({error}). The mask is damaged. Copy it again."
        ) from error


def label_patches(
    mask_path: str | os.PathLike,
    coords: np.ndarray,
    patch_size_level0: int,
    tumor_value: int = 2,
    threshold: float = 0.5,
    halve: bool = False,
    partly_annotated: bool = False,
) -> PatchLabels:
    """Label the patches of a slide from its mask, equal to counting every level-0 pixel.

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
    coords = np.asarray(coords, np.int64).reshape(-1, 2)
    fraction = np.zeros(len(coords), np.float32)
    with open_slide(mask_path) as mask:
        width, height = mask.dimensions
        for i, (x, y) in enumerate(coords.tolist()):
            right, bottom = min(x + patch_size_level0, width), min(y + patch_size_level0, height)
            if right > x and bottom > y:
                values = _mask_values(mask, x, y, right - x, bottom - y, mask_path)
                fraction[i] = np.count_nonzero(values == tumor_value) / patch_size_level0**2
    return _label(fraction, threshold, halve, partly_annotated)


@dataclass
class Annotation:
    """Polygons of one slide in level-0 pixels: each float64 (k, 2) x, y."""

    tumor: list[np.ndarray] = field(default_factory=list)
    holes: list[np.ndarray] = field(default_factory=list)


def read_asap_xml(path: str | os.PathLike) -> Annotation:
    """Read an ASAP annotation as CAMELYON16 publishes them. Entities are refused, so a hostile file does no harm.

    Raises:
        DataError: no such file, not XML, or a polygon without coordinates.
    """
    from defusedxml import ElementTree
    from defusedxml.common import DefusedXmlException

    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: there is no such annotation. Normal slides have none; tumour slides need one.")
    try:
        tree = ElementTree.parse(path)
    except (ElementTree.ParseError, DefusedXmlException, ValueError) as error:
        raise DataError(f"{path}: is no readable ASAP XML ({error!s:.160}). Download it again.") from error
    found = Annotation()
    for node in tree.iter("Annotation"):
        group = node.get("PartOfGroup", "None")
        target = found.tumor if group in TUMOR_GROUPS else found.holes if group in HOLE_GROUPS else None
        if target is None:
            continue
        corners = sorted(node.iter("Coordinate"), key=lambda c: float(c.get("Order", 0)))
        try:
            points = np.array([(float(c.attrib["X"]), float(c.attrib["Y"])) for c in corners])
        except (KeyError, ValueError) as error:
            raise DataError(
                f"{path}: annotation {node.get('Name')!r} has a corner without numbers X and Y. Download it again."
            ) from error
        if len(points) < 3 or not np.isfinite(points).all():
            raise DataError(
                f"{path}: annotation {node.get('Name')!r} has {len(points)} usable corners, expected at least 3. Draw it again."
            )
        target.append(points)
    return found


def label_patches_from_annotation(
    annotation: Annotation,
    coords: np.ndarray,
    patch_size_level0: int,
    threshold: float = 0.5,
    halve: bool = False,
    partly_annotated: bool = False,
) -> PatchLabels:
    """Label patches from polygons; equal to `label_patches` except for pixels that an outline passes through."""
    coords = np.asarray(coords, np.int64).reshape(-1, 2)
    fraction = np.zeros(len(coords), np.float32)
    boxes = [(p.min(0), p.max(0)) for p in annotation.tumor]
    canvas = np.zeros((patch_size_level0,) * 2, np.uint8)
    for i, corner in enumerate(coords):
        near = [
            p
            for p, (low, high) in zip(annotation.tumor, boxes, strict=True)
            if (high >= corner).all() and (low <= corner + patch_size_level0).all()
        ]
        if near:
            canvas[:] = 0
            for polygon in near:
                cv2.fillPoly(canvas, [np.round(polygon - corner).astype(np.int32)], 1)
            for polygon in annotation.holes:
                cv2.fillPoly(canvas, [np.round(polygon - corner).astype(np.int32)], 0)
            fraction[i] = canvas.mean()
    return _label(fraction, threshold, halve, partly_annotated)


def write_patch_labels(
    path: str | os.PathLike, labels: PatchLabels, tumor_value: int | None = None, asked_threshold: float | None = None
) -> None:
    """Write `patch_labels/<slide>.h5`: dataset `patch_labels` int8 (n,), `tumor_fraction` float32 (n,) beside it."""
    with written_whole(path) as temporary, h5py.File(temporary, "w") as file:
        dataset = file.create_dataset("patch_labels", data=labels.label)
        dataset.attrs["threshold"] = labels.threshold
        if tumor_value is not None:
            dataset.attrs["tumor_value"] = tumor_value
        if asked_threshold is not None:  # the one before any halving
            dataset.attrs["asked_threshold"] = asked_threshold
        file.create_dataset("tumor_fraction", data=labels.fraction)


def read_patch_labels(path: str | os.PathLike, n: int | None = None) -> np.ndarray:
    """Read `patch_labels/<slide>.h5`, also those of the original script: int64 (n,).

    Raises:
        DataError: no such file, damaged, or not `n` labels.
    """
    with trident.open_h5(path) as file:
        if "patch_labels" not in file:
            raise DataError(
                f"{path}: dataset 'patch_labels' is missing, found {', '.join(file) or 'nothing'}. Run `mil-tutorial labels`."
            )
        labels = file["patch_labels"][:]
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


def label_slide(
    name: str,
    wsi_label: int,
    masks_dir: Path,
    coords_dir: Path,
    save_dir: Path,
    tumor_value: int = 2,
    threshold: float = 0.5,
    halve: bool = True,
    patch_size: int | None = None,
) -> PatchLabels | None:
    """Label one slide and write its file; None if it is there already and fits.

    Raises:
        DataError: a file is missing or does not fit, or `patch_size` is not what the coordinates say.
    """  # fmt: skip
    patches_file, target = Path(coords_dir) / f"{name}_patches.h5", Path(save_dir) / f"{name}.h5"
    patches = trident.read_patches(patches_file)
    side = patches.geometry.patch_size_level0
    if patch_size is not None and patch_size != side:
        raise DataError(
            f"{patches_file}: its patches are {side} level-0 pixels wide, --patch_size says {patch_size}. Leave the option out; the file knows."
        )
    if target.exists():
        read_patch_labels(target, len(patches.coords))
        with trident.open_h5(target) as file:
            before = dict(file["patch_labels"].attrs)
        asked = {"tumor_value": tumor_value, "asked_threshold": threshold}
        changed = [k for k, v in asked.items() if k in before and before[k] != v]
        if changed and wsi_label == 1:
            raise DataError(
                f"{target}: was made with {changed[0]} {before[changed[0]]:g}, now it is {asked[changed[0]]:g}."
                " Delete the file, or choose another --save_dir."
            )
        return None
    if wsi_label == 0:
        labels = _label(np.zeros(len(patches.coords), np.float32), threshold, False, False)
    else:
        mask = Path(masks_dir) / f"{name}_mask.tif"
        with open_slide(mask) as opened:
            size = opened.dimensions
        if size != (patches.geometry.width, patches.geometry.height):
            raise DataError(
                f"{mask}: is {size[0]} x {size[1]} pixels, its slide is {patches.geometry.width} x {patches.geometry.height}."
                " The mask of another slide or resolution gives wrong labels. Take the right one."
            )
        labels = label_patches(mask, patches.coords, side, tumor_value, threshold, halve)
        if not len(patches.coords) or labels.fraction.max() == 0:
            raise DataError(
                f"{mask}: slide {name} is labelled tumour, but none of its {len(patches.coords)} patches holds the value {tumor_value}."
                " Check --tumor_value (2 in CAMELYON16's own masks, 1 or 255 in converted ones) and that mask and slide belong together."
            )
    write_patch_labels(target, labels, tumor_value, threshold)
    return labels


def label_folder(
    csv_path: str | os.PathLike,
    masks_dir: str | os.PathLike,
    coords_dir: str | os.PathLike,
    save_dir: str | os.PathLike,
    patch_size: int | None = None,
    tumor_value: int = 2,
    threshold: float = 0.5,
    halve: bool = True,
    progress: bool = True,
) -> dict[str, PatchLabels]:
    """Label every slide that has coordinates; files that are there already stay. A slide that fails does not stop the others.

    Returns:
        The labels of the slides done now.

    Raises:
        DataError: no coordinates, slides unknown to the label file, or some slides failed (the message names each).
    """  # fmt: skip
    if not 0 <= threshold < 1:
        raise DataError(f"--threshold {threshold}: expected a share from 0 to less than 1.")
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
    done, failures = {}, []
    for name in tqdm(names, desc="Labelling", unit="slide", disable=not progress):
        try:
            labels = label_slide(
                name,
                int(table[name]),
                Path(masks_dir),
                coords_dir,
                Path(save_dir),
                tumor_value,
                threshold,
                halve,
                patch_size,
            )
        except DataError as error:
            failures.append(str(error))
            continue
        if labels is not None:
            done[name] = labels
            if labels.threshold < threshold:
                tqdm.write(
                    f"{name}: no patch is more than {threshold:.0%} tumour; threshold halved to {labels.threshold:.2%}, {int((labels.label == 1).sum())} tumour patches."
                )
    if failures:
        raise DataError(
            "\n".join(
                [*failures, f"{len(names) - len(failures)} of {len(names)} slides are done and stay as they are."]
            )
        )
    return done

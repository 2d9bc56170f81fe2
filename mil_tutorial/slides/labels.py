"""Patch labels from what a pathologist drew: the share of tumour pixels in each patch."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from mil_tutorial.errors import DataError
from mil_tutorial.files import digest
from mil_tutorial.geometry import Geometry, as_coords
from mil_tutorial.hdf5 import open_h5
from mil_tutorial.slides.annotations import Annotation, polygon_pixels, read_asap_xml
from mil_tutorial.slides.masks import count_pixels
from mil_tutorial.slides.reading import open_slide
from mil_tutorial.trident import PatchLabels, coords_digest, read_patch_labels, read_patches, write_patch_labels


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


def _refuse_other_options(target: Path, how: dict) -> None:
    """An existing label file must have been made from these patches in this way."""
    with open_h5(target) as file:
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
    patches = read_patches(patches_file)
    side = patches.geometry.patch_size_level0
    if patch_size is not None and patch_size != side:
        raise DataError(
            f"{patches_file}: its patches are {side} level-0 pixels wide, --patch_size says {patch_size}. Leave the option out; the file knows."
        )
    how = {
        "coords_digest": coords_digest(patches.coords),
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

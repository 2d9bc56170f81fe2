"""Label the patches of a slide from what a pathologist drew: by the fraction of tumour pixels in each patch."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mil_tutorial.errors import DataError, Found, ParameterError, refuse_other, require, require_integer, require_number
from mil_tutorial.geometry import as_coords, as_side
from mil_tutorial.remote import digest_of, inside, is_remote
from mil_tutorial.slides.annotations import Annotation, polygon_pixels, read_asap_xml
from mil_tutorial.slides.masks import check_mask_size, count_pixels
from mil_tutorial.trident import (
    Patches,
    PatchLabels,
    coords_digest,
    read_how,
    read_patch_labels,
    read_patches,
    write_patch_labels,
)


@dataclass(frozen=True, kw_only=True)
class LabelRule:
    """What decides a patch's label; label files remember it.

    Attributes:
        tumor_value: the masks' value for tumour: 2 in CAMELYON16's own masks, 1 or 255 in converted ones.
        threshold: a patch is tumour if more than this fraction of it is tumour; 0 to less than 1.
        halve: halve the threshold until some patch is tumour, as the original tutorial does, if there is tumour at all.
        partly_annotated: patches without annotated tumour are unknown (-1), not normal.

    >>> rule = LabelRule(halve=True)
    >>> labels = rule.label(np.array([0, 0.2, 0.3]))
    >>> labels.label, labels.threshold
    (array([0, 0, 1], dtype=int8), 0.25)

    Raises:
        ParameterError: one of them is not such a value.
    """

    tumor_value: int = 2
    threshold: float = 0.5
    halve: bool = True
    partly_annotated: bool = False

    def __post_init__(self) -> None:
        require_integer("tumor_value", self.tumor_value, low=0, high=255)
        expected = "a number from 0 to less than 1"
        require_number("threshold", self.threshold, low=0, expected=expected)
        require(self.threshold < 1, "threshold", self.threshold, expected)
        for name in ("halve", "partly_annotated"):
            require(isinstance(getattr(self, name), bool | np.bool_), name, getattr(self, name), "True or False")

    def label(self, fraction: np.ndarray) -> PatchLabels:
        """Labels from `fraction` (n,), the part of each patch that is tumour."""
        threshold = self.threshold
        if self.halve and fraction.max(initial=0) > 0:
            while not (fraction > threshold).any():
                threshold /= 2
        negative = -1 if self.partly_annotated else 0
        label = np.where(fraction > threshold, 1, np.where(fraction > 0, 0, negative))
        return PatchLabels(fraction, label.astype(np.int8), threshold)


def label_patches(
    mask_path: str | os.PathLike,
    coords: np.ndarray,
    patch_size_level0: int,
    tumor_value: int = 2,
    threshold: float = 0.5,
    *,
    halve: bool = False,
    partly_annotated: bool = False,
) -> PatchLabels:
    """Label the patches of a slide from its mask, equal to counting every level-0 pixel (see `masks`).

    Args:
        mask_path: mask pyramid of the slide's size, one grey value for each class.
        coords: (n, 2) x, y of the patches' top-left corners in level-0 pixels.
        patch_size_level0: side of a patch in level-0 pixels.
        tumor_value, threshold, halve, partly_annotated: see `LabelRule`.

    Returns:
        `.fraction` float32 (n,), the part of each patch that is tumour, and `.label` int8 (n,): 1 tumour, 0 not,
        -1 unknown.

    Raises:
        ParameterError: coordinates, side or rule cannot be used.
        DataError: no such mask, or it cannot be read.
    """
    rule = LabelRule(tumor_value=tumor_value, threshold=threshold, halve=halve, partly_annotated=partly_annotated)
    coords, side = as_coords(coords), as_side(patch_size_level0)
    return rule.label(_as_fraction(count_pixels(mask_path, coords, side, rule.tumor_value), side))


def label_patches_from_annotation(
    annotation: Annotation,
    coords: np.ndarray,
    patch_size_level0: int,
    threshold: float = 0.5,
    *,
    halve: bool = False,
    partly_annotated: bool = False,
) -> PatchLabels:
    """Label patches from polygons; equal to `label_patches` except for pixels that an outline passes through.

    Args:
        annotation: from `read_asap_xml`.
        coords: (n, 2) x, y of the patches' top-left corners in level-0 pixels.
        patch_size_level0: side of a patch in level-0 pixels.
        threshold, halve, partly_annotated: see `LabelRule`.

    Returns:
        As `label_patches`.

    Raises:
        ParameterError: annotation, coordinates, side or rule cannot be used.
    """
    rule = LabelRule(threshold=threshold, halve=halve, partly_annotated=partly_annotated)
    coords, side = as_coords(coords), as_side(patch_size_level0)
    return rule.label(_as_fraction(polygon_pixels(annotation, coords, side), side))


def _as_fraction(pixels: np.ndarray, side: int) -> np.ndarray:
    return (pixels / side**2).astype(np.float32)


def label_slide(
    name: str,
    wsi_label: int,
    *,
    coords_dir: str | os.PathLike,
    save_dir: str | os.PathLike,
    masks_dir: str | os.PathLike | None = None,
    annotations_dir: str | os.PathLike | None = None,
    rule: LabelRule = LabelRule(),
    patch_size: int | None = None,
) -> PatchLabels | None:
    """Label one slide and write its file; None if it is there already and fits.

    Args:
        name: of the slide.
        wsi_label: 1 with tumour, 0 without. A normal slide needs neither mask nor annotation.
        coords_dir: folder of `<name>_patches.h5`.
        save_dir: folder that `<name>.h5` is written to.
        masks_dir: folder of `<name>_mask.tif`; may be an address.
        annotations_dir: folder of `<name>.xml`, in place of the masks.
        rule: what decides a patch's label.
        patch_size: not needed; if given, it must be the patches' side in level-0 pixels.

    Raises:
        ParameterError: not one source for a tumour slide, or another patch size than the file's.
        DataError: a file is missing or does not fit, or was made in another way.
    """
    require(wsi_label in (0, 1), "wsi_label", wsi_label, "1 (tumour) or 0 (normal)")
    require(isinstance(rule, LabelRule), "rule", rule, "a LabelRule")
    check_sources(masks_dir, annotations_dir, needed=wsi_label == 1)
    patches_file, target = Path(coords_dir) / f"{name}_patches.h5", Path(save_dir) / f"{name}.h5"
    patches = read_patches(patches_file)
    side = patches.geometry.patch_size_level0
    require(patch_size in (None, side), "patch_size", patch_size, f"{side}, as {patches_file} says; or leave it out")
    source: Path | str | None = None
    if wsi_label == 1 and masks_dir is not None:
        source = inside(masks_dir, f"{name}_mask.tif")
    elif wsi_label == 1 and annotations_dir is not None:
        source = Path(annotations_dir) / f"{name}.xml"
    how = _how(rule, int(wsi_label), patches, source)
    if target.exists():
        read_patch_labels(target, len(patches.coords))
        _refuse_other_labels(target, how)
        return None
    if source is None:
        labels = replace(rule, partly_annotated=False).label(np.zeros(len(patches.coords), np.float32))
    else:
        labels = _label(source, patches, rule)
    write_patch_labels(target, labels, **how)
    return labels


def check_sources(
    masks_dir: str | os.PathLike | None, annotations_dir: str | os.PathLike | None, *, needed: bool = True
) -> None:
    """Labels come from masks or from annotations, not from both.

    Raises:
        ParameterError: both are given, or none is and one is `needed`.
    """
    given = [folder for folder in (masks_dir, annotations_dir) if folder is not None]
    if len(given) > 1 or (needed and not given):
        found = Found(f"{masks_dir} beside annotations_dir {annotations_dir}" if given else "neither")
        raise ParameterError("masks_dir", found, "either masks_dir or annotations_dir: labels come from one of them")


def _how(rule: LabelRule, wsi_label: int, patches: Patches, source: Path | str | None) -> dict[str, Any]:
    """The attributes of a label file: how it is made, and from what."""
    how: dict[str, Any] = {"coords_digest": coords_digest(patches.coords)}
    how |= {"asked_threshold": rule.threshold, "wsi_label": wsi_label}
    if source is None:
        return how
    kind = "mask" if _is_mask(source) else "annotation"
    how |= {"halve": bool(rule.halve), "source": kind, "partly_annotated": bool(rule.partly_annotated)}
    if kind == "mask":
        how["tumor_value"] = rule.tumor_value
    if is_remote(source) or Path(source).is_file():
        how["source_digest"] = digest_of(source)
    return how


def _refuse_other_labels(target: Path, now: dict[str, Any]) -> None:
    """A label file that is there must have been made from these patches in this way."""
    before = read_how(target, list(now))

    def changed(key: str) -> bool:
        return key in before and key in now and before[key] != now[key]

    if changed("coords_digest"):
        raise DataError(
            f"{target}: was made for other patches; the coordinates have changed since. Delete the file and run again."
        )
    if changed("source_digest") and not changed("source"):
        raise DataError(
            f"{target}: the {now['source']} that it was made from has changed since. Delete the file and run again."
        )
    refuse_other(target, before, now, "Delete the file, or choose another folder.")


def _is_mask(source: Path | str) -> bool:
    return str(source).endswith(".tif")


def _label(source: Path | str, patches: Patches, rule: LabelRule) -> PatchLabels:
    """The labels of a tumour slide, from its mask or its annotation."""
    side = patches.geometry.patch_size_level0
    if _is_mask(source):
        factor = check_mask_size(source, patches.geometry)
        # In a mask of half the size a corner lies between two pixels at most: the nearer one is taken.
        corners, side = np.round(patches.coords / factor), max(1, round(side / factor))
        pixels = count_pixels(source, corners, side, rule.tumor_value)
        hint = f"holds the value {rule.tumor_value}. Check tumor_value (2 in CAMELYON16's masks, 1 or 255 in others)"
    else:
        annotation = read_asap_xml(source)
        pixels = polygon_pixels(annotation, patches.coords, side)
        ignored = ", ".join(f"{n} x {what}" for what, n in annotation.ignored.items()) or "nothing else"
        polygons = f"{len(annotation.tumor)} tumour polygons (not used: {ignored})"
        hint = f"is touched by one of its {polygons}. Check the groups"
    if not pixels.any():
        raise DataError(
            f"{source}: slide {patches.name} is labelled tumour, but none of its {len(patches.coords)} patches {hint}"
            " and that both belong to this slide."
        )
    return rule.label(_as_fraction(pixels, side))

"""Read what a pathologist drew, as ASAP saves it: polygons of tumour and of holes in it, in level-0 pixels."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree.ElementTree import Element

import cv2
import numpy as np

from mil_tutorial.errors import DataError, require
from mil_tutorial.geometry import as_coords, as_side

# CAMELYON16's groups in train and test files, and CAMELYON17's. Holes are cut out of the tumour after it is filled:
# `None` too, as in the conversion that the organizers' masks come from.
TUMOR_GROUPS = ("_0", "_1", "Tumor", "metastases")

HOLE_GROUPS = ("_2", "Exclusion", "None", "normal")

BLOCK = 4096  # level-0 pixels that are filled at once


@dataclass
class Annotation:
    """Polygons of one slide in level-0 pixels, each float64 (k, 2) x, y.

    Attributes:
        tumor, holes: what is tumour, and what is cut out of it.
        ignored: what was not used: the number of annotations of each other group, and of those without an area.
    """

    tumor: list[np.ndarray] = field(default_factory=list)
    holes: list[np.ndarray] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)


def read_asap_xml(
    path: str | os.PathLike, *, tumor_groups: Sequence[str] = TUMOR_GROUPS, hole_groups: Sequence[str] = HOLE_GROUPS
) -> Annotation:
    """Read an ASAP annotation as CAMELYON16 publishes them. Entities are refused, so a hostile file does no harm.

    Args:
        path: the XML file.
        tumor_groups, hole_groups: values of `PartOfGroup` that mean tumour, and holes in it.

    Raises:
        ParameterError: groups that are not a list of names.
        DataError: no such file, not ASAP's XML, or a corner without numbers.
    """
    for parameter, groups in (("tumor_groups", tumor_groups), ("hole_groups", hole_groups)):
        require(not isinstance(groups, str), parameter, groups, "a list of group names")
    path = Path(path)
    annotation = Annotation()
    for node in _parse(path).iter("Annotation"):
        group = node.get("PartOfGroup", "None")
        points = _corners(node, path)
        if len(points) < 3:  # a dot or a ruler: it has no area
            annotation.ignored[f"{node.get('Type', 'annotation')} without an area"] += 1
        elif group in tumor_groups:
            annotation.tumor.append(points)
        elif group in hole_groups:
            annotation.holes.append(points)
        else:
            annotation.ignored[f"group {group}"] += 1
    return annotation


def _parse(path: Path) -> Element:
    """The root of an ASAP file; an unreadable one is refused."""
    from defusedxml import ElementTree
    from defusedxml.common import DefusedXmlException

    if not path.is_file():
        raise DataError(f"{path}: there is no such annotation. Normal slides have none; tumour slides need one.")
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, DefusedXmlException, ValueError, LookupError) as error:
        raise DataError(f"{path}: is not readable as XML ({error!s:.160}). Download it again.") from error
    if root.tag != "ASAP_Annotations":
        raise DataError(f"{path}: is not from ASAP, it begins with <{root.tag[:60]}>. Expected <ASAP_Annotations>.")
    return root


def _corners(node: Element, path: Path) -> np.ndarray:
    """The corners of one annotation in their order: float64 (k, 2) x, y."""
    try:
        corners = sorted(node.iter("Coordinate"), key=lambda c: float(c.get("Order", 0)))
        points = np.array([(float(c.attrib["X"]), float(c.attrib["Y"])) for c in corners]).reshape(-1, 2)
    except (KeyError, ValueError) as error:
        raise DataError(
            f"{path}: annotation {node.get('Name')!r} has a corner without numbers Order, X and Y. Download it again."
        ) from error
    if not (np.abs(points) < 1e8).all():
        raise DataError(
            f"{path}: annotation {node.get('Name')!r} has a corner that can be on no slide. Download it again."
        )
    return points


def polygon_pixels(annotation: Annotation, coords: np.ndarray, side: int) -> np.ndarray:
    """Tumour pixels in each patch, int64 (n,): polygons filled, holes cut out of them.

    Args:
        annotation: polygons in level-0 pixels.
        coords: (n, 2) x, y of the patches' top-left corners in level-0 pixels.
        side: side of a patch in level-0 pixels.

    Raises:
        ParameterError: no annotation, or coordinates or side are not such numbers.
    """
    require(isinstance(annotation, Annotation), "annotation", annotation, "an Annotation, as `read_asap_xml` gives it")
    coords, side = as_coords(coords), as_side(side, parameter="side")
    counts = np.zeros(len(coords), np.int64)
    shapes = [(p, 1) for p in annotation.tumor] + [(p, 0) for p in annotation.holes]
    boxes = [(np.floor(p.min(0)), np.ceil(p.max(0))) for p, _ in shapes]
    blocks, group = np.unique(coords // BLOCK, axis=0, return_inverse=True)
    group = group.ravel()
    for k, corner in enumerate(blocks * BLOCK):
        members = np.flatnonzero(group == k)
        extent = coords[members].max(0) + side - corner
        near = [
            (np.round(p - corner).astype(np.int32), value)
            for (p, value), (low, high) in zip(shapes, boxes, strict=True)
            if (high >= corner).all() and (low <= corner + extent).all()
        ]
        if not any(value for _, value in near):
            continue
        filled = np.zeros(extent[::-1], np.uint8)
        for polygon, value in near:
            cv2.fillPoly(filled, [polygon], value)
        for i, (x, y) in zip(members, (coords[members] - corner).tolist(), strict=True):
            counts[i] = np.count_nonzero(filled[y : y + side, x : x + side])
    return counts

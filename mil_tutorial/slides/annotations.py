"""What a pathologist drew, as ASAP saves it: polygons of tumour and of holes in it, in level-0 pixels."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from mil_tutorial.errors import DataError
from mil_tutorial.geometry import as_coords

# CAMELYON16's groups in train and test files, and CAMELYON17's. Holes are cut out of the tumour after it is filled: `None`
# too, as in the conversion that the organizers' masks come from.
TUMOR_GROUPS = ("_0", "_1", "Tumor", "metastases")

HOLE_GROUPS = ("_2", "Exclusion", "None", "normal")

BLOCK = 4096  # level-0 pixels that are filled at once


@dataclass
class Annotation:
    """Polygons of one slide in level-0 pixels, each float64 (k, 2) x, y.

    Attributes:
        tumor, holes: what is tumour, and what is cut out of it.
        ignored: what was not used: how many annotations of each other group, and how many without an area.
    """

    tumor: list[np.ndarray] = field(default_factory=list)
    holes: list[np.ndarray] = field(default_factory=list)
    ignored: Counter = field(default_factory=Counter)


def read_asap_xml(
    path: str | os.PathLike, tumor_groups: Sequence[str] = TUMOR_GROUPS, hole_groups: Sequence[str] = HOLE_GROUPS
) -> Annotation:
    """Read an ASAP annotation as CAMELYON16 publishes them. Entities are refused, so a hostile file does no harm.

    Args:
        tumor_groups, hole_groups: values of `PartOfGroup` that mean tumour, and holes in it.

    Raises:
        DataError: no such file, not ASAP's XML, or a corner without numbers.
    """
    from defusedxml import ElementTree
    from defusedxml.common import DefusedXmlException

    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: there is no such annotation. Normal slides have none; tumour slides need one.")
    try:
        tree = ElementTree.parse(path)
    except (ElementTree.ParseError, DefusedXmlException, ValueError, LookupError) as error:
        raise DataError(f"{path}: is no readable ASAP XML ({error!s:.160}). Download it again.") from error
    if tree.getroot().tag != "ASAP_Annotations":
        raise DataError(
            f"{path}: is no ASAP XML, it begins with <{tree.getroot().tag[:60]}>. Expected <ASAP_Annotations>."
        )
    found = Annotation()
    for node in tree.iter("Annotation"):
        group = node.get("PartOfGroup", "None")
        try:
            corners = sorted(node.iter("Coordinate"), key=lambda c: float(c.get("Order", 0)))
            points = np.array([(float(c.attrib["X"]), float(c.attrib["Y"])) for c in corners]).reshape(-1, 2)
        except (KeyError, ValueError) as error:
            raise DataError(
                f"{path}: annotation {node.get('Name')!r} has a corner without numbers Order, X and Y. Download it again."
            ) from error
        if not (np.abs(points) < 1e8).all():
            raise DataError(
                f"{path}: annotation {node.get('Name')!r} has a corner that lies on no slide. Download it again."
            )
        if len(points) < 3:  # a dot or a ruler: it has no area
            found.ignored[f"{node.get('Type', 'annotation')} without an area"] += 1
        elif group in tumor_groups:
            found.tumor.append(points)
        elif group in hole_groups:
            found.holes.append(points)
        else:
            found.ignored[f"group {group}"] += 1
    return found


def polygon_pixels(annotation: Annotation, coords: np.ndarray, side: int) -> np.ndarray:
    """Tumour pixels in each patch, int64 (n,): polygons filled, holes cut out of them.

    Args:
        annotation: polygons in level-0 pixels.
        coords: (n, 2) x, y of the patches' top-left corners in level-0 pixels.
        side: side of a patch in level-0 pixels.
    """
    coords = as_coords(coords)
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

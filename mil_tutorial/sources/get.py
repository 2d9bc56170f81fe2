"""Get one slide of CAMELYON16: its published features as TRIDENT's files, its patch labels, and its own files if asked.

Each step leaves a whole file and is not done again, so a slide goes on where it stopped.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mil_tutorial.errors import DataError
from mil_tutorial.geometry import Geometry
from mil_tutorial.remote import Head, download, forget_leftovers
from mil_tutorial.remote.answers import CONNECTIONS
from mil_tutorial.slides.labels import LabelRule, label_slide
from mil_tutorial.sources.bucket import key_of, read_slide_size, slide_url, url_of
from mil_tutorial.sources.camelyon16 import partly_annotated
from mil_tutorial.sources.hdf5_slides import Place, open_remote_h5, parse_arrays
from mil_tutorial.sources.pieces import append_ranges
from mil_tutorial.sources.sets import FeatureSet
from mil_tutorial.trident import Patches, read_patches, run_folder, write_features, write_patches

PATCH, MAGNIFICATION, LEVEL0_MAGNIFICATION = 256, 20.0, 40.0  # of AEM and of torchmil: 256 px at level 1

SIDE = 512  # of a patch in level-0 pixels

WORK = ".get"  # folder of a data root: what is not whole yet

_one_file = threading.Lock()  # a whole file comes over several connections, so one at a time


def nothing(count: int) -> None:
    """For whoever does not want to be told."""


@dataclass(frozen=True)
class Files:
    """Where the files of one slide lie in a data root."""

    root: Path
    name: str
    encoder: str

    @property
    def run(self) -> Path:
        """TRIDENT's folder of the run."""
        return run_folder(self.root / "trident_processed", MAGNIFICATION, PATCH, 0)

    @property
    def patches(self) -> Path:
        """Corners."""
        return self.run / "patches" / f"{self.name}_patches.h5"

    @property
    def features(self) -> Path:
        """Features."""
        return self.run / f"features_{self.encoder}" / f"{self.name}.h5"

    @property
    def labels(self) -> Path:
        """Patch labels."""
        return self.run / "patch_labels" / f"{self.name}.h5"

    @property
    def part(self) -> Path:
        """What has been fetched of its features."""
        return self.root / WORK / self.encoder / f"{self.name}.part"

    @property
    def whole(self) -> bool:
        """Whether everything is there."""
        return all(path.is_file() for path in (self.patches, self.features, self.labels))


@dataclass(frozen=True)
class Slide:
    """One slide that is to be got out of an HDF5 file.

    Attributes:
        files: where its files lie in the data root.
        wsi_label: 1 with tumour, 0 without.
        features: the set.
        place: where it lies in the set's file, see `hdf5_slides.find_places`; None where its features are there.
        head: the set's file, see `remote.remote_size`.
        labels_from: `masks` or `annotations`.
    """

    files: Files
    wsi_label: int
    features: FeatureSet
    place: Place | None
    head: Head
    labels_from: str = "masks"


def get_slide(slide: Slide, *, checksums: Mapping[str, str], told: Callable[[int], object] = nothing) -> None:
    """Get one slide: corners, features, the mask or annotation if it has tumour, patch labels; go on where it stopped.

    Args:
        slide: which, and from where.
        checksums: md5 by key, see `bucket.parse_checksums`.
        told: is told how many bytes more are there.

    Raises:
        DataError: something cannot be fetched or written, or does not fit together; the message names the address.
    """
    size = fetch_slide(slide, checksums=checksums, told=told, connections=CONNECTIONS)
    finish_slide(slide, size)


def fetch_slide(
    slide: Slide, *, checksums: Mapping[str, str], told: Callable[[int], object] = nothing, connections: int = 1
) -> tuple[int, int] | None:
    """The first half: everything that comes over the network goes to the disk.

    Args:
        slide, checksums, told: as `get_slide`.
        connections: how many requests run at a time for its features.

    Returns:
        The slide's width and height in level-0 pixels; None where its corners are there already.

    Raises:
        DataError: as `get_slide`.
    """
    files, place = slide.files, slide.place
    size = None if files.patches.is_file() else read_slide_size(slide_url(files.name))
    if place is not None and place.ranges is not None and not files.features.is_file():
        append_ranges(slide.features.url, place.ranges, files.part, told=told, connections=connections)
    if slide.wsi_label and not files.labels.is_file():
        fetch_file(slide.labels_from, files.name, files.root, checksums=checksums, progress=told)
    return size


def finish_slide(slide: Slide, size: tuple[int, int] | None) -> None:
    """The second half: TRIDENT's files and the patch labels, from what was fetched.

    Args:
        slide, size: as `fetch_slide` takes and gives them.

    Raises:
        DataError: as `get_slide`.
    """
    files, url = slide.files, slide.features.url
    if slide.place is not None and not files.features.is_file():
        values, coords = _read_arrays(files, url, slide.place, slide.head)
        patches = save_patches(files, coords, url, size=size)
        if not np.isfinite(values).all():
            raise DataError(f"{url}: the features of slide {files.name} are not all numbers. Take another set.")
        write_features(files.features, values, patches, slide.features.name)
    files.part.unlink(missing_ok=True)
    label_slide(
        files.name,
        slide.wsi_label,
        coords_dir=files.patches.parent,
        save_dir=files.labels.parent,
        rule=replace(LabelRule(), partly_annotated=files.name in partly_annotated()),
        masks_dir=files.root / "masks" if slide.labels_from == "masks" else None,
        annotations_dir=files.root / "annotations" if slide.labels_from == "annotations" else None,
    )


def _read_arrays(files: Files, url: str, place: Place, head: Head) -> tuple[np.ndarray, np.ndarray]:
    """Features and corners of one slide, from what was fetched of it."""
    if place.ranges is None:  # HDF5 must unpack it
        with open_remote_h5(url, head) as file:
            group = file[files.name]
            return group["feat"][...], group["coords"][...]
    try:
        return parse_arrays(place, files.part.read_bytes())
    except OSError as error:
        raise DataError(f"{files.part}: cannot be read again ({error.strerror}). Check the disk.") from error


def save_patches(files: Files, coords: np.ndarray, source: str, *, size: tuple[int, int] | None = None) -> Patches:
    """Write the corners with the slide's true size, from its own header; those that are there must be the same.

    Args:
        files, coords, source: the slide, its corners (n, 2) in level-0 pixels, and the address that they come from.
        size: of the slide in level-0 pixels; by default its header is asked.

    Raises:
        DataError: they lie outside the slide, or others are there.
    """
    if files.patches.is_file():
        there = read_patches(files.patches)
        if not np.array_equal(there.coords, coords):
            raise DataError(
                f"{files.patches}: has other patches than {source}. Features of different grids cannot share a data"
                " root. Take another folder for this set."
            )
        return there
    width, height = size or read_slide_size(slide_url(files.name))
    geometry = Geometry(PATCH, 0, MAGNIFICATION, LEVEL0_MAGNIFICATION, width, height, SIDE)
    good = coords.ndim == 2 and coords.shape[1] == 2 and np.isfinite(coords).all()
    if not good or (len(coords) and (coords.min() < 0 or (coords.max(0) >= (width, height)).any())):
        raise DataError(
            f"{source}: the patches of slide {files.name} do not lie on it; it has {width} x {height} pixels."
            " The file is another one than it was. Take another set."
        )
    write_patches(files.patches, coords, geometry, source=source)
    return Patches(files.name, np.asarray(coords, np.int64), geometry)


def fetch_file(
    kind: str,
    name: str,
    root: Path,
    *,
    checksums: Mapping[str, str],
    progress: bool | Callable[[int], object] = True,
) -> Path:
    """Fetch a whole file of a slide from the bucket into a data root, unless it is there; go on where it stopped.

    Args:
        kind: `images`, `masks` or `annotations`.
        name, root: of the slide, and of the data.
        checksums: md5 by key; a file that it does not name is not compared.
        progress: show a bar, or a function that is told how many bytes more are there.

    Raises:
        DataError: there is no such file, it cannot be fetched, or it is not what the checksum says.
    """
    key = key_of(kind, name)
    path = root / key
    if path.is_file():
        forget_leftovers(path)
    else:
        with _one_file:
            download(url_of(key), path, md5=checksums.get(key), progress=progress)
    return path

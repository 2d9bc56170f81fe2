"""One data root for the fixture and for CAMELYON16: where slides, masks, labels, splits and TRIDENT runs lie."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd

from mil_tutorial.errors import DataError

VARIABLE = "MIL_TUTORIAL_DATA"


@dataclass(frozen=True)
class DataRoot:
    """A data root on disk.

    Attributes:
        root: the folder with `images`, `masks`, `annotations`, `wsi_labels.csv`, `train.csv`, `test.csv`, `trident_processed`.
        trident_dir: the TRIDENT run folder, such as `<root>/trident_processed/20x_512px_0px_overlap`.
        synthetic: True for the fixture; its slides are drawn when `slide_path` or `mask_path` first asks for them.
    """

    root: Path
    trident_dir: Path
    synthetic: bool = field(default=False)

    @cached_property
    def labels(self) -> pd.DataFrame:
        """All slides: columns wsi_name, wsi_label (0 normal, 1 tumour)."""
        from mil_tutorial.tables import read_label_table

        return read_label_table(self.root / "wsi_labels.csv")

    def split(self, which: str) -> pd.DataFrame:
        """The slides of `train` or `test`, with their labels.

        Raises:
            ValueError: another split was asked for.
        """
        from mil_tutorial.tables import read_label_table

        if which not in ("train", "test"):
            raise ValueError(
                f"split {which!r} is unknown, expected 'train' or 'test'. Validation slides are taken from train."
            )
        return read_label_table(self.root / f"{which}.csv")

    @property
    def encoders(self) -> list[str]:
        """Encoders that this root has features of; foundation models first, the embedded encoder last."""
        found = (p.name.removeprefix("features_") for p in self.trident_dir.glob("features_*") if p.is_dir())
        return sorted(found, key=lambda name: (name == "efficientnet_lite0", name))

    def inputs(self, encoder: str, which: str) -> list[Path]:
        """The files that a result on the split `which` stands on: labels, split, and the features of its slides."""
        names = self.split(which)["wsi_name"]
        tables = [self.root / "wsi_labels.csv", self.root / f"{which}.csv"]
        return [*tables, *(self.trident_dir / f"features_{encoder}" / f"{name}.h5" for name in names)]

    @property
    def reference(self) -> pd.DataFrame | None:
        """What is known of each slide beside its label: wsi_name, lesion_size (none, itc, micro, macro), scanner; or None."""
        path = self.root / "reference.csv"
        return pd.read_csv(path) if path.is_file() else None

    def slide_path(self, name: str) -> Path:
        """The slide's file; the fixture draws it now if it is not there yet (about 3 s).

        Raises:
            DataError: there is no such slide.
        """
        if self.synthetic:
            return self._render(name, "slide")
        from mil_tutorial.slides.reading import SLIDE_SUFFIXES

        found = [p for suffix in SLIDE_SUFFIXES if (p := self.root / "images" / f"{name}{suffix}").is_file()]
        if not found:
            raise DataError(
                f"{self.root / 'images' / name}: no slide of this name ({', '.join(SLIDE_SUFFIXES)}). Check the name and {VARIABLE}."
            )
        return found[0]

    def mask_path(self, name: str) -> Path:
        """The slide's mask, `<root>/masks/<name>_mask.tif`; the fixture draws it now if needed."""
        if self.synthetic:
            self._render(name, "mask")
        return self._existing("masks", f"{name}_mask.tif", "mask")

    def annotation_path(self, name: str) -> Path:
        """The slide's ASAP annotation; normal slides have none."""
        if self.synthetic:
            self._render(name, "annotation")
        return self._existing("annotations", f"{name}.xml", "annotation (normal slides have none)")

    def _existing(self, folder: str, file: str, what: str) -> Path:
        path = self.root / folder / file
        if not path.is_file():
            raise DataError(f"{path}: there is no such {what}. Check the name and {VARIABLE}.")
        return path

    def _render(self, name: str, part: str) -> Path:
        from mil_tutorial.fixture.write import render

        try:
            return render(name, self.root, (part,))
        except ValueError as error:
            raise DataError(str(error)) from error


def _run_folder(root: Path) -> Path:
    """The one TRIDENT run of a root; with several, the tutorial's own settings win."""
    jobs = root / "trident_processed"
    usual = jobs / "20x_512px_0px_overlap"
    runs = sorted(p for p in jobs.glob("*px_overlap") if p.is_dir())
    if usual in runs or not runs:
        return usual
    if len(runs) > 1:
        raise DataError(
            f"{jobs}: several TRIDENT runs, {', '.join(r.name for r in runs)}. Give one to open_data(...).trident_dir or keep one."
        )
    return runs[0]


def open_data(path: str | os.PathLike | None = None) -> DataRoot:
    """Open a data root: `path`, else `$MIL_TUTORIAL_DATA`, else the synthetic fixture.

    Raises:
        DataError: there is no such folder, or it lacks `wsi_labels.csv`.
    """
    chosen = path or os.environ.get(VARIABLE)
    if not chosen:
        from mil_tutorial.fixture import fixture_root

        root = fixture_root()
        return DataRoot(root, _run_folder(root), synthetic=True)
    root = Path(chosen).expanduser().resolve()
    if not (root / "wsi_labels.csv").is_file():
        raise DataError(
            f"{root}: no data root. Expected wsi_labels.csv, train.csv, test.csv and trident_processed there."
            f" Check the path{'' if path else f' in {VARIABLE}'}; without it the course uses its synthetic slides."
        )
    from mil_tutorial.fixture import is_fixture

    return DataRoot(root, _run_folder(root), synthetic=is_fixture(root))

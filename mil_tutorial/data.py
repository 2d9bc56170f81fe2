"""The door to the data: a data root with slides, masks, labels, splits and bags, synthetic or CAMELYON16's."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from mil_tutorial.errors import DataError, ParameterError, require
from mil_tutorial.fixture.tree import cache_folder, fixture_root, is_fixture
from mil_tutorial.fixture.write import render
from mil_tutorial.slides.reading import SLIDE_SUFFIXES
from mil_tutorial.sources import FETCHED
from mil_tutorial.tables import read_label_table
from mil_tutorial.training.budget import LARGE, MEMORY, Budget
from mil_tutorial.trident import read_patch_labels

if TYPE_CHECKING:
    from mil_tutorial.bags.dataset import TridentWSIDataset

VARIABLE = "MIL_TUTORIAL_DATA"
RUN_VARIABLE = "MIL_TUTORIAL_RUN"
CAMELYON16 = "camelyon16"  # in place of a path: the real slides, fetched on first use
SPLITS = ("train", "test")


@dataclass(frozen=True)
class DataRoot:
    """A data root on disk.

    Attributes:
        root: the folder with `images`, `masks`, `annotations`, `wsi_labels.csv`, `train.csv`, `test.csv`,
            `trident_processed`.
        trident_dir: the TRIDENT run folder, such as `<root>/trident_processed/20x_512px_0px_overlap`.
        synthetic: True for the fixture; its slides are drawn when `slide_path` or `mask_path` first asks for them.

    A root that `mil-tutorial get` made has no slides: `slide_path` gives a slide's address, and `mask_path` and
    `annotation_path` fetch the file that they are asked for.

    >>> data = open_data()
    >>> data.split("test").columns.tolist()
    ['wsi_name', 'wsi_label']
    >>> len(data.bags("train"))
    88
    """

    root: Path
    trident_dir: Path
    synthetic: bool = False

    @cached_property
    def labels(self) -> pd.DataFrame:
        """All slides: columns wsi_name, wsi_label (0 normal, 1 tumour)."""
        return read_label_table(self.root / "wsi_labels.csv")

    def split(self, which: str) -> pd.DataFrame:
        """The slides of `train` or `test`, with their labels.

        Raises:
            ParameterError: another split was asked for. Validation slides are taken from train, see `split_bags`.
        """
        require(which in SPLITS, "which", which, "'train' or 'test'; validation slides are taken from train")
        return read_label_table(self.root / f"{which}.csv")

    @property
    def encoders(self) -> list[str]:
        """Encoders that this root has features of; foundation models first, the embedded encoder last."""
        names = (p.name.removeprefix("features_") for p in self.trident_dir.glob("features_*") if p.is_dir())
        return sorted(names, key=lambda name: (name == "efficientnet_lite0", name))

    @property
    def encoder(self) -> str:
        """The encoder that is used unless another is named: the first of `encoders`.

        Raises:
            DataError: there are no features.
        """
        if not self.encoders:
            raise DataError(
                f"{self.trident_dir}: no folder features_<encoder>. Run TRIDENT or `mil-tutorial prepare` first."
            )
        return self.encoders[0]

    def bags(
        self, which: str, *, keys: Sequence[str] = ("X", "Y"), encoder: str | None = None, load_at_init: bool = False
    ) -> TridentWSIDataset:
        """The bags of a split, a bag a slide. Of large bags it keeps 256 MB in memory, see `Budget`.

        Args:
            which: `train` or `test`.
            keys: what a bag holds, see `TridentWSIDataset`.
            encoder: whose features; `self.encoder` by default.
            load_at_init: read all bags now and keep them in memory.
        """
        from mil_tutorial.bags.dataset import TridentWSIDataset  # loads PyTorch, which slides and labels do without

        names, labels = self.split(which)["wsi_name"].tolist(), self.root / "wsi_labels.csv"
        dataset = TridentWSIDataset(
            self.trident_dir, labels, encoder or self.encoder, wsi_names=names, bag_keys=keys, load_at_init=load_at_init
        )
        return dataset.with_memory(MEMORY) if self.budget.large else dataset

    @property
    def example(self) -> str:
        """The test slide with the most tumour patches: the one that notebook 6 shows.

        Raises:
            DataError: no test slide has patch labels.
        """
        return max(counts := self._tumor_patches("test"), key=lambda name: counts[name])

    @property
    def small_example(self) -> str:
        """A training slide with a small tumour, the fewest patches but at least four: the one that one has to look for.

        Raises:
            DataError: no training slide has patch labels.
        """
        counts = self._tumor_patches("train")
        return min(counts, key=lambda name: (counts[name] < 4, abs(counts[name] - 4)))

    def _tumor_patches(self, which: str) -> dict[str, int]:
        """How many patches of each tumour slide of a split are tumour, where that is known."""
        folder = self.trident_dir / "patch_labels"
        tumor = self.split(which).query("wsi_label == 1")["wsi_name"]
        counts = {n: int((read_patch_labels(p) == 1).sum()) for n in tumor if (p := folder / f"{n}.h5").is_file()}
        if not counts:
            raise DataError(f"{folder}: no patch labels of a {which} slide with tumour. Run `mil-tutorial labels`.")
        return counts

    @cached_property
    def budget(self) -> Budget:
        """How much a lesson computes: less on bags of real size, which is judged by the training features' files.

        Raises:
            DataError: there are no features.
        """
        files = self.inputs(self.encoder, "train")  # the tables among them are small
        return Budget(large=sum(file.stat().st_size for file in files if file.is_file()) > LARGE)

    def inputs(self, encoder: str, which: str) -> list[Path]:
        """The files that a result on the split `which` rests on: labels, split, and the features of its slides."""
        names = self.split(which)["wsi_name"]
        tables = [self.root / "wsi_labels.csv", self.root / f"{which}.csv"]
        return [*tables, *(self.trident_dir / f"features_{encoder}" / f"{name}.h5" for name in names)]

    @property
    def reference(self) -> pd.DataFrame | None:
        """What else is known of each slide: wsi_name, lesion_size (none, itc, micro, macro), scanner; or None."""
        path = self.root / "reference.csv"
        return pd.read_csv(path) if path.is_file() else None

    @property
    def fetched(self) -> bool:
        """Whether `mil-tutorial get` made this root, so that what it lacks can be fetched."""
        return (self.root / FETCHED).is_file()

    def slide_path(self, name: str) -> Path | str:
        """The slide's file; the fixture draws it now if it is not there yet (about 3 s).

        Of a root that `get` made it is the file if that has been fetched, otherwise the slide's **address**:
        a slide has 1.8 GB on average, and `open_slide`, `read_canvas` and `view_heatmap` take the address as it is and
        read only the tiles that they need.

        Raises:
            DataError: there is no such slide.
        """
        if self.synthetic:
            return self._draw(name, "slide")
        paths = [p for suffix in SLIDE_SUFFIXES if (p := self.root / "images" / f"{name}{suffix}").is_file()]
        if not paths and self.fetched:
            from mil_tutorial.sources.bucket import slide_url
            from mil_tutorial.sources.camelyon16 import camelyon16_slides

            if name in set(camelyon16_slides()["wsi_name"]):
                return slide_url(name)
        if not paths:
            raise DataError(
                f"{self.root / 'images' / name}: no slide of this name ({', '.join(SLIDE_SUFFIXES)})."
                f" Check the name and {VARIABLE}."
            )
        return paths[0]

    def mask_path(self, name: str) -> Path:
        """The slide's mask, `<root>/masks/<name>_mask.tif`; the fixture draws it now if needed.

        Of a root that `get` made it is fetched now if needed (22 MB on average), and its md5 compared.
        """
        if self.synthetic:
            self._draw(name, "mask")
        return self._existing("masks", f"{name}_mask.tif", "mask")

    def annotation_path(self, name: str) -> Path:
        """The slide's ASAP annotation, fetched now if `get` made the root; normal slides have none."""
        if self.synthetic:
            self._draw(name, "annotation")
        return self._existing("annotations", f"{name}.xml", "annotation (normal slides have none)")

    def _existing(self, folder: str, file: str, what: str) -> Path:
        path = self.root / folder / file
        if not path.is_file() and self.fetched:
            from mil_tutorial.sources.fetch import fetch_whole

            name = path.stem.removesuffix("_mask")
            try:
                return fetch_whole(self.root, folder, [name])[0]
            except (DataError, ParameterError) as error:
                raise DataError(f"{path}: there is no such {what}, and it cannot be fetched: {error}") from error
        if not path.is_file():
            raise DataError(f"{path}: there is no such {what}. Check the name and {VARIABLE}.")
        return path

    def _draw(self, name: str, part: str) -> Path:
        try:
            return render(name, self.root, (part,))
        except ValueError as error:
            raise DataError(str(error)) from error


def _run_folder(root: Path, run: str | None) -> Path:
    """The TRIDENT run that was asked for, else the only one, else the one with the course's own settings."""
    jobs = root / "trident_processed"
    usual = jobs / "20x_512px_0px_overlap"
    runs = sorted(p.name for p in jobs.glob("*px_overlap") if p.is_dir())
    if run is not None:
        if run not in runs:
            raise DataError(f"{jobs / run}: there is no such TRIDENT run (there: {', '.join(runs) or 'none'}).")
        return jobs / run
    if usual.name in runs or not runs:
        return usual
    if len(runs) > 1:
        raise DataError(
            f"{jobs}: several TRIDENT runs, {', '.join(runs)}. Choose one: open_data(..., run={runs[0]!r}),"
            f" or set {RUN_VARIABLE}={runs[0]}."
        )
    return jobs / runs[0]


def default_root() -> Path:
    """Where the real slides are kept that `open_data("camelyon16")` fetches: in the course's cache."""
    return cache_folder() / CAMELYON16


def _fetch_default(root: Path) -> None:
    """Fetch the default choice, unless some choice is there."""
    if (root / "wsi_labels.csv").is_file():
        return
    from mil_tutorial.sources.fetch import fetch_camelyon16

    try:
        fetch_camelyon16(root)
    except DataError as error:
        raise DataError(
            f"{root}: the real CAMELYON16 is not whole here yet, and it cannot be fetched now: {error}\nWith a network,"
            " ask again, or run `mil-tutorial get camelyon16`: both go on where they stopped, and what is here needs no"
            f" network any more. Without one, name a data root that you have in {VARIABLE}, or leave {VARIABLE} empty:"
            " then the course uses its synthetic slides."
        ) from error


def open_data(path: str | os.PathLike[str] | None = None, *, run: str | None = None) -> DataRoot:
    """Open a data root: `path`, else `$MIL_TUTORIAL_DATA`, else the synthetic fixture.

    Args:
        path: folder with `wsi_labels.csv`, `train.csv`, `test.csv` and `trident_processed`; or `camelyon16`, the real
            slides: 60 of them, with published features, are fetched on first use into the course's cache (some 1.1 GB
            and the masks of the tumour slides; terms and sizes are printed first). `./camelyon16` is a folder.
        run: name of a TRIDENT run folder, where there are several; else `$MIL_TUTORIAL_RUN`, else the course's own
            settings.

    Raises:
        DataError: there is no such folder, it lacks `wsi_labels.csv`, it holds several runs and none was chosen, or the
            real slides are not here yet and cannot be fetched.
    """
    chosen, run = path or os.environ.get(VARIABLE), run or os.environ.get(RUN_VARIABLE) or None
    if not chosen:
        root = fixture_root()
        return DataRoot(root, _run_folder(root, run), synthetic=True)
    root = default_root() if chosen == CAMELYON16 else Path(chosen).expanduser().resolve()
    if chosen == CAMELYON16:
        _fetch_default(root)
    if not (root / "wsi_labels.csv").is_file() and (root / FETCHED).is_file():
        raise DataError(
            f"{root}: `mil-tutorial get` began this data root and did not come to its end."
            " Run the same command again: it goes on where it stopped."
        )
    if not (root / "wsi_labels.csv").is_file():
        raise DataError(
            f"{root}: this is not a data root. Expected wsi_labels.csv, train.csv, test.csv, trident_processed there."
            f" Check the path{'' if path else f' in {VARIABLE}'}; without it the course uses its synthetic slides."
        )
    return DataRoot(root, _run_folder(root, run), synthetic=is_fixture(root))

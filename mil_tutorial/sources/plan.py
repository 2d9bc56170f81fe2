"""What a fetch of CAMELYON16 will do, before it does it: which slides, from where, how much, on which terms."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from mil_tutorial.errors import DataError, Found, ParameterError
from mil_tutorial.files import read_json, write_json
from mil_tutorial.remote import Head, download, remote_size
from mil_tutorial.sources import FETCHED
from mil_tutorial.sources.archives import archives_of
from mil_tutorial.sources.bucket import REFERENCE, REFERENCE_SHA256, bucket, key_of, missing_sizes, url_of
from mil_tutorial.sources.camelyon16 import REMOVED, parse_reference
from mil_tutorial.sources.choice import Wanted, check_names, choose_slides, describe_choice
from mil_tutorial.sources.get import WORK, Files
from mil_tutorial.sources.hdf5_slides import Place, find_places
from mil_tutorial.sources.sets import SETS, SLIDES_LICENCE, FeatureSet, feature_set
from mil_tutorial.tables import read_label_table

SLIDES = 60  # of the default choice

LOCK = ".get.lock"  # in a data root while somebody fetches into it


@dataclass
class SetPlan:
    """What is fetched of one feature set.

    Attributes:
        features: the set.
        names: slides that are not there yet.
        heads: its file, or its archives, as their server describes them; empty where nothing is fetched.
        places: where the slides lie in an HDF5 file.
    """

    features: FeatureSet
    names: list[str] = field(default_factory=list)
    heads: dict[str, Head] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes to fetch, without what an earlier run has fetched; of archives: at most."""
        if self.features.is_archive:
            return sum(head.size for head in self.heads.values())
        return sum(place.size for place in self.places.values())


@dataclass
class Plan:
    """What a fetch will do.

    Attributes:
        root: of the data.
        table: the official reference, see `camelyon16.parse_reference`.
        asked: the slides that were asked for.
        names: all slides that the data root will have.
        sets: what is fetched of each feature set that it will have.
        sources: bytes of each mask or annotation that is fetched, by slide.
        labels_from: `masks` or `annotations`.
        official: whether the reference is the one that was published.
    """

    root: Path
    table: pd.DataFrame
    asked: list[str]
    names: list[str]
    sets: list[SetPlan]
    sources: dict[str, int]
    labels_from: str
    official: bool

    @property
    def size(self) -> int:
        """Bytes to fetch."""
        return sum(s.size for s in self.sets) + sum(self.sources.values())

    @property
    def done(self) -> int:
        """Bytes of these that an earlier run has fetched."""
        parts = [Files(self.root, n, s.features.name).part for s in self.sets for n in s.names]
        parts += [self.root / (key_of(self.labels_from, n) + ".part") for n in self.sources]
        return sum(p.stat().st_size for p in parts if p.is_file())

    @property
    def missing(self) -> bool:
        """Whether there is anything to fetch."""
        return any(s.names for s in self.sets)

    def describe(self) -> str:
        """All that a reader should know before it starts, in plain text."""
        lines = [describe_choice(self.table, self.asked), ""]
        more = len(self.names) - len(self.asked)
        lines += [f"{more} other slides are in this data root already.", ""] if more else []
        for part in (s for s in self.sets if s.names):
            f = part.features
            most = "at most " if f.is_archive else ""
            lines.append(f"features   {f.name}: {f.encoder}; {len(part.names)} slides, {most}{in_words(part.size)}")
            lines += [f"           from {url}" for url in (archives_of(f).values() if f.is_archive else [f.url])]
            lines.append(f"           {f.licence}; {f.terms}")
            if f.is_archive:
                lines.append(
                    "           an archive is read from its beginning until the last chosen slide has come, also when"
                    " it goes on after a stop; slides that are there are kept"
                )
            if chunked := [n for n, place in part.places.items() if place.ranges is None]:
                lines.append(f"           {len(chunked)} slides are compressed there: they are read through HDF5")
            labels = self.table.set_index("wsi_name")["wsi_label"]
            for name, place in part.places.items():
                if place.label is not None and place.label != labels[name]:
                    words = [("normal", "tumour")[int(bool(label))] for label in (place.label, labels[name])]
                    lines.append(
                        f"           it calls {name} {words[0]}, the reference {words[1]}: the reference counts"
                    )
        if self.sources:
            size = in_words(sum(self.sources.values()))
            lines.append(f"{self.labels_from:<11}of {len(self.sources)} tumour slides, {size}; no slide itself")
            lines += [f"           from {url_of(self.labels_from)}/", f"           {SLIDES_LICENCE}"]
        lines.append(f"in all     {in_words(self.size)}" + (f", {in_words(self.done)} are here" if self.done else ""))
        if not self.official:
            lines.append(f"note       {url_of(REFERENCE)} is not the published reference: its SHA-256 is another one")
        return "\n".join([*lines, f"to         {self.root}"])


def in_words(size: float) -> str:
    """Bytes for people.

    >>> in_words(1_100_000_000)
    '1.1 GB'
    """
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}" if size < 100 * factor else f"{size / factor:.0f} {unit}"
    return f"{size:.0f} bytes"


def begin(root: Path) -> None:
    """Mark a folder as a data root that is being fetched.

    Raises:
        DataError: it holds somebody's own files, or cannot be written.
    """
    if (root / FETCHED).is_file():
        return
    if root.is_dir() and any(path.name != LOCK for path in root.iterdir()):
        raise DataError(
            f"{root}: this folder holds files, and `get` has not made it. Nothing was written."
            " Choose a new or an empty folder."
        )
    write_json(root / FETCHED, {"dataset": "CAMELYON16", "bucket": bucket(), "absent": {}})


def read_absent(root: Path) -> dict[str, list[str]]:
    """The slides that an earlier run did not find in a set, by its name."""
    try:
        return dict(read_json(root / FETCHED)["absent"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{root / FETCHED}: is damaged ({error!s:.80}). Delete it and what is beside it.") from error


def make_plan(root: Path, wanted: Wanted, *, progress: bool = True) -> Plan:
    """Find out what must be fetched. What is there is not asked for; of the rest only sizes and tables of contents.

    Args:
        root: of the data; new, empty, or made by `get`.
        wanted: what to fetch.
        progress: whether to show a bar where many slides are looked up.

    Raises:
        ParameterError: no such slide.
        DataError: no network, the folder is somebody's, or a server has changed; the message names the address.
    """
    asked_set = feature_set(wanted.features)
    begin(root)
    there = root / REFERENCE
    if not there.is_file():
        download(url_of(REFERENCE), there, progress=False)
    content = there.read_bytes()
    table = parse_reference(content, there)
    have = read_label_table(root / "wsi_labels.csv")["wsi_name"].tolist() if (root / "wsi_labels.csv").is_file() else []
    sets = _sets_of(root, asked_set)
    absent: dict[str, set[str]] = {f.name: set(f.absent) | set(read_absent(root).get(f.name, ())) for f in sets}
    for _ in range(len(table)):
        without: set[str] = set().union(*absent.values())
        asked = _choose(table, without, wanted)
        _refuse_absent(asked, absent, sets)
        both = set(asked) | set(have)
        all_names = [n for n in table["wsi_name"] if n in both]
        plans = [SetPlan(f, [n for n in all_names if not Files(root, n, f.name).whole]) for f in sets]
        missing = {p.features.name: _look_up(p, root, progress) for p in plans if p.names}
        if not any(missing.values()):
            break
        for name, gone in missing.items():
            absent[name] = absent[name] | set(gone)
        write_json(
            root / FETCHED,
            {"dataset": "CAMELYON16", "bucket": bucket(), "absent": {n: sorted(v) for n, v in absent.items()}},
        )
    tumor = set(table.loc[table["wsi_label"] == 1, "wsi_name"])
    need = [] if asked_set.is_archive else [n for n in plans[0].names if n in tumor]
    sources = missing_sizes(
        root, wanted.labels_from, [n for n in need if not Files(root, n, wanted.features).labels.is_file()]
    )
    official = sha256(content).hexdigest() == REFERENCE_SHA256
    return Plan(root, table, asked, all_names, plans, sources, wanted.labels_from, official)


def _sets_of(root: Path, asked: FeatureSet) -> list[FeatureSet]:
    """The set that was asked for and those that the root has: each slide is to have all of them."""
    run = Files(root, "", "").run
    there = [s for s in SETS.values() if (run / f"features_{s.name}").is_dir() and s.name != asked.name]
    for other in there:
        if other.repository != asked.repository:
            raise DataError(
                f"{root}: has features {other.name}, whose patches are others than those of {asked.name}."
                f" Take another folder for {asked.name}."
            )
    return [asked, *there]


def _choose(table: pd.DataFrame, without: set[str], wanted: Wanted) -> list[str]:
    if wanted.names:
        return check_names(table, wanted.names, REMOVED)
    if wanted.everything:
        return [n for n in table["wsi_name"] if n not in without]
    free = len(table) - len(without & set(table["wsi_name"]))
    count = min(SLIDES, free) if wanted.slides is None else wanted.slides
    return choose_slides(table, count, without=without)


def _refuse_absent(asked: Iterable[str], absent: dict[str, set[str]], sets: Sequence[FeatureSet]) -> None:
    """Slides that were named, and that a set does not have."""
    for f in sets:
        if gone := sorted(set(asked) & set(absent[f.name])):
            found = Found(f"{', '.join(gone)}, which {f.name} does not have ({f.url})")
            raise ParameterError("names", found, "slides that it has; leave these out, or choose another set")


def _look_up(plan: SetPlan, root: Path, progress: bool) -> list[str]:
    """Fill in where the slides of a set lie; those that it does not have."""
    f = plan.features
    if f.is_archive:
        kinds = {"coords": "patches", "patch_labels": "labels", "features": "features"}
        for kind, url in archives_of(f).items():
            files = [getattr(Files(root, n, f.name), kinds[kind]) for n in plan.names]
            if not all(path.is_file() for path in files):
                plan.heads[kind] = remote_size(url)
        return []
    plan.heads["features"] = head = remote_size(f.url)
    shown = progress and len(plan.names) > 8
    note = root / WORK / f"{f.name}.json"
    wanted = [n for n in plan.names if not Files(root, n, f.name).features.is_file()]
    with tqdm(
        total=len(wanted), desc=f"Looking up slides in {f.name}", unit="slide", delay=2, disable=not shown
    ) as bar:
        plan.places, missing = find_places(f.url, head, wanted, note, told=bar.update)
    return missing


def check_space(plan: Plan) -> None:
    """Raise `DataError` where the disk is too small for what comes."""
    archives = sum(s.size for s in plan.sets if s.features.is_archive)  # read through, not kept
    require_space(
        plan.root, plan.size - archives - plan.done, or_else=", choose fewer slides, or choose another folder"
    )


def require_space(root: Path, need: int, *, or_else: str = "") -> None:
    """Raise `DataError` where the disk of `root` has less than `need` bytes; `or_else` is what else can be done."""
    free = shutil.disk_usage(root).free
    if need > free:
        raise DataError(f"{root}: needs {in_words(need)}, the disk has {in_words(free)} left. Make room{or_else}.")

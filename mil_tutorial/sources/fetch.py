"""Fetch CAMELYON16, or some of it, into a data root: features, patch labels, tables, and a record of where from."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from mil_tutorial.errors import DataError, require
from mil_tutorial.files import HEX, written_whole
from mil_tutorial.remote import Head, download, remote_size
from mil_tutorial.remote.answers import CONNECTIONS
from mil_tutorial.sources.archives import archives_of, get_from_archives
from mil_tutorial.sources.bucket import CHECKSUMS, key_of, missing_sizes, parse_checksums, url_of
from mil_tutorial.sources.camelyon16 import camelyon16_slides
from mil_tutorial.sources.choice import Wanted
from mil_tutorial.sources.get import WORK, Files, Slide, fetch_file, fetch_slide, finish_slide
from mil_tutorial.sources.plan import (
    LOCK,
    Plan,
    SetPlan,
    begin,
    check_space,
    in_words,
    make_plan,
    require_space,
)
from mil_tutorial.sources.provenance import covers, write_provenance

MOST_FAILURES = 3  # slides that may fail before the others are given up: then it is the network, not the slides

LARGE = 100_000_000  # bytes of a file that is announced before it is fetched


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """Nobody else fetches into this data root.

    Raises:
        DataError: somebody does.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / LOCK, timeout=0)
        lock.acquire()
    except Timeout as error:
        raise DataError(
            f"{root}: another process is fetching into this folder. Wait until it is done, then run it again."
        ) from error
    except OSError as error:
        raise DataError(
            f"{root}: cannot be written to ({error.strerror}). Choose a folder you may write to."
        ) from error
    try:
        yield
    finally:
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


def fetch_camelyon16(
    root: Path, wanted: Wanted | None = None, *, say: Callable[[str], object] = print, progress: bool = True
) -> Plan:
    """Make a data root of slides of CAMELYON16, or complete it; what is there is not fetched again.

    Args:
        root: of the data; new, empty, or made by `get`.
        wanted: what to fetch; by default a choice of 60 slides.
        say: is told, before it starts, what will be fetched, how much and on which terms.
        progress: whether to show a bar.

    Raises:
        ParameterError, DataError: as `plan.make_plan`; or a slide cannot be fetched, which the message names. What is
            fetched by then is kept, and the same call goes on from there.
    """
    wanted = wanted or Wanted()
    with alone(root):
        plan = make_plan(root, wanted, progress=progress)
        if not plan.missing and covers(root, plan.names):
            say(f"{len(plan.asked)} slides with features {wanted.features} are in {root}; nothing is left to fetch")
            return plan
        say(plan.describe())
        _carry_out(plan, progress)
    return plan


def _carry_out(plan: Plan, progress: bool) -> None:
    check_space(plan)
    checksums = read_checksums(plan.root) if plan.sources else {}
    lock = threading.Lock()
    with tqdm(
        total=plan.size, initial=plan.done, desc="Fetching", unit="B", unit_scale=True, disable=not progress
    ) as bar:

        def told(count: int) -> None:
            with lock:
                bar.update(count)

        labels = dict(zip(plan.table["wsi_name"], plan.table["wsi_label"], strict=True))
        for part in (p for p in plan.sets if p.names):
            if part.features.is_archive:
                own = {name: int(labels[name]) for name in part.names}
                get_from_archives(own, plan.root, part.features, part.heads, told=told)
            else:
                _get_slides(part, plan, labels, checksums, told)
    heads = {p.features.name: p.heads or _heads(p) for p in plan.sets}
    _remove_left_over(plan)
    write_tables(plan.root, plan.table, plan.names)
    write_provenance(plan, heads)
    shutil.rmtree(plan.root / WORK, ignore_errors=True)


def _remove_left_over(plan: Plan) -> None:
    """Remove the temporary files of killed runs: nobody else fetches into this root, so they belong to nobody."""
    run = Files(plan.root, "", "").run
    own = (plan.root / name for name in ("evaluation", "masks", "annotations"))
    for folder in (plan.root, *own, *run.glob("*")):
        for left in folder.glob(f".*.{HEX}.*"):
            left.unlink(missing_ok=True)


def _heads(part: SetPlan) -> dict[str, Head]:
    """What the servers say of a set's files, for the record, where nothing had to be fetched."""
    f = part.features
    urls = archives_of(f) if f.is_archive else {"features": f.url}
    return {kind: remote_size(url) for kind, url in urls.items()}


def _get_slides(
    part: SetPlan, plan: Plan, labels: dict[str, int], checksums: dict[str, str], told: Callable[[int], object]
) -> None:
    """The slides of an HDF5 file, several at a time.

    Raises:
        DataError: some slides cannot be got; the message says why for each.
    """
    workers = min(CONNECTIONS, len(part.names))
    errors: list[DataError] = []
    pool = ThreadPoolExecutor(workers)

    def fetch(name: str) -> tuple[Slide, tuple[int, int] | None]:
        files, place = Files(plan.root, name, part.features.name), part.places.get(name)
        slide = Slide(files, int(labels[name]), part.features, place, part.heads["features"], plan.labels_from)
        each = CONNECTIONS // workers
        return slide, fetch_slide(slide, checksums=checksums, told=told, connections=each)

    done = 0
    try:
        jobs = [pool.submit(fetch, name) for name in part.names]
        for job in as_completed(jobs):
            try:
                slide, size = job.result()
                finish_slide(slide, size)  # one by one, and in this thread: so memory holds one slide
            except DataError as error:
                errors.append(error)
                if len(errors) == MOST_FAILURES:
                    break
                continue
            done += 1
            if slide.place is not None and slide.place.ranges is None:
                told(slide.place.size)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    if errors:
        each = "\n".join(dict.fromkeys(str(error) for error in errors))
        raise DataError(
            f"{each}\n{done} of {len(jobs)} slides are whole. Run the same command again: it goes on from there."
        )


def read_checksums(root: Path) -> dict[str, str]:
    """md5 of the bucket's files by key; the list is fetched on first use and kept in the data root.

    Raises:
        DataError: it cannot be fetched.
    """
    path = root / CHECKSUMS
    if not path.is_file():
        download(url_of(CHECKSUMS), path, progress=False)
    return parse_checksums(path.read_text(encoding="utf-8", errors="replace"))


def write_tables(root: Path, table: pd.DataFrame, names: Iterable[str]) -> None:
    """Write `reference.csv`, `train.csv`, `test.csv` and, last, `wsi_labels.csv`: now it is a data root."""
    own = table[table["wsi_name"].isin(list(names))]
    columns = ["wsi_name", "wsi_label"]
    tables = {
        "reference": own[["wsi_name", "lesion_size", "scanner", "center", "annotation"]],
        "train": own.loc[own["split"] == "train", columns],
        "test": own.loc[own["split"] == "test", columns],
        "wsi_labels": own[columns],
    }
    for name, part in tables.items():
        with written_whole(root / f"{name}.csv") as temporary:
            temporary.write_bytes(part.to_csv(index=False, lineterminator="\n").encode())


def require_slides(names: Iterable[str], *, parameter: str = "names") -> None:
    """Raise `ParameterError` that names `parameter` unless these are slides of CAMELYON16."""
    known = set(camelyon16_slides()["wsi_name"])
    for name in names:
        require(name in known, parameter, name, "the name of a slide of CAMELYON16, such as 'tumor_091'")


def fetch_whole(root: Path, kind: str, names: Sequence[str], *, say: Callable[[str], object] = print) -> list[Path]:
    """Fetch whole files of slides from the bucket into a data root; md5 is compared, and what is there stays.

    Args:
        root: of the data; new, empty, or made by `get`.
        kind: `images`, `masks` or `annotations`.
        names: of the slides.
        say: is told before more than 100 MB are fetched.

    Returns:
        Their paths.

    Raises:
        ParameterError: there is no such slide.
        DataError: it cannot be fetched.
    """
    require_slides(names)
    if all((root / key_of(kind, name)).is_file() for name in names):
        return [root / key_of(kind, name) for name in names]
    begin(root)
    sizes = missing_sizes(root, kind, names)
    total = sum(sizes.values())
    if total > LARGE:
        say(f"Fetching {in_words(total)}: {kind} of {', '.join(sizes)} from {url_of(kind)}/ to {root / kind} (CC0)")
    require_space(root, total)
    checksums = read_checksums(root)
    return [fetch_file(kind, name, root, checksums=checksums) for name in names]

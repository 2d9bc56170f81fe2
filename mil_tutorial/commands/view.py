"""`mil-tutorial view`: one slide in the browser, all its levels, tiles made when they are asked for."""

from __future__ import annotations

import argparse
import os
import sys
import webbrowser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pandas as pd

from mil_tutorial.commands.common import add_data_options, open_root
from mil_tutorial.commands.tile_server import TILES, SlideServer
from mil_tutorial.errors import DataError, ParameterError, require_integer, require_number
from mil_tutorial.geometry import as_side
from mil_tutorial.localization.geojson_reader import read_geojson
from mil_tutorial.localization.page import PatchView, build_page
from mil_tutorial.localization.tiles import overview, plan_tiles, tile_reader
from mil_tutorial.slides.reading import opened

PLACE, LABEL = ("x", "y", "side"), "label"  # columns of a CSV; the others are scores

NUMBERS = {"tumour": 1, "tumor": 1, "normal": 0, "unknown": -1, "1": 1, "0": 0, "-1": -1}


def options(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("slide", help="path or address (https://…) of a slide, or the name of one in the data root")
    parser.add_argument(
        "--scores",
        metavar="FILE",
        help="patches to lay over it: GeoJSON, as `localize` writes it, or a CSV with the columns x, y, side,"
        " one for each score, and label if you like",
    )
    add_data_options(parser, encoder=None)
    parser.add_argument("--port", type=int, default=0, help="of the page on this machine; 0 picks a free one")
    parser.add_argument("--idle", type=float, default=30.0, help="minutes without a request, after which it stops")
    parser.add_argument("--no_browser", action="store_true", help="only print the address")


def run(args: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C, or until nobody looks any more."""
    require_integer("port", args.port, low=0, high=65535)
    require_number("idle", args.idle, low=0, open_low=True)
    with opened(_find(args)) as (slide, path):
        patches = PatchView()
        if args.scores:
            patches = _read_scores(Path(args.scores), slide.dimensions)
        plan = plan_tiles(slide, None, 1)
        title = Path(unquote(path) if "://" in path else path).name
        page = build_page(patches, plan, overview(slide, path), title=title, address=TILES)
        with tile_reader(slide, path, plan.factors) as read, SlideServer(page, plan, read, args.port) as server:
            print(
                f"{title}: {server.address}\nCtrl-C stops it; {args.idle:g} minutes without a look do, too.", flush=True
            )
            if not args.no_browser and _has_screen():
                webbrowser.open(server.address)
            try:
                server.serve(60 * args.idle)
                print("nobody has looked for a while: stopped")
            except KeyboardInterrupt:
                print("\nstopped")
    return 0


def _find(args: argparse.Namespace) -> str | Path:
    """The slide's path or address; a bare name is one of the data root's."""
    name = args.slide
    if "://" in name or Path(name).exists() or Path(name).suffix or len(Path(name).parts) > 1:
        return name
    return open_root(args).slide_path(name)


def _has_screen() -> bool:
    return sys.platform in ("win32", "darwin") or any(os.environ.get(n) for n in ("DISPLAY", "WAYLAND_DISPLAY"))


def _read_scores(path: Path, size: tuple[int, int]) -> PatchView:
    """The patches in a GeoJSON or CSV file, for a slide of this size."""
    try:
        if path.suffix.lower() in (".geojson", ".json"):
            return PatchView.checked(*read_geojson(path), size)
        return PatchView.checked(*_read_table(path), size)
    except ParameterError as error:
        raise DataError(f"{path}: {error} Is it another slide's file?") from error


def _read_table(path: Path) -> tuple[np.ndarray, int, dict[str, np.ndarray], np.ndarray | None]:
    """Corners, side, scores and labels of a CSV, one patch a line."""
    expected = "Expected a CSV with the columns x, y, side, one for each score, and label if you like."
    try:
        table = pd.read_csv(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Check the path and your rights.") from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: is not a readable CSV ({error!s:.120}). {expected}") from error
    missing = [name for name in PLACE if name not in table]
    if missing:
        columns = ", ".join(map(str, table.columns))[:200]
        raise DataError(f"{path}: column {', '.join(missing)} is missing, found {columns}. {expected}")
    words = [c for c in table if c != LABEL and not pd.api.types.is_numeric_dtype(table[c])]
    if words or table["side"].nunique() != 1:
        what = f"column {words[0]} has words" if words else f"column side has {table['side'].nunique()} values"
        raise DataError(f"{path}: {what}, expected numbers, and one side for all patches. Correct the file.")
    labels = table[LABEL].map(lambda v: NUMBERS.get(str(v).lower(), v)).to_numpy() if LABEL in table else None
    names = [c for c in table if c not in (*PLACE, LABEL)]
    scores = {str(c): table[c].to_numpy(float) for c in names}
    return table[["x", "y"]].to_numpy(float), as_side(table["side"].iloc[0]), scores, labels

"""A slide to zoom into, with patch scores and ground truth over it: for notebooks, and as a page without a network."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Mapping
from html import escape
from pathlib import Path
from urllib.parse import quote

import openslide
from numpy.typing import ArrayLike

from mil_tutorial.errors import require_number
from mil_tutorial.files import HEX, remove_left_over, written_whole
from mil_tutorial.localization.page import PatchView, build_page
from mil_tutorial.localization.tiles import Key, make_tiles, overview, plan_tiles
from mil_tutorial.slides.reading import opened

INSIDE = 16 << 20  # bytes of tiles that a page carries; more go into a folder beside it

FRAME_PX = 620  # height of the page in a notebook


class _Tiles:
    """Keeps tiles in memory as long as they are light, else in a folder, which gets its name when it is complete.

    Args:
        folder: where they go; None: they stay in memory.
        one_file: True: in memory; False: in the folder; None: it depends on their weight.
    """

    def __init__(self, folder: Path | None, one_file: bool | None):
        self.inside: dict[Key, bytes] | None = {}
        self._folder, self._weight = folder, 0
        self._limit = float("inf") if one_file or folder is None else -1 if one_file is False else INSIDE
        if folder is not None:
            folder.parent.mkdir(parents=True, exist_ok=True)
            remove_left_over(folder.parent, f".{folder.name}.{HEX}")
            self._temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")

    def __call__(self, key: Key, tile: bytes) -> None:
        """Keep a tile."""
        self._weight += len(tile)
        if self.inside is None:
            self._write(key, tile)
            return
        self.inside[key] = tile
        if self._weight > self._limit:
            for each in self.inside.items():
                self._write(*each)
            self.inside = None

    def _write(self, key: Key, tile: bytes) -> None:
        factor, column, row = key
        path = self._temporary / str(factor) / f"{column}_{row}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tile)

    def finish(self) -> None:
        """The folder, if there is one, gets its name."""
        if self.inside is None and self._folder is not None:
            old = self._temporary.with_name(f"{self._temporary.name[:-8]}{uuid.uuid4().hex[:8]}")
            if self._folder.exists():
                os.replace(self._folder, old)
            os.replace(self._temporary, self._folder)
            shutil.rmtree(old, ignore_errors=True)

    def discard(self) -> None:
        """Remove what is not finished."""
        if self._folder is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)


def view_heatmap(
    slide: openslide.AbstractSlide | str | os.PathLike[str],
    coords: ArrayLike,
    patch_size_level0: int,
    scores: Mapping[str, ArrayLike],
    labels: ArrayLike | None = None,
    *,
    title: str = "",
    html: str | os.PathLike[str] | None = None,
    finest_mpp: float | None = None,
    one_file: bool | None = None,
) -> None:
    """Show a slide to zoom into down to its cells, with patch scores and ground truth laid over it.

    The page has tiles of the slide where there are patches, at every level from coarse to fine. It needs no network
    and no server: a double click opens it.

    Args:
        slide: an open slide or its path.
        coords: (n, 2) x, y of the patches in level-0 pixels.
        patch_size_level0: side of a patch.
        scores: name -> (n,) finite values; the first is shown, a menu changes it.
        labels: (n,) 1 tumour, 0 normal, -1 unknown.
        title: of the page.
        html: write the page there; None: show it in the notebook.
        finest_mpp: µm per pixel of the finest tiles, to the nearest level; None: level 0 of a small slide, of one with
            more than 2**28 pixels under patches 1 µm. The page says it.
        one_file: True: the tiles are in the page; False: in the folder `<page>_tiles` beside it; None: in the page as
            long as they weigh at most 16 MB. In a notebook they are in the page.

    Raises:
        ParameterError: no scores, or scores of another length, NaN or infinite; no patches, or some outside the slide.
        DataError: the slide cannot be read, or the page cannot be written.
    """
    if finest_mpp is not None:
        require_number("finest_mpp", finest_mpp, low=0, open_low=True)
    page = None if html is None else Path(html)
    folder = None if page is None else page.with_name(f"{page.stem}_tiles")
    with opened(slide) as (reader, path):
        patches = PatchView.checked(coords, patch_size_level0, scores, labels, reader.dimensions)
        plan = plan_tiles(reader, patches.coords, patches.side, finest_mpp)
        picture = overview(reader, path)
        tiles = _Tiles(folder, one_file)
        try:
            make_tiles(reader, path, plan, tiles)
            tiles.finish()
        finally:
            tiles.discard()
    name = title or "Heatmap"
    address = "" if folder is None else quote(folder.name)
    text = build_page(patches, plan, picture, title=name, address=address, inside=tiles.inside)
    if page is not None:
        with written_whole(page) as temporary:
            temporary.write_text(text, encoding="utf-8")
        return
    from IPython.display import HTML, display

    look = f"width:100%;height:{FRAME_PX}px;border:0"
    display(HTML(f'<div><iframe title="{escape(name)}" style="{look}" srcdoc="{escape(text)}"></iframe></div>'))

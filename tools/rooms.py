"""Draw the rooms of the package as an SVG, from its imports. `python tools/house.py --draw FILE` calls this."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from house import House

WIDTH, BOX, GAP, HEIGHT, BETWEEN = 800, 92, 6, 56, 76  # in pixels; the last is the space between floors
STYLE = """text { font-family: system-ui, 'Segoe UI', Arial, sans-serif; fill: #1b1f24; text-anchor: middle; }
.name { font-size: 13px; font-weight: 600; } .lines { font-size: 12px; } .note { font-size: 13px; }
rect { stroke-width: 1.3; } .step { fill: #dbe8fb; stroke: #2b5fa8; } .room { fill: #f1f1ee; stroke: #6b6b66; }
.ground { fill: #efe6d6; stroke: #8a6d3b; } .chip { fill: #fbf7ef; stroke: #8a6d3b; }
.roof { fill: #e0f0e0; stroke: #3d7a46; }
.arrow { fill: none; stroke: #33383f; stroke-width: 1.5; marker-end: url(#tip); } .down { stroke: #8a6d3b; }
.badge { fill: #2b5fa8; } .number { font-size: 12px; font-weight: 700; fill: #ffffff; }"""
SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" width="{w}" height="{h}" role="img">'


def about(lines: int) -> str:
    """A number of lines with two digits, so that one more line does not change the image."""
    digits = max(0, len(str(lines)) - 2)
    return f"{round(lines, -digits):,} lines".replace(",", " ")


def draw(house: House, ground: Sequence[str], steps: Sequence[str]) -> str:
    """The SVG: rooms as boxes from the ground up, an arrow for each import of a room from another.

    Arrows to the ground and from the commands are summed up in words, as nearly every room has them.
    """
    rooms = house.rooms()
    arrows = house.arrows()
    middle = [r for r in rooms if r and r not in ground and r not in ("commands", "__main__")]
    inner = sorted((a, b) for a, b in arrows if a in middle and b in middle)
    floor = floors(middle, inner)
    columns = columns_of(middle, steps, floor, inner)
    top, roof = 14, 48
    base = top + roof + BETWEEN // 2 + max(floor.values()) * (HEIGHT + BETWEEN) + HEIGHT
    place = {r: (columns[r], base - HEIGHT - floor[r] * (HEIGHT + BETWEEN)) for r in middle}
    size = {r: house.size(names) for r, names in rooms.items()}
    parts = [_roof(arrows, middle, size["commands"][0], top, roof)]
    parts += [_arrow(place[a], place[b]) for a, b in inner]
    for room in middle:
        parts.append(_room(room, place[room], about(size[room][0]), steps.index(room) + 1 if room in steps else None))
        if floor[room] == 0:
            x = place[room][0] + BOX / 2
            parts.append(f'<path class="arrow down" d="M{x:g} {base} V{base + 24}"/>')
    parts += _ground([(r, about(size[r][0])) for r in ground if r in rooms], base + 26)
    height = base + 26 + 118
    importing = {a: ", ".join(y for x, y in inner if x == a) for a, _ in inner}
    words = "; ".join(f"{a} imports from {others}" for a, others in importing.items())
    return "\n".join(
        [
            SVG.format(w=WIDTH, h=height),
            "<title>The rooms of mil_tutorial and their imports</title>",
            f"<desc>Commands on top of the rooms, the rooms on the ground. {words}.</desc>",
            f"<style>{STYLE}</style>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            '<path d="M0 0 L8 4 L0 8 z" fill="#33383f"/></marker></defs>',
            f'<rect x="1" y="1" width="{WIDTH - 2}" height="{height - 2}" rx="10" fill="#ffffff" stroke="#c9ccd1"/>',
            *parts,
            "</svg>\n",
        ]
    )


def floors(rooms: Sequence[str], arrows: Sequence[tuple[str, str]]) -> dict[str, int]:
    """How high each room stands: one floor above the highest room that it imports."""
    floor = dict.fromkeys(rooms, 0)
    for _ in rooms:  # as many rounds as a chain of rooms can be long
        for a, b in arrows:
            floor[a] = max(floor[a], min(floor[b] + 1, len(rooms)))
    return floor


def columns_of(
    rooms: Sequence[str], steps: Sequence[str], floor: dict[str, int], arrows: Sequence[tuple[str, str]]
) -> dict[str, float]:
    """Left edge of each room: the steps in their order; a room above the others over those that it imports."""
    others = [r for r in rooms if r not in steps]
    row = [r for r in others if floor[r] == 0] + list(steps)
    left = (WIDTH - len(row) * (BOX + GAP) + GAP) / 2
    columns = {r: left + k * (BOX + GAP) for k, r in enumerate(row)}
    grid = list(columns.values())
    for room in sorted((r for r in others if floor[r] > 0), key=lambda r: -floor[r]):
        under = [columns[b] for a, b in arrows if a == room and b in columns]
        wanted = sum(under) / max(len(under), 1)
        # Not on the floor's other rooms, nor in the way of arrows from the rooms above it.
        taken = [columns[r] for r in columns if floor[r] == floor[room]]
        above = [columns[a] for a, b in arrows if b == room and a in columns]
        free = [
            x
            for x in [wanted, *grid]
            if all(abs(x - t) >= BOX for t in taken) and all(abs(x - a) > 1.5 * (BOX + GAP) for a in above)
        ]
        columns[room] = min(free, key=lambda x: abs(x - wanted), default=wanted)
    return columns


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}">{text}</text>'


def _room(name: str, place: tuple[float, float], lines: str, step: int | None) -> str:
    x, y = place
    box = f'<rect class="{"step" if step else "room"}" x="{x:g}" y="{y:g}" width="{BOX}" height="{HEIGHT}" rx="6"/>'
    words = _text(x + BOX / 2, y + 27, name, "name") + _text(x + BOX / 2, y + 45, lines, "lines")
    if step:
        words += f'<circle class="badge" cx="{x + 4:g}" cy="{y + 4:g}" r="10"/>' + _text(
            x + 4, y + 8, str(step), "number"
        )
    return f"<g>{box}{words}</g>"


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    """From the lower edge of one room to the upper edge of another; arrows that meet are spread a little."""
    (x1, y1), (x2, y2) = start, end
    shift = max(-BOX / 4, min(BOX / 4, (x2 - x1) / 8))
    x1, x2, y1 = x1 + BOX / 2 + shift, x2 + BOX / 2 - shift, y1 + HEIGHT
    bend = (y2 - y1) * 0.6
    curve = f"M{x1:g} {y1:g} C{x1:g} {y1 + bend:g} {x2:g} {y2 - bend:g} {x2:g} {y2 - 2:g}"
    return f'<path class="arrow" d="{curve}"/>'


def _roof(arrows: set[tuple[str, str]], middle: Sequence[str], lines: int, top: int, height: int) -> str:
    """The commands over the whole width, with the rooms that they do not import."""
    missing = [r for r in middle if ("commands", r) not in arrows]
    words = "imports from every room below" + (f", apart from {', '.join(missing)}" if missing else "")
    box = f'<rect class="roof" x="{GAP}" y="{top}" width="{WIDTH - 2 * GAP}" height="{height}" rx="6"/>'
    name = _text(WIDTH / 2, top + 20, f"commands: the program mil-tutorial, {about(lines)}", "name")
    return f"<g>{box}{name}{_text(WIDTH / 2, top + 38, words, 'note')}</g>"


def _ground(rooms: Sequence[tuple[str, str]], top: float) -> list[str]:
    """The ground over the whole width, with a small box for each of its modules."""
    wide = (WIDTH - 4 * GAP - (len(rooms) - 1) * 6) / max(len(rooms), 1)
    parts = [f'<rect class="ground" x="{GAP}" y="{top:g}" width="{WIDTH - 2 * GAP}" height="104" rx="6"/>']
    parts.append(_text(WIDTH / 2, top + 22, "the ground: every room above may import from it", "note"))
    for k, (name, lines) in enumerate(rooms):
        x = 2 * GAP + k * (wide + 6)
        parts.append(f'<rect class="chip" x="{x:g}" y="{top + 36:g}" width="{wide:g}" height="{HEIGHT}" rx="5"/>')
        parts.append(_text(x + wide / 2, top + 61, name, "name") + _text(x + wide / 2, top + 79, lines, "lines"))
    return parts

"""The flowcharts of the pages as SVG, so that the site needs no program from elsewhere to draw them."""

import re

WIDTH, ROW, BOX, HEIGHT = 860, 84, 118, 34


def svg(flowchart: str) -> str:
    """An arrow for each line `a --> b`; a node stands one row below the lowest of those that point at it."""
    arrows = re.findall(r"(\w+) --> (\w+)", flowchart)
    nodes = list(dict.fromkeys(name for arrow in arrows for name in arrow))
    row = dict.fromkeys(nodes, 0)
    for _ in nodes:
        for a, b in arrows:
            row[b] = max(row[b], row[a] + 1)
    for name in nodes:  # one that nothing points at stands just above what it uses
        if all(b != name for _, b in arrows):
            row[name] = min(row[b] for a, b in arrows if a == name) - 1
    place: dict[str, float] = {}
    for level in range(max(row.values()) + 1):
        own = [name for name in nodes if row[name] == level]
        above = {n: [place[a] for a, b in arrows if b == n and a in place] or [WIDTH / 2] for n in own}
        own.sort(key=lambda n: sum(above[n]) / len(above[n]))
        place |= {name: WIDTH * (i + 0.5) / len(own) for i, name in enumerate(own)}
    lines = [_arrow(place[a], row[a] * ROW + HEIGHT, place[b], row[b] * ROW) for a, b in arrows]
    boxes = [_box(name, place[name], row[name] * ROW) for name in nodes]
    height = max(row.values()) * ROW + HEIGHT
    return (
        f'<svg class="flowchart" viewBox="-2 -2 {WIDTH + 4} {height + 4}" role="img" aria-label="What uses what">'
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="currentColor"/></marker></defs>'
        f"{''.join(lines)}{''.join(boxes)}</svg>"
    )


def _arrow(x: float, y: float, to_x: float, to_y: float) -> str:
    middle = (y + to_y) / 2
    path = f"M{x:.0f} {y:.0f}C{x:.0f} {middle:.0f} {to_x:.0f} {middle:.0f} {to_x:.0f} {to_y:.0f}"
    return f'<path d="{path}" fill="none" stroke="currentColor" marker-end="url(#tip)"/>'


def _box(name: str, x: float, y: float) -> str:
    return (
        f'<rect x="{x - BOX / 2:.0f}" y="{y}" width="{BOX}" height="{HEIGHT}" rx="5"/>'
        f'<text x="{x:.0f}" y="{y + HEIGHT / 2 + 5:.0f}" text-anchor="middle">{name}</text>'
    )

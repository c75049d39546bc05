#!/usr/bin/env python3
"""Draws the medians of `--bench compare` as an SVG: didcomm, and Claviger with SoftHSM and with Kryoptic.

    benches/speed.py MARKDOWN SVG      # from the tables that benches/table prints, as in docs/performance.md

benches/table --plot SVG draws the last run. The same figures always make the same file.
"""

import re
import sys
from pathlib import Path

# Group and case, as in the tables, and the label of the row.
ROWS = [
    ("P-256 authcrypt unpack", "known sender", "unpack authcrypt, known sender"),
    ("P-256 authcrypt unpack", "new sender", "unpack authcrypt, new sender"),
    ("P-256 authcrypt pack", "known recipient", "pack authcrypt, known recipient"),
    ("P-256 authcrypt pack", "new recipient", "pack authcrypt, new recipient"),
    ("P-256 anoncrypt unpack", "", "unpack anoncrypt"),
    ("X25519 authcrypt unpack", "known sender", "unpack authcrypt, known sender"),
    ("X25519 authcrypt unpack", "new sender", "unpack authcrypt, new sender"),
    ("X25519 authcrypt pack", "known recipient", "pack authcrypt, known recipient"),
    ("X25519 authcrypt pack", "new recipient", "pack authcrypt, new recipient"),
    ("X25519 anoncrypt unpack", "", "unpack anoncrypt"),
]
BARS = [("didcomm", "didcomm 0.4.1, keys in memory"), ("softhsm", "Claviger, keys in SoftHSM"),
        ("kryoptic", "Claviger, keys in Kryoptic")]

STYLE = """
    text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; fill: #1f2328; }
    .title { font-size: 16px; font-weight: 600; }
    .head { font-size: 14px; font-weight: 600; }
    .quiet { fill: #59636e; font-size: 12px; }
    .end { text-anchor: end; }
    .didcomm { fill: #8c959f; }
    .softhsm { fill: #0969da; }
    .kryoptic { fill: #9a6700; }
    .axis { stroke: #d1d9e0; }
    @media (prefers-color-scheme: dark) {
      text { fill: #f0f6fc; }
      .quiet { fill: #9aa4af; }
      .didcomm { fill: #7d8590; }
      .softhsm { fill: #58a6ff; }
      .kryoptic { fill: #d29922; }
      .axis { stroke: #3d444d; }
    }
"""

WIDTH, LEFT, RIGHT, BAR, GAP = 960, 250, 90, 13, 12


def read(markdown):
    """The medians in microseconds, by group, then by line, from tables as benches/table prints them."""
    groups = {}
    for section in re.split(r"^### ", markdown, flags=re.MULTILINE)[1:]:
        group, _, rest = section.partition("\n")
        for line, median in re.findall(r"^\| ([^|]+?) \| ([0-9.]+) \|", rest, flags=re.MULTILINE):
            groups.setdefault(group.strip(), {}).setdefault(line, float(median))
    return groups


def medians_of(groups, group, case):
    """What each bar shows; a module that was left out has none."""
    lines = groups.get(group, {})
    names = {bar: bar if bar == "didcomm" or not case else f"{bar}, {case}" for bar, _ in BARS}
    return {bar: lines[name] for bar, name in names.items() if name in lines}


def draw(groups):
    rows = [(group, label, medians_of(groups, group, case)) for group, case, label in ROWS]
    rows = [row for row in rows if row[2]]
    if not rows:
        sys.exit("There are no figures to draw.")
    longest = max(max(values.values()) for _, _, values in rows)
    scale = (WIDTH - LEFT - RIGHT) / longest
    out = []
    y = 30
    out.append(f'  <text class="title" x="16" y="{y}">Microseconds for one message of 1 KB: shorter is faster</text>')
    y += 24
    x = 16
    for bar, name in BARS:
        out.append(f'  <rect class="{bar}" x="{x}" y="{y - 10}" width="12" height="12" rx="2"/>')
        out.append(f'  <text x="{x + 18}" y="{y}">{name}</text>')
        x += 250
    y += 18
    curve = None
    for group, label, values in rows:
        if group.split()[0] != curve:
            curve = group.split()[0]
            y += 26
            out.append(f'  <text class="head" x="16" y="{y}">{curve}</text>')
            y += 14
        height = len(values) * (BAR + 1)
        out.append(f'  <text class="end" x="{LEFT - 12}" y="{y + height / 2 + 4:g}">{label}</text>')
        for bar, _ in BARS:
            if bar not in values:
                continue
            width = max(values[bar] * scale, 1)
            out.append(f'  <rect class="{bar}" x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR}"/>')
            out.append(f'  <text class="quiet" x="{LEFT + width + 6:.1f}" y="{y + BAR - 2}">{values[bar]:.0f}</text>')
            y += BAR + 1
        y += GAP
    height = y + 8
    axis = f'  <path class="axis" d="M{LEFT} 88V{y - GAP + 4}"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'role="img" aria-labelledby="title">\n'
        '  <title id="title">Microseconds to pack and unpack a message: didcomm with its keys in memory, '
        "Claviger with its keys in a token</title>\n"
        f"  <style>{STYLE}  </style>\n" + "\n".join([axis, *out]) + "\n</svg>\n"
    )


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    Path(sys.argv[2]).write_text(draw(read(Path(sys.argv[1]).read_text())))

"""Draw the pictures of docs/concepts.md into docs/images: python docs/build/draw.py.

A picture has the colours of a light page, and where prefers-color-scheme is dark those of a dark one. That holds inside
an <img>, on the site and on a git host.
"""

from pathlib import Path
from xml.sax.saxutils import escape

IMAGES = Path(__file__).parents[1] / "images"
STYLE = """
svg { --ink: #24292f; --soft: #57606a; --line: #8c959f; --box: #f2f5f9; --hot: #b35900; --hotbox: #fff1e0;
  --student: #1f6feb; --teacher: #8250df; }
@media (prefers-color-scheme: dark) {
  svg { --ink: #e6edf3; --soft: #a5afba; --line: #768390; --box: #2a2f3a; --hot: #f0a45d; --hotbox: #45341f;
    --student: #6cb0ff; --teacher: #c297ff; }
}
text { font: 14px system-ui, sans-serif; fill: var(--ink); }
.soft { fill: var(--soft); font-size: 12px; }
.name { font-weight: 600; }
.mid { text-anchor: middle; }
.end { text-anchor: end; }
.code { font-family: ui-monospace, monospace; font-size: 13px; }
.box { fill: var(--box); stroke: var(--line); }
.hot { fill: var(--hotbox); stroke: var(--hot); stroke-width: 2; }
.hottext { fill: var(--hot); }
.line { fill: none; stroke: var(--line); stroke-width: 1.5; }
.dash { stroke-dasharray: 4 3; }
.student { fill: var(--student); }
.teacher { fill: var(--teacher); }
#tip path { fill: var(--line); }
"""
CARDS = (
    "cards: stage plan writes one small file per cell and stage, with all that determines its result",
    "recipe, training settings, fingerprint of the code; a stage runs again when its card or an input differs",
)
COMPLEMENTARY = (
    "complementary: exactly one of the teacher's predictions, for the region and for the whole image, is right"
)
TIP = (
    '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 0 8 4 0 8z"/></marker>'
)


def text(x: float, y: float, content: str, kind: str = "mid") -> str:
    """A line of text; `kind` names classes of the style."""
    return f'<text x="{x:g}" y="{y:g}" class="{kind}">{escape(content)}</text>'


def box(x: float, y: float, width: float, height: float, kind: str = "box", *, corner: float = 6) -> str:
    """A rectangle from its upper left corner on."""
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{corner:g}" class="{kind}"/>'


def arrow(*points: tuple[float, float], kind: str = "line") -> str:
    """A line through some points, with a tip at its end."""
    path = " ".join(f"{x:g},{y:g}" for x, y in points)
    return f'<polyline points="{path}" class="{kind}" marker-end="url(#tip)"/>'


def drawn(width: int, height: int, title: str, *parts: str) -> str:
    """The picture as a file."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{title}">'
    return "\n".join(
        [head, f"<title>{title}</title>", f"<style>{STYLE}</style>", f"<defs>{TIP}</defs>", *parts, "</svg>\n"]
    )


def pipeline() -> str:
    """From params.yaml to tables: the stages, and what stands between them."""
    stages = {
        "data": (250, 40, "data/<name>"),
        "teacher": (250, 130, "teachers/"),
        "pairs": (400, 130, "pairs/"),
        "train": (550, 60, "runs/"),
        "baseline": (550, 130, "runs/"),
        "evaluate": (700, 95, "evaluations/"),
        "tables": (850, 95, "tables/"),
    }
    wide, high = 110, 46
    parts = [box(10, 95, 110, high, "hot"), text(65, 123, "params.yaml", "mid code")]
    parts += [text(65, 84, "the only file", "mid soft"), text(65, 158, "that you edit", "mid soft")]
    for name, (x, y, out) in stages.items():
        if name in ("train", "baseline"):  # a stage per cell
            parts += [box(x + 8, y - 8, wide, high), box(x + 4, y - 4, wide, high)]
        parts += [box(x, y, wide, high), text(x + wide / 2, y + 20, name, "mid name")]
        parts.append(text(x + wide / 2, y + 38, out, "mid soft code"))
    parts += [
        arrow((120, 112), (185, 63), (250, 63)),
        arrow((120, 124), (185, 153), (250, 153)),
        arrow((360, 153), (400, 153)),
        arrow((360, 60), (548, 80)),
        arrow((510, 153), (550, 153)),
        arrow((510, 143), (530, 143), (530, 95), (550, 90)),
        arrow((672, 80), (700, 108)),
        arrow((672, 150), (700, 128)),
        arrow((810, 118), (850, 118)),
        text(609, 40, "one stage per cell", "mid soft"),
        box(250, 225, 710, 56, "box"),
        text(605, 248, CARDS[0]),
        text(605, 269, CARDS[1], "mid soft"),
        arrow((65, 165), (65, 253), (250, 253)),
        text(157, 246, "plan", "mid name"),
    ]  # fmt: skip
    for x in (305, 455, 605, 755, 905):
        parts.append(arrow((x, 225), (x, 145 if x in (755, 905) else 180), kind="line dash"))
    parts += [text(905, 84, "Markdown, LaTeX, page", "mid soft")]
    return drawn(980, 292, "The pipeline, from params.yaml to tables", *parts)


def bars(x: float, base: float, values: list[float], kind: str, width: float = 9) -> str:
    """Logits as bars above and below a line."""
    shown = [
        f'<line x1="{x - 3:g}" x2="{x + len(values) * (width + 2) + 1:g}" y1="{base:g}" y2="{base:g}" class="line"/>'
    ]
    for number, value in enumerate(values):
        top = base - max(value, 0)
        shown.append(box(x + number * (width + 2), top, width, abs(value), kind, corner=1))
    return "".join(shown)


def grid(x: float, y: float, cells: int, side: float, hot: int | None = None) -> str:
    """A map that is cut into cells x cells regions, one of them marked."""
    size = side / cells
    order = [number for number in range(cells**2) if number != hot] + ([hot] if hot is not None else [])
    return "".join(
        box(
            x + number % cells * size,
            y + number // cells * size,
            size,
            size,
            "hot" if number == hot else "box",
            corner=2,
        )
        for number in order
    )


def regions() -> str:
    """SDD and LSKD: from a final feature map to the loss of a cell."""
    parts = [
        text(80, 24, "final feature map", "mid name"),
        text(80, 42, "pooled to 4 x 4", "mid soft"),
        grid(25, 60, 4, 110),
        text(80, 190, "of both networks", "mid soft"),
        text(285, 24, "regions: SDD, M=[1,2,4]", "mid name"),
        text(285, 42, "each is an average of cells", "mid soft"),
        grid(250, 60, 1, 70, 0),
        grid(250, 142, 2, 70, 1),
        grid(250, 224, 4, 70, 6),
        *(text(240, y, label, "end soft") for y, label in ((99, "1"), (181, "2 x 2"), (263, "4 x 4"))),
        arrow((145, 115), (205, 115)),
        text(490, 24, "logits of a region", "mid name"),
        text(490, 42, "its own linear classifier", "mid soft"),
        arrow((325, 165), (420, 165)),
        bars(440, 120, [12, 44, 20, -14, 6, -20, 9], "teacher"),
        text(535, 112, "teacher", "teacher soft"),
        bars(440, 200, [4, 17, 10, -4, 3, -7, 5], "student"),
        text(535, 192, "student", "student soft"),
        text(700, 24, "stand: LSKD", "mid name"),
        text(700, 42, "z-scores over classes", "mid soft"),
        arrow((590, 160), (640, 160)),
        bars(655, 120, [5, 33, 12, -20, -1, -26, 2], "teacher"),
        bars(655, 200, [1, 31, 14, -18, -1, -25, 3], "student"),
        text(700, 240, "only where stand is true", "mid soft"),
        text(880, 24, "loss", "mid name"),
        text(880, 42, "the method, per region", "mid soft"),
        arrow((760, 160), (800, 160)),
        box(805, 110, 150, 100, "box"),
        text(880, 136, "weight x loss", "mid"),
        text(880, 160, "1 consistent", "mid soft"),
        text(880, 180, "2 complementary", "mid soft hottext"),
        text(880, 200, "mean over regions", "mid soft"),
        text(490, 326, COMPLEMENTARY, "mid soft"),
    ]  # fmt: skip
    return drawn(980, 340, "SDD and LSKD on a feature map", *parts)


PICTURES = {"pipeline.svg": pipeline, "regions.svg": regions}


def main() -> None:
    """Write all pictures."""
    for name, draw in PICTURES.items():
        (IMAGES / name).write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()

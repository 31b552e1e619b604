"""Plots as SVG text: lines, points with errors, bars. Colours come from a style sheet, light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

__all__ = [
    "COLOURS",
    "STYLE",
    "Axis",
    "Bar",
    "Point",
    "Series",
    "bars",
    "linear_axis",
    "lines",
    "log_axis",
    "points",
]

COLOURS = 6
"""Series that can be told apart; a seventh has the first one's colour."""

STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --muted: #59636e; --grid: #d8dee4; --page: #ffffff;
  --s0: #2a6fd0; --s1: #c8501e; --s2: #16855b; --s3: #8250c8; --s4: #96700a; --s5: #b8326f; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --muted: #9aa4af; --grid: #30363d; --page: #0d1117;
  --s0: #5aa2f5; --s1: #f08a5b; --s2: #3fb98a; --s3: #b392f0; --s4: #d6b04a; --s5: #f07fb0; } }
svg text { fill: var(--muted); font: 12px system-ui, sans-serif; }
svg text.name { fill: var(--ink); }
svg .grid { stroke: var(--grid); stroke-width: 1; }
svg .line { fill: none; stroke-width: 2; stroke-linejoin: round; }
svg .s0 { stroke: var(--s0); } svg .f0 { fill: var(--s0); }
svg .s1 { stroke: var(--s1); } svg .f1 { fill: var(--s1); }
svg .s2 { stroke: var(--s2); } svg .f2 { fill: var(--s2); }
svg .s3 { stroke: var(--s3); } svg .f3 { fill: var(--s3); }
svg .s4 { stroke: var(--s4); } svg .f4 { fill: var(--s4); }
svg .s5 { stroke: var(--s5); } svg .f5 { fill: var(--s5); }
"""
"""What the plots' classes look like; for the page that they stand in, or a file of their own."""

_WIDTH, _HEIGHT = 720, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 20, 34, 46
_CHAR, _LINE = 6.6, 14  # pixels of a character and from line to line, about


@dataclass(frozen=True, slots=True)
class Axis:
    """What an axis shows; positions are in the units of the data that is plotted."""

    label: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]

    def share(self, value: float) -> float:
        """Where a value stands between low and high: 0 to 1, values outside at the ends."""
        span = self.high - self.low or 1.0
        return min(1.0, max(0.0, (value - self.low) / span))


@dataclass(frozen=True, slots=True)
class Series:
    """A line through points."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Point:
    """A point with a name, and how far it may be off upwards and downwards."""

    name: str
    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar, and the least and greatest of what it is the mean of."""

    name: str
    value: float
    low: float
    high: float
    text: str


def linear_axis(label: str, values: Sequence[float], *, unit: str = "") -> Axis:
    """From 0 to above the greatest value, about five ticks at round numbers."""
    top = max([*values, 0.0]) or 1.0
    magnitude = 10.0 ** math.floor(math.log10(top / 5))
    step = next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude * 5 >= top)
    count = math.ceil(top / step - 1e-9)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    ticks = tuple((n * step, f"{n * step:.{digits}f}{unit}") for n in range(count + 1))
    return Axis(label, 0.0, count * step, ticks)


def log_axis(label: str, values: Sequence[float], floor: float) -> Axis:
    """Powers of ten around ``values``, none below ``floor``; positions are decimal logarithms."""
    shown = [max(v, floor) for v in values] or [1.0]
    low, high = math.floor(math.log10(min(shown))), math.ceil(math.log10(max(shown)))
    high = max(high, low + 1)
    step = max(1, (high - low) // 6)
    return Axis(label, low, high, tuple((float(n), _power(n)) for n in range(low, high + 1, step)))


def lines(series: Sequence[Series], x: Axis, y: Axis) -> str:
    """One line per series, with a legend if there are several."""
    parts = [*_frame(x, y)]
    for n, s in enumerate(series):
        path = " ".join(f"{_x(x, a):.1f},{_y(y, b):.1f}" for a, b in s.points)
        parts.append(f'<polyline class="line s{n % COLOURS}" points="{path}"/>')
        parts += [
            f'<circle class="f{n % COLOURS}" cx="{_x(x, a):.1f}" cy="{_y(y, b):.1f}" r="3"/>'
            for a, b in s.points
        ]
    return _svg([*parts, *(_legend([s.name for s in series]) if len(series) > 1 else ())], _HEIGHT)


def points(marks: Sequence[Point], x: Axis, y: Axis) -> str:
    """Points with error bars and their names beside them."""
    parts = [*_frame(x, y)]
    names: list[tuple[float, float, float]] = []  # first and last pixel, height
    for n, mark in enumerate(marks):
        at, height = _x(x, mark.x), _y(y, mark.y)
        width = _CHAR * len(mark.name)
        left = at + 10 + width > _WIDTH - _RIGHT
        first = at - 10 - width if left else at + 10
        line = height + 4
        while any(first < b and a < first + width and abs(h - line) < _LINE for a, b, h in names):
            line += _LINE
        names.append((first, first + width, line))
        parts += [
            f'<line class="line s{n % COLOURS}" x1="{at:.1f}" x2="{at:.1f}" '
            f'y1="{_y(y, mark.low):.1f}" y2="{_y(y, mark.high):.1f}"/>',
            f'<circle class="f{n % COLOURS}" cx="{at:.1f}" cy="{height:.1f}" r="5"/>',
            f'<text class="name" x="{at - 10 if left else at + 10:.1f}" y="{line:.1f}" '
            f'text-anchor="{"end" if left else "start"}">{escape(mark.name)}</text>',
        ]
    return _svg(parts, _HEIGHT)


def bars(rows: Sequence[Bar], names_width: int = 220) -> str:
    """Horizontal bars with their names on the left, and a thin line from the least to the greatest."""
    top = max([row.high for row in rows] or [1.0]) or 1.0
    width = _WIDTH - names_width - 90
    parts = []
    scale = width / top
    for n, row in enumerate(rows):
        y = 22 * n + 4
        parts += [
            f'<text class="name" x="{names_width - 8}" y="{y + 13}" text-anchor="end">'
            f"{escape(row.name)}</text>",
            f'<rect class="f0" x="{names_width}" y="{y}" width="{row.value * scale:.1f}" height="16" '
            'rx="2"/>',
            f'<text x="{names_width + row.high * scale + 8:.1f}" y="{y + 13}">{escape(row.text)}</text>',
        ]
        if row.low < row.high:
            parts.append(
                f'<line class="line s1" x1="{names_width + row.low * scale:.1f}" '
                f'x2="{names_width + row.high * scale:.1f}" y1="{y + 8}" y2="{y + 8}"/>'
            )
    return _svg(parts, 22 * len(rows) + 6)


def _x(axis: Axis, value: float) -> float:
    return _LEFT + axis.share(value) * (_WIDTH - _LEFT - _RIGHT)


def _y(axis: Axis, value: float) -> float:
    return _HEIGHT - _BOTTOM - axis.share(value) * (_HEIGHT - _TOP - _BOTTOM)


def _frame(x: Axis, y: Axis) -> list[str]:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    middle = (_LEFT + right) / 2
    parts = []
    for value, text in y.ticks:
        at = _y(y, value)
        parts += [
            f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>',
            f'<text x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{escape(text)}</text>',
        ]
    for value, text in x.ticks:
        at = _x(x, value)
        parts += [
            f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{bottom}" y2="{bottom + 4}"/>',
            f'<text x="{at:.1f}" y="{bottom + 18}" text-anchor="middle">{escape(text)}</text>',
        ]
    return [
        *parts,
        f'<text x="{middle}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(x.label)}</text>',
        f'<text x="8" y="14">{escape(y.label)}</text>',
    ]


def _legend(names: Sequence[str]) -> list[str]:
    at, parts = float(_WIDTH - _RIGHT), []
    for n, name in reversed(list(enumerate(names))):
        at -= _CHAR * len(name)
        parts += [
            f'<text class="name" x="{at:.1f}" y="14">{escape(name)}</text>',
            f'<rect class="f{n % COLOURS}" x="{at - 16:.1f}" y="5" width="10" height="10" rx="2"/>',
        ]
        at -= 32
    return parts


def _svg(parts: Sequence[str], height: int) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img">'
        + "".join(parts)
        + "</svg>"
    )


def _power(n: int) -> str:
    return f"{10.0**n:g}" if -4 <= n <= 4 else f"1e{n}"

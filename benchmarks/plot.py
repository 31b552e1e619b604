"""The two figures that a user feels, as bars in an SVG file."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

from figures import ENGINES, Row

__all__ = ["svg"]

_WIDTH, _LEFT, _BAR, _GAP, _HEAD = 640, 120, 22, 8, 34
_COLOURS = {"cg": "#1f6f8b", "cg_f16": "#1f6f8b", "llama": "#b8b8b8", "ik": "#b8b8b8", "torch": "#b8b8b8"}


def svg(table: Sequence[Row]) -> str:
    """One panel for each row in tokens per second that has a peer to compare with."""
    panels = [row for row in table if row.unit == "tok/s" and row.ratios]
    parts: list[str] = []
    y = 10
    for row in panels:
        parts.append(_text(10, y + 16, f"{row.name}, tokens per second", weight="bold"))
        y += _HEAD
        largest = max(spread.high for spread in row.values.values())
        scale = (_WIDTH - _LEFT - 90) / largest
        for engine, spread in row.values.items():
            middle = y + _BAR / 2
            parts += [
                _text(_LEFT - 8, middle + 5, ENGINES[engine], anchor="end"),
                f'<rect x="{_LEFT}" y="{y}" width="{spread.median * scale:.1f}" height="{_BAR}" '
                f'fill="{_COLOURS[engine]}"/>',
                f'<path d="M{_LEFT + spread.low * scale:.1f} {middle}H{_LEFT + spread.high * scale:.1f}" '
                'stroke="#333" stroke-width="2"/>',
                _text(_LEFT + spread.high * scale + 8, middle + 5, f"{spread.median:.1f}"),
            ]
            y += _BAR + _GAP
        y += _GAP
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y}" width="{_WIDTH}" height="{y}" '
        'font-family="sans-serif" font-size="14">'
    )
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>"]) + "\n"


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}"'
    return f'<text {place} fill="#222">{escape(text)}</text>'

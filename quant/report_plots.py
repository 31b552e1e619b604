"""Plots and tables that the reports of ``cg verify`` and ``cg compare`` share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

from cg.quant import verify_text
from cg.quant.plots import Axis, Series, linear_axis, lines, log_axis
from cg.quant.statistics import PERCENTILES, Figures

__all__ = ["LEAST_KLD", "layer_plot", "layer_table", "percentile_plot"]

LEAST_KLD = 1e-7
"""Below that a divergence is rounding, and is not plotted."""

_ENDS = 3.8  # where minimum and maximum stand, in standard deviations


def percentile_plot(named: Sequence[tuple[str, Figures]]) -> str:
    """The percentiles of the divergence, a line for each of ``named``, on a logarithmic scale."""
    places = {field: _place(percent) for field, percent in PERCENTILES.items()}
    ticks = tuple((places[field], _short(field)) for field in PERCENTILES)
    x = Axis("percentile of the scored tokens", -_ENDS, _ENDS, ticks)
    values = [getattr(figures.kld, field) for _, figures in named for field in PERCENTILES]
    y = log_axis("KL divergence, nats", values, LEAST_KLD)
    series = [
        Series(name, tuple((place, _log(getattr(figures.kld, field))) for field, place in places.items()))
        for name, figures in named
    ]
    return lines(series, x, y)


def layer_plot(named: Sequence[tuple[str, Sequence[float]]]) -> str:
    """The relative difference of the hidden states after every layer, a line for each of ``named``."""
    count = len(named[0][1])
    step = max(1, (count - 1) // 14)
    x = Axis("layer", 0, count - 1, tuple((float(n), str(n)) for n in range(0, count, step)))
    percent = [[100 * value for value in layers] for _, layers in named]
    y = linear_axis("relative difference", [value for values in percent for value in values], unit=" %")
    series = [
        Series(name, tuple((float(n), value) for n, value in enumerate(values)))
        for (name, _), values in zip(named, percent, strict=True)
    ]
    return lines(series, x, y)


def layer_table(runs: Sequence[Sequence[float]]) -> tuple[tuple[str, ...], ...]:
    """The same in numbers, a column for each of ``runs``."""
    columns = [verify_text.layer_rows(layers) for layers in runs]
    return tuple((rows[0][0], *(row[1] for row in rows)) for rows in zip(*columns, strict=True))


def _place(percent: float) -> float:
    """Where a percentile of the normal distribution stands: both ends of the scale are wide."""
    if percent in (0, 100):
        return _ENDS if percent else -_ENDS
    return NormalDist().inv_cdf(percent / 100)


def _short(field: str) -> str:
    return {"minimum": "min", "median": "50", "maximum": "max"}.get(field, f"{PERCENTILES[field]:g}")


def _log(value: float) -> float:
    return math.log10(max(value, LEAST_KLD))

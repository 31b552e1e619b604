"""Relative error and signal-to-noise ratio."""

from __future__ import annotations

import pytest

from cg.quant import Distortion


def test_values() -> None:
    d = Distortion(100.0, 1.0)
    assert d.relative_error == pytest.approx(0.1)
    assert d.snr_db == pytest.approx(20)


def test_sum_weighs_by_energy() -> None:
    whole = Distortion(100.0, 1.0) + Distortion(300.0, 15.0)
    assert whole == Distortion(400.0, 16.0)
    assert whole.relative_error == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("d", "relative"), [(Distortion(), 0.0), (Distortion(4.0, 0.0), 0.0), (Distortion(0.0, 1.0), None)]
)
def test_without_noise_or_signal(d: Distortion, relative: float | None) -> None:
    assert d.relative_error == relative
    assert d.snr_db is None

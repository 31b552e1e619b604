"""From samples to rows: medians, ratios within one round, goals."""

from __future__ import annotations

from typing import Any

import pytest
from figures import Goal, Row, Spread, rows
from plot import svg
from report import markdown, update_page
from rounds import Sample, Samples

_SIZES = {"prompt": 512, "decode": 32, "depth": 4096, "batches": (4, 8), "seven_b": 16}


def _samples(**figures: dict[str, list[float]]) -> Samples:
    return {
        name: {engine: [Sample(s) for s in seconds] for engine, seconds in by_engine.items()}
        for name, by_engine in figures.items()
    }


def _results(**found: Any) -> dict[str, Any]:
    machine = {
        "date": "2026-01-02T03:04:05+00:00", "cpu": "A CPU", "cpu_family_model": "family 1, model 2",
        "instruction_sets": ["avx2"], "cores": 2, "memory_bytes": 24 << 30, "system": "Linux",
        "python": "3.11.7", "cg": "0.1.0", "commit": None,
    }  # fmt: skip
    engines = {"cg": {"package": "codegemma-cg", "version": "0.1.0", "settings": {"isa": "avx2"}}}
    return {
        "sizes": _SIZES,
        "machine": machine,
        "threads": 2,
        "rounds": 3,
        "notes": [],
        "engines": engines,
        **found,
    }


def _only(results: dict[str, Any], samples: Samples) -> Row:
    (row,) = rows(results, samples)
    return row


def test_a_ratio_is_taken_within_each_round() -> None:
    # The second round was slow for both: the ratio does not show it.
    row = _only(_results(), _samples(prompt={"cg": [1.0, 4.0, 2.0], "llama": [2.0, 8.0, 3.0]}))
    assert row.unit == "tok/s"
    assert row.values["cg"] == Spread(256.0, 128.0, 512.0)
    assert row.ratios["llama"] == Spread(2.0, 1.5, 2.0)
    assert [goal.reached(row) for goal in row.goals] == [True, None]


def test_depth_compares_an_engine_with_itself() -> None:
    speed, quotient = rows(_results(), _samples(depth0={"cg": [1.0]}, depth={"cg": [1.25]}))
    assert speed.values["cg"].median == 32 / 1.25
    assert quotient.values["cg"].median == 0.8
    assert quotient.goals[0].reached(quotient) is False


def test_a_batch_is_compared_with_one_token() -> None:
    four, eight = rows(_results(), _samples(batch1={"cg": [1.0]}, batch4={"cg": [1.5]}, batch8={"cg": [3.0]}))
    assert four.values["cg"].median == 1.5
    assert [row.goals[0].reached(row) for row in (four, eight)] == [True, False]


def test_share_of_the_limit() -> None:
    limits = [{"bytes_per_second": 40.0, "bytes_per_token": 2.0}]
    samples = _samples(decode={"cg": [2.0]})
    _, share = rows(_results(bandwidth={"2b": limits}), samples)
    assert share.values["cg"].median == 32 / 2.0 * 2.0 / 40.0
    assert share.goals == (Goal(0.90),)
    limits[0]["weights_bytes_per_second"] = 36.0
    _, share, alone = rows(_results(bandwidth={"2b": limits}), samples)
    assert share.values["cg"].median == 0.8
    assert alone.values["cg"].median == 32 / 36.0
    assert alone.goals == ()
    assert len(rows(_results(bandwidth={}), samples)) == 1


def test_the_peers_default_files_have_a_row_of_their_own() -> None:
    samples = _samples(decode={"cg": [1.0], "ik": [1.0]}, default={"cg": [1.0], "llama": [1.5], "ik": [1.2]})
    strict, default = rows(_results(), samples)
    assert strict.ratios["ik"].median == 1.0
    assert default.ratios["ik"].median == 1.2
    assert default.goals == (Goal(1.45, "llama"), Goal(1.25, "ik"))
    assert [goal.reached(default) for goal in default.goals] == [True, False]


def test_original_weights_are_compared_with_torch() -> None:
    row = _only(_results(), _samples(original={"cg": [2.0], "torch": [1.0]}))
    assert row.goals == (Goal(1.0, "torch"),)
    assert row.goals[0].reached(row) is False


def test_memory_and_times() -> None:
    samples = _samples(quantize={"cg": [10.0], "llama": [15.0]}, start={"cg": [0.5]})
    quantize, start, memory = rows(_results(private_bytes={"cg": 301_000_000}), samples)
    assert quantize.ratios["llama"].median == 1.5
    assert start.goals[0].reached(start) is True
    assert memory.goals[0].reached(memory) is False


def test_table_and_plot_show_values_ratios_and_goals() -> None:
    samples = _samples(prompt={"cg": [2.0, 2.0], "cg_f16": [1.6, 1.6], "ik": [3.0, 4.0]})
    table = rows(_results(), samples)
    text = markdown(_results(notes=["A note."]), samples, table)
    cells = "| 256 | 320 |  | 149 |  | **0.80** (0.80–0.80) |  | **1.75** (1.50–2.00) |  |"
    assert (
        f"| prompt of 512 (tok/s) {cells} ≥ 1.7 × llama.cpp, ≥ 1.2 × ik_llama.cpp | not measured, yes |"
        in text
    )
    assert "cg: codegemma-cg 0.1.0, isa avx2" in text
    assert "A note." in text
    picture = svg(table)
    assert picture.startswith("<svg")
    assert ">256.0</text>" in picture
    assert ">ik_llama.cpp</text>" in picture


def test_update_page_replaces_what_the_markers_enclose(tmp_path: Any) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- peers:begin -->\nold\n<!-- peers:end -->\nafter\n")
    update_page(page, "new\n")
    update_page(page, "newer\n")
    assert page.read_text() == "before\n<!-- peers:begin -->\n\nnewer\n\n<!-- peers:end -->\nafter\n"
    page.write_text("no markers\n")
    with pytest.raises(ValueError, match="has no"):
        update_page(page, "new\n")
    assert page.read_text() == "no markers\n"

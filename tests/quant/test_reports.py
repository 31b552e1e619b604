"""Reports: complete, self-contained, and true to what was measured."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from cg.quant.evaluation_text import EvaluationText
from cg.quant.plots import Bar, Point, Series, bars, linear_axis, lines, log_axis, points
from cg.quant.report_page import Block, Page, check_report_paths, write_page
from cg.quant.verification import Thresholds, Verification
from cg.quant.verify import VerifyOptions, verify
from cg.quant.verify_report import verification_page
from cg.runtime.errors import OutputError, UsageError

TEXT = EvaluationText("<my> text", "value = lookup[1] | other\n" * 60, "abc", "a<b")
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def result(golden: Path) -> Verification:
    options = VerifyOptions(context=32, chunks=1, activations="both", holes=2, threads=1)
    return verify(golden / "gemma-mqa-JQ4", golden / "gemma-mqa", [TEXT], options)


class Balance(HTMLParser):
    """Every element that is opened is closed, nothing comes from elsewhere, nothing runs."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        assert not {name for name, _ in attrs} & {"src", "href", "onload", "onclick"}
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_html_stands_alone(result: Verification, tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    write_page(verification_page(result, Thresholds(max_kld=9)), path)
    page = path.read_text("utf-8")
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    assert "script" not in parser.seen
    assert page.count("<svg") == 4  # percentiles, layers, tensors, size
    assert not re.findall(r"https?://(?!www\.w3\.org)", page)
    assert "prefers-color-scheme: dark" in page
    assert "&lt;my&gt; text" in page
    assert "<my>" not in page
    assert 'class="verdict passed">passed<' in page


def test_both_forms_hold_the_figures(result: Verification, tmp_path: Path) -> None:
    figures = result.figures
    for name in ("a.html", "a.md"):
        write_page(verification_page(result, Thresholds()), tmp_path / name)
        text = (tmp_path / name).read_text("utf-8")
        for value in (figures.mean_kld.value, figures.ppl_ratio.value, figures.kld.p99):
            assert f"{value:.5f}" in text, name
        assert all(tensor.name in text.replace("\\", "") for tensor in result.tensors)
        assert "verdict" not in re.sub(r"(?s)<style>.*?</style>", "", text)
        assert result.run.agreement is not None
        assert len(result.run.agreement.completions) == 2


def test_tables_of_markdown_have_as_many_cells_as_heads(tmp_path: Path) -> None:
    block = Block("T", heads=("a", "b"), rows=(("x|y", "1 | `2`\n3"), ("", "`")), code=frozenset({1}))
    write_page(Page("title", (), (block,), ()), tmp_path / "t.md")
    lines_ = [line for line in (tmp_path / "t.md").read_text("utf-8").splitlines() if line.startswith("|")]
    assert lines_ == [
        "| a | b |",
        "| --- | --- |",
        r"| x\|y | `` 1 \| `2` ⏎ 3 `` |",
        "|  | `` ` `` |",
    ]


def test_a_missed_threshold_is_told(result: Verification) -> None:
    page = verification_page(result, Thresholds(max_kld=0.0))
    assert page.verdict is not None
    assert page.verdict.startswith("mean KL divergence")
    assert not page.passed
    assert verification_page(result, Thresholds()).verdict is None


def test_many_sections_are_plotted_together(result: Verification) -> None:
    run = result.run
    many = replace(
        result, sections=result.sections * 4, runs=(replace(run, figures=run.figures * 4),), parts=()
    )
    block = next(b for b in verification_page(many, Thresholds()).blocks if "Percentiles" in b.title)
    assert block.plot.count("<polyline") == 2
    assert "all middles" in block.plot


@pytest.mark.parametrize("path", ["a.pdf", "a", "html", "."])
def test_other_kinds_are_refused(path: str) -> None:
    with pytest.raises(UsageError, match="unknown kind of report"):
        check_report_paths([Path(path)])
    check_report_paths([Path("a.HTML"), Path("b.md")])


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.md").mkdir()
    with pytest.raises(OutputError):
        write_page(Page("title", (), (), ()), tmp_path / "file" / "a.md")
    with pytest.raises(UsageError, match="is a folder"):
        check_report_paths([tmp_path / "folder.md"])


def test_axes_have_round_numbers() -> None:
    assert [text for _, text in linear_axis("", [0.17], unit=" %").ticks] == [
        "0.00 %", "0.05 %", "0.10 %", "0.15 %", "0.20 %",
    ]  # fmt: skip
    assert [text for _, text in linear_axis("", [11.2, 3]).ticks] == ["0", "5", "10", "15"]
    assert linear_axis("", [0.0]).ticks[0] == (0.0, "0.0")
    axis = log_axis("", [0.002, 0.4, 0.0], 1e-4)
    assert (axis.low, axis.high) == (-4, 0)
    assert [text for _, text in axis.ticks] == ["0.0001", "0.001", "0.01", "0.1", "1"]
    assert (axis.share(-4), axis.share(-9), axis.share(0), axis.share(-2)) == (0, 0, 1, 0.5)


def test_lines_go_through_their_points() -> None:
    x, y = linear_axis("across", [10.0]), linear_axis("up", [2.0])
    root = ElementTree.fromstring(lines([Series("<one>", ((0.0, 0.0), (10.0, 2.0)))], x, y))
    (path,) = [e.get("points") or "" for e in root.iter(f"{SVG}polyline")]
    (x0, y0), (x1, y1) = (map(float, pair.split(",")) for pair in path.split())
    frame = [e for e in root.iter(f"{SVG}line") if e.get("x1") != e.get("x2")]
    assert (x0, x1) == (float(frame[0].get("x1") or 0), float(frame[0].get("x2") or 0))
    heights = [float(e.get("y1") or 0) for e in frame]
    assert (y0, y1) == (max(heights), min(heights))


def test_names_of_near_points_do_not_lie_on_each_other() -> None:
    axis = linear_axis("", [1.0])
    marks = [Point(name, 0.5, 0.5, 0.5, 0.5) for name in ("one", "two", "three")]
    root = ElementTree.fromstring(points(marks, axis, axis))
    heights = [float(e.get("y") or 0) for e in root.iter(f"{SVG}text") if e.get("class") == "name"]
    assert len(set(heights)) == 3


def test_bars_are_as_long_as_their_values() -> None:
    root = ElementTree.fromstring(bars([Bar("a", 2.0, 1.0, 4.0, "2"), Bar("b", 1.0, 1.0, 1.0, "1")]))
    first, second = (float(e.get("width") or 0) for e in root.iter(f"{SVG}rect"))
    assert first == pytest.approx(2 * second, rel=0.01)

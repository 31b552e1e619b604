"""``cg bench`` as a user runs it."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cg.cli import bench_text
from cg.cli.main import app
from cg.runtime.bench import BenchReport, BenchResult
from cg.runtime.process_memory import Memory

SMALL = ("-p", "8,4", "-n", "2", "-r", "2", "--backend", "numpy")


def cg(*args: object) -> Result:
    return CliRunner().invoke(app, ["bench", *(str(a) for a in args)])


def test_table(golden: Path) -> None:
    result = cg(golden / "gemma-mqa-JQ4", *SMALL)
    assert result.exit_code == 0
    assert result.stderr == ""
    lines = [line for line in result.stdout.splitlines() if "gemma-mqa-JQ4" in line]
    assert [re.search(r"(pp8|pp4|tg2)\s+[\d.]+ ± [\d.]+", line)[1] for line in lines] == ["pp8", "pp4", "tg2"]  # type: ignore[index]
    assert all(" Q4 " in line and " 1.84 M " in line and " numpy " in line for line in lines)
    assert re.search(r"peak private memory \d+ MiB, load .*, tokenizer .*, f32 activations", result.stdout)


def test_markdown_is_a_table(golden: Path) -> None:
    lines = cg(golden / "gemma-mqa", *SMALL, "-o", "md").stdout.splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 5
    assert {line.count("|") for line in table} == {len(bench_text.COLUMNS) + 1}
    assert re.fullmatch(r"[|: -]+", table[1])
    assert "| pp4 |" in table[3]


def test_csv_has_a_line_per_test(golden: Path) -> None:
    records = list(csv.DictReader(cg(golden / "gemma-mqa", *SMALL, "-o", "csv").stdout.splitlines()))
    assert [r["test"] for r in records] == ["pp8", "pp4", "tg2"]
    assert all(float(r["tokens_per_second"]) > 0 and int(r["repetitions"]) == 2 for r in records)
    assert float(records[0]["time_to_first_token"]) > 0
    assert records[2]["time_to_first_token"] == ""
    assert int(records[0]["peak_memory"]) > 0


@pytest.mark.parametrize("form", [("-o", "json"), ("--json",)])
def test_json_holds_every_repetition(golden: Path, form: tuple[str, ...]) -> None:
    data = json.loads(cg(golden / "gemma-mqa", *SMALL, *form).stdout)
    assert (data["model"], data["type"], data["backend"]) == ("gemma-mqa", "BF16", "numpy")
    assert [r["test"] for r in data["results"]] == ["pp8", "pp4", "tg2"]
    assert all(len(r["seconds"]) == 2 for r in data["results"])
    assert data["results"][0]["tokens_per_second"] > 0
    assert data["peak_memory"]["bytes"] > 0


def test_zero_switches_a_kind_of_test_off(golden: Path) -> None:
    data = json.loads(cg(golden / "gemma-mqa", "-p", 0, "-n", 1, "-n", "2,3", "-r", 1, "--json").stdout)
    assert [r["test"] for r in data["results"]] == ["tg1", "tg2", "tg3"]


def test_the_model_comes_from_the_settings(
    golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f"model = {json.dumps(str(golden / 'gemma-mha-wide'))}\nbackend = 'numpy'\n")
    monkeypatch.setenv("CG_CONFIG", str(file))
    data = json.loads(cg("-p", 2, "-n", 0, "-r", 1, "--json").stdout)
    assert (data["model"], data["backend"]) == ("gemma-mha-wide", "numpy")
    monkeypatch.setenv("CG_MODEL", str(golden / "gemma-mqa"))
    assert json.loads(cg("-p", 2, "-n", 0, "-r", 1, "--json").stdout)["model"] == "gemma-mqa"


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        ((), 2, "no model was named"),
        (("demo", "-p", "x"), 2, "-p x: expected sizes in tokens"),
        (("demo", "-n", "1,"), 2, "-n 1,: expected sizes in tokens"),
        (("demo", "-n", "-4"), 2, "size of -4 tokens"),
        (("demo", "-p", "0", "-n", "0"), 2, "nothing to measure"),
        (("demo", "-p", "99999"), 2, "99999 tokens does not fit"),
        (("demo", "-r", "0"), 2, "-r"),
        (("demo", "-o", "csv", "--json"), 2, "exclude each other"),
        (("no-such-model",), 5, "no-such-model"),
    ],
)
def test_mistakes_have_a_message_and_an_exit_code(args: tuple[str, ...], code: int, message: str) -> None:
    result = cg(*args)
    assert result.exit_code == code, result.stderr
    assert message in result.stderr
    assert result.stdout == ""


def report(memory: Memory | None, tokenizer: float | None) -> BenchReport:
    results = (BenchResult("pp10", 10, (0.5, 0.25), (2.0, 3.0)), BenchResult("tg4", 4, (2.0, 2.0)))
    return BenchReport(
        "m", "Q4", 3 << 29, 2_500_000_000, "native", "avx2", 4, "int8", 0.01234, tokenizer, memory, results
    )


def test_figures_are_written_as_they_are() -> None:
    first, second = bench_text.rows(report(None, None))
    assert first == ("m", "Q4", "1.50 GiB", "2.50 B", "native avx2", "4", "pp10", "30.00 ± 14.14", "2.50 s")
    assert second[-3:] == ("tg4", "2.00 ± 0.00", "")


def test_footer() -> None:
    assert bench_text.footer(report(Memory(300 << 20, "resident"), 0.9)) == (
        "peak resident memory 300 MiB, load 12.3 ms, tokenizer 900.0 ms, int8 activations"
    )
    assert bench_text.footer(report(None, None)) == (
        "memory not measured on this system, load 12.3 ms, no tokenizer, int8 activations"
    )

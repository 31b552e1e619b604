"""``cg bench`` as a user runs it."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cg.cli import bench_text
from cg.cli.main import app
from cg.runtime import ops_native, roofline
from cg.runtime.bench import BenchReport
from cg.runtime.bench_tests import BenchResult
from cg.runtime.process_memory import Memory
from cg.runtime.roofline import Bandwidth

SMALL = ("-p", "8,4", "-n", "2", "-r", "2", "--backend", "numpy")


def cg(*args: object) -> Result:
    return CliRunner().invoke(app, ["bench", *(str(a) for a in args)])


def last_line(lines: list[str]) -> str:
    """The last line, which holds everything as JSON."""
    data = json.loads(lines[-1])
    assert data["results"][0]["seconds"]
    return lines[-1]


def test_table(golden: Path) -> None:
    result = cg(golden / "gemma-mqa-JQ4", *SMALL)
    assert result.exit_code == 0
    assert result.stderr == ""
    *text, line = result.stdout.splitlines()
    assert [r["test"] for r in json.loads(line)["results"]] == ["pp8", "pp4", "tg2"]
    lines = [line for line in text if "gemma-mqa-JQ4" in line]
    assert [re.search(r"(pp8|pp4|tg2)\s+[\d.]+ ± [\d.]+", line)[1] for line in lines] == ["pp8", "pp4", "tg2"]  # type: ignore[index]
    assert all(" Q4 " in line and " 1.84 M " in line and " numpy " in line for line in lines)
    assert re.search(r"peak private memory \d+ MiB, load .*, tokenizer .*, f32 activations", result.stdout)


def test_markdown_is_a_table(golden: Path) -> None:
    lines = cg(golden / "gemma-mqa", *SMALL, "-o", "md").stdout.splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 5
    assert lines[-2:] == ["", last_line(lines)]
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


def test_jsonl_has_an_object_per_test(golden: Path) -> None:
    records = [
        json.loads(line) for line in cg(golden / "gemma-mqa", *SMALL, "-o", "jsonl").stdout.splitlines()
    ]
    assert [r["test"] for r in records] == ["pp8", "pp4", "tg2"]
    assert all(len(r["seconds"]) == r["repetitions"] == 2 for r in records)
    assert len(records[0]["first_token_seconds"]) == 2
    assert records[2]["bytes_per_token"] > 1_000_000
    fields = cg(golden / "gemma-mqa", *SMALL, "-o", "csv").stdout.splitlines()[0].split(",")
    assert set(records[0]) - set(fields) == {"seconds", "first_token_seconds"}


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


def test_depths_batches_and_threads_multiply(golden: Path) -> None:
    sweep = ("-d", "0,9", "-t", "1", "-t", "2", "-b", "2", "--backend", "native")
    data = json.loads(cg(golden / "gemma-mqa-JQ4", "-p", 3, "-n", 2, "-r", 1, *sweep, "--json").stdout)
    assert [(r["test"], r["depth"], r["threads"]) for r in data["results"]] == [
        (test + suffix, depth, threads)
        for suffix, depth in (("", 0), ("@d9", 9))
        for threads in (1, 2)
        for test in ("pp3", "tg2", "batch1", "batch2")
    ]
    assert data["results"][3]["passes_of_one"] > 0


def test_roofline(golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "_BUFFERS", (16 << 20,))  # quick, and enough to be read
    small = ("-p", 2, "-n", 2, "-r", 1, "-t", 2)
    result = cg(golden / "gemma-mqa-JQ4", *small, "--roofline")
    assert result.exit_code == 0, result.stderr
    assert re.search(r"\n tg2 +2 +1\.\d MB +[\d.]+ +[\d.]+% ", result.stdout)
    assert re.search(r"read bandwidth with 2 threads [\d.]+ GB/s", result.stdout)
    data = json.loads(result.stdout.splitlines()[-1])
    assert re.search(r"weights where they lie with 2 threads [\d.]+ GB/s", result.stdout)
    assert [(b["source"], b["threads"]) for b in data["bandwidths"]] == [("memory", 2), ("weights", 2)] * 2
    assert all(b["bytes_per_second"] > 1e8 for b in data["bandwidths"])
    assert data["results"][1]["limit"] > 0
    assert data["results"][1]["share"] > 0
    assert data["results"][1]["share_of_weights"] > 0

    monkeypatch.setattr(ops_native, "_problem", "compiled kernels are missing")
    result = cg(golden / "gemma-mqa-JQ4", *small, "--roofline")
    assert result.exit_code == 6
    assert "compiled kernels are missing" in result.stderr
    assert "leave --roofline out" in result.stderr
    assert result.stdout == ""


def test_the_number_of_threads_comes_from_settings_and_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config.toml"
    file.write_text("model = 'demo'\nthreads = 3\n")
    monkeypatch.setenv("CG_CONFIG", str(file))
    small = ("-p", 2, "-n", 0, "-r", 1, "--json")
    assert [r["threads"] for r in json.loads(cg(*small).stdout)["results"]] == [3]
    monkeypatch.setenv("CG_THREADS", "2,1")
    assert [r["threads"] for r in json.loads(cg(*small).stdout)["results"]] == [2, 1]
    assert [r["threads"] for r in json.loads(cg(*small, "-t", 4).stdout)["results"]] == [4]


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
        (("demo", "-p", "x"), 2, "-p x: expected numbers"),
        (("demo", "-n", "1,"), 2, "-n 1,: expected numbers"),
        (("demo", "-t", "two"), 2, "-t two: expected numbers"),
        (("demo", "-t", "0", "--backend", "numpy"), 2, "0 threads"),
        (("demo", "-t", "1,300"), 2, "300 threads"),
        (("demo", "-d", "-1"), 2, "depth is -1"),
        (("demo", "-d", "1000", "-b", "30"), 2, "512 tokens at depth 1000 does not fit"),
        (("demo", "-t", "1,2", "--backend", "torch"), 2, "several numbers of threads"),
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


def test_kernels_that_fail_their_self_test_are_told(failing_isa: str) -> None:
    result = cg("demo", "-p", 2, "-n", 0, "-r", 1, "--json")
    assert json.loads(result.stdout)["isa"] == "portable"
    assert f"warning: {failing_isa} failed its self-test" in result.stderr


def report(memory: Memory | None, tokenizer: float | None, *more: BenchResult) -> BenchReport:
    results = (
        BenchResult("pp10", 10, (0.5, 0.25), (2.0, 3.0), threads=4),
        BenchResult("tg4", 4, (2.0, 2.0), threads=4),
        *more,
    )
    return BenchReport(
        "m", "Q4", 3 << 29, 2_500_000_000, "native", "avx2", "int8", 0.01234, tokenizer, memory, results
    )


def test_figures_are_written_as_they_are() -> None:
    first, second = bench_text.rows(report(None, None))
    assert first == ("m", "Q4", "1.50 GiB", "2.50 B", "native avx2", "4", "pp10", "30.00 ± 14.14", "2.50 s")
    assert second[-3:] == ("tg4", "2.00 ± 0.00", "")


def test_batches_have_a_table_of_their_own() -> None:
    assert len(bench_text.tables(report(None, None))) == 1
    batch = BenchResult("batch4@d9", 4, (0.06, 0.04), depth=9, threads=2, one_token_seconds=0.025)
    tests, (titles, cells) = bench_text.tables(report(None, None, batch))
    assert tests[1][2][-3:] == ("batch4@d9", "83.33 ± 23.57", "")
    assert titles == ("test", "threads", "ms per pass", "in passes of 1 token")
    assert cells == [("batch4@d9", "2", "50.00", "2.00")]


def test_the_roofline_has_a_table_and_a_line_per_number_of_threads() -> None:
    tests = tuple(
        BenchResult("tg4", 4, (seconds,), threads=threads, bytes_per_token=1_500_000_000)
        for threads, seconds in ((1, 0.5), (2, 0.25))
    )
    measured = (
        Bandwidth(1, 1 << 30, (15e9, 18e9)),
        Bandwidth(2, 1 << 30, (30e9, 24e9)),
        Bandwidth(1, 1 << 30, (10e9, 17e9)),
        Bandwidth(2, 1 << 30, (20e9, 20e9)),
        Bandwidth(1, 1 << 20, (16e9, 14e9), "weights"),
        Bandwidth(2, 1 << 20, (25e9,), "weights"),
    )
    both = replace(report(None, None, *tests), bandwidths=measured)
    _, (titles, cells) = bench_text.tables(both)
    assert titles == ("test", "threads", "read per token", "limit t/s", "share reached", "of reading alone")
    assert cells == [
        ("tg4", "1", "1500.0 MB", "11.67", "68.6%", "75.0%"),
        ("tg4", "2", "1500.0 MB", "18.00", "88.9%", "96.0%"),
    ]
    assert bench_text.footer(both).splitlines()[1:] == [
        "read bandwidth with 1 thread 17.5 GB/s (in turns with the tests: 18.0, 17.0; best pass 18.0)",
        "read bandwidth with 2 threads 27.0 GB/s (in turns with the tests: 30.0, 20.0; best pass 30.0)",
        "weights where they lie with 1 thread 16.0 GB/s (in turns with the tests: 16.0; best pass 16.0)",
        "weights where they lie with 2 threads 25.0 GB/s (in turns with the tests: 25.0; best pass 25.0)",
    ]
    assert bench_text.as_json(both)["bandwidths"][3]["bytes_per_second"] == 20e9
    assert json.loads(bench_text.as_line(both)) == json.loads(json.dumps(bench_text.as_json(both)))
    assert [json.loads(line)["share"] for line in bench_text.as_jsonl(both).splitlines()[2:]] == [
        pytest.approx(8 / (17.5 / 1.5)),
        pytest.approx(16 / 18),
    ]
    last = json.loads(bench_text.as_jsonl(both).splitlines()[-1])
    assert (last["weights_bandwidth"], last["share_of_weights"]) == (25e9, pytest.approx(0.96))


def test_footer() -> None:
    assert bench_text.footer(report(Memory(300 << 20, "resident"), 0.9)) == (
        "peak resident memory 300 MiB, load 12.3 ms, tokenizer 900.0 ms, int8 activations"
    )
    assert bench_text.footer(report(None, None)) == (
        "memory not measured on this system, load 12.3 ms, no tokenizer, int8 activations"
    )

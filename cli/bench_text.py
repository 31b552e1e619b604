"""The report of ``cg bench`` as a table, Markdown, CSV or JSON."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cg.runtime.bench import BenchReport
    from cg.runtime.bench_tests import BenchResult
    from cg.runtime.roofline import Bandwidth

__all__ = [
    "COLUMNS",
    "Table",
    "as_csv",
    "as_json",
    "as_jsonl",
    "as_line",
    "as_markdown",
    "footer",
    "rows",
    "tables",
]

COLUMNS = ("model", "type", "size", "params", "backend", "threads", "test", "t/s", "first token")

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]
"""Titles and rows."""


def tables(report: BenchReport) -> list[Table]:
    """All tests; what only batches have; what only a roofline tells."""
    found: list[Table] = [(COLUMNS, rows(report))]
    batches = [r for r in report.results if r.seconds_per_pass is not None]
    if batches:
        titles: tuple[str, ...] = ("test", "threads", "ms per pass", "in passes of 1 token")
        found.append((titles, [_batch_row(r) for r in batches]))
    limited = [r for r in report.results if report.limit(r) is not None]
    if limited:
        titles = (
            "test",
            "threads",
            "read per token",
            "limit t/s",
            "share reached",
            "of reading alone",
        )
        found.append((titles, [_limit_row(report, r) for r in limited]))
    return found


def _batch_row(result: BenchResult) -> tuple[str, ...]:
    milliseconds = 1000 * (result.seconds_per_pass or 0)
    return result.test, str(result.threads), f"{milliseconds:.2f}", f"{result.passes_of_one:.2f}"


def _limit_row(report: BenchReport, result: BenchResult) -> tuple[str, ...]:
    megabytes = (result.bytes_per_token or 0) / 1e6
    return (
        result.test,
        str(result.threads),
        f"{megabytes:.1f} MB",
        f"{report.limit(result):.2f}",
        f"{report.share(result):.1%}",
        f"{report.share(result, 'weights'):.1%}",
    )


def rows(report: BenchReport) -> list[tuple[str, ...]]:
    """One row per test, in the order of :data:`COLUMNS`."""
    head = (
        report.model,
        report.type,
        f"{report.size / 2**20:.2f} MiB" if report.size < 2**30 else f"{report.size / 2**30:.2f} GiB",
        f"{report.parameters / 1e6:.2f} M" if report.parameters < 1e9 else f"{report.parameters / 1e9:.2f} B",
        f"{report.backend} {report.isa}" if report.backend == "native" else report.isa,
    )
    return [
        (
            *head,
            str(r.threads),
            r.test,
            f"{r.tokens_per_second:.2f} ± {r.deviation:.2f}",
            _seconds(r.time_to_first_token),
        )
        for r in report.results
    ]


def footer(report: BenchReport) -> str:
    """What holds for all tests: memory, load time, activations, read bandwidth."""
    memory, tokenizer = report.peak_memory, report.tokenizer_seconds
    parts = [
        f"peak {memory.kind} memory {_mib(memory.bytes)}" if memory else "memory not measured on this system",
        f"load {_seconds(report.load_seconds)}",
        "no tokenizer" if tokenizer is None else f"tokenizer {_seconds(tokenizer)}",
        f"{report.activations} activations",
    ]
    if report.optimized_tensors:
        parts.append(f"f16 scales for {report.optimized_tensors} tensors")
    return "\n".join([", ".join(parts), *_bandwidth_lines(report)])


def _bandwidth_lines(report: BenchReport) -> list[str]:
    lines = []
    for threads, source in dict.fromkeys((b.threads, b.source) for b in report.bandwidths):
        whole = report.bandwidth(threads, source)
        assert whole is not None  # one of these bandwidths at least
        measured = (b for b in report.bandwidths if (b.threads, b.source) == (threads, source))
        turns = ", ".join(_gigabytes(b) for b in measured)
        noun = "thread" if threads == 1 else "threads"
        what = "read bandwidth" if source == "memory" else "weights where they lie"
        lines.append(
            f"{what} with {threads} {noun} {_gigabytes(whole)} GB/s "
            f"(in turns with the tests: {turns}; best pass {max(whole.passes) / 1e9:.1f})"
        )
    return lines


def as_markdown(report: BenchReport) -> str:
    """Tables as llama-bench prints them, and the footer."""
    lines = []
    for titles, cells in tables(report):
        texts = 2 if titles is COLUMNS else 1  # columns of words, left-aligned; the rest are figures
        lines += [
            "| " + " | ".join(titles) + " |",
            "| " + " | ".join("---" if i < texts else "---:" for i in range(len(titles))) + " |",
            *("| " + " | ".join(row) + " |" for row in cells),
            "",
        ]
    return "\n".join([*lines, footer(report), ""])


def as_csv(report: BenchReport) -> str:
    """A header and one line per test; seconds, bytes and tokens per second, None as an empty field."""
    out = io.StringIO()
    records = [_record(report, result) for result in report.results]
    writer = csv.DictWriter(out, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue().rstrip("\n")


def as_jsonl(report: BenchReport) -> str:
    """One JSON object per test and line: the fields of the CSV, and the time of every repetition."""
    return "\n".join(
        _compact(_record(report, r) | {"seconds": r.seconds, "first_token_seconds": r.first_token_seconds})
        for r in report.results
    )


def as_line(report: BenchReport) -> str:
    """:func:`as_json` in one line."""
    return _compact(as_json(report))


def as_json(report: BenchReport) -> dict[str, Any]:
    """Everything, every repetition included."""
    everything = asdict(report)
    everything["results"] = [
        asdict(r)
        | {
            "tokens_per_second": r.tokens_per_second,
            "deviation": r.deviation,
            "time_to_first_token": r.time_to_first_token,
            "seconds_per_pass": r.seconds_per_pass,
            "passes_of_one": r.passes_of_one,
            "limit": report.limit(r),
            "share": report.share(r),
            "share_of_weights": report.share(r, "weights"),
        }
        for r in report.results
    ]
    everything["bandwidths"] = [
        asdict(b) | {"bytes_per_second": b.bytes_per_second} for b in report.bandwidths
    ]
    return everything


def _record(report: BenchReport, result: BenchResult) -> dict[str, Any]:
    memory, bandwidth = report.peak_memory, report.bandwidth(result.threads)
    weights = report.bandwidth(result.threads, "weights")
    return {
        "model": report.model,
        "type": report.type,
        "size": report.size,
        "parameters": report.parameters,
        "backend": report.backend,
        "isa": report.isa,
        "threads": result.threads,
        "activations": report.activations,
        "optimized_tensors": report.optimized_tensors,
        "test": result.test,
        "tokens": result.tokens,
        "depth": result.depth,
        "repetitions": len(result.seconds),
        "tokens_per_second": result.tokens_per_second,
        "deviation": result.deviation,
        "time_to_first_token": result.time_to_first_token,
        "seconds_per_pass": result.seconds_per_pass,
        "passes_of_one": result.passes_of_one,
        "bytes_per_token": result.bytes_per_token,
        "read_bandwidth": None if bandwidth is None else bandwidth.bytes_per_second,
        "limit": report.limit(result),
        "share": report.share(result),
        "weights_bandwidth": None if weights is None else weights.bytes_per_second,
        "share_of_weights": report.share(result, "weights"),
        "load_seconds": report.load_seconds,
        "tokenizer_seconds": report.tokenizer_seconds,
        "peak_memory": None if memory is None else memory.bytes,
        "peak_memory_kind": None if memory is None else memory.kind,
    }


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"


def _gigabytes(bandwidth: Bandwidth) -> str:
    return f"{bandwidth.bytes_per_second / 1e9:.1f}"

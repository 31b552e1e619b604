"""The report of ``cg bench`` as a table, Markdown, CSV or JSON."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cg.runtime.bench import BenchReport, BenchResult

__all__ = ["COLUMNS", "as_csv", "as_json", "as_markdown", "footer", "rows"]

COLUMNS = ("model", "type", "size", "params", "backend", "threads", "test", "t/s", "first token")


def rows(report: BenchReport) -> list[tuple[str, ...]]:
    """One row per test, in the order of :data:`COLUMNS`."""
    head = (
        report.model,
        report.type,
        f"{report.size / 2**20:.2f} MiB" if report.size < 2**30 else f"{report.size / 2**30:.2f} GiB",
        f"{report.parameters / 1e6:.2f} M" if report.parameters < 1e9 else f"{report.parameters / 1e9:.2f} B",
        f"{report.backend} {report.isa}" if report.backend == "native" else report.isa,
        str(report.threads),
    )
    return [
        (*head, r.test, f"{r.tokens_per_second:.2f} ± {r.deviation:.2f}", _seconds(r.time_to_first_token))
        for r in report.results
    ]


def footer(report: BenchReport) -> str:
    """What holds for all tests: memory, load time, activations."""
    memory, tokenizer = report.peak_memory, report.tokenizer_seconds
    parts = [
        f"peak {memory.kind} memory {_mib(memory.bytes)}" if memory else "memory not measured on this system",
        f"load {_seconds(report.load_seconds)}",
        "no tokenizer" if tokenizer is None else f"tokenizer {_seconds(tokenizer)}",
        f"{report.activations} activations",
    ]
    return ", ".join(parts)


def as_markdown(report: BenchReport) -> str:
    """A table as llama-bench prints it, and the footer."""
    lines = [
        "| " + " | ".join(COLUMNS) + " |",
        "| " + " | ".join("---:" if i > 1 else "---" for i in range(len(COLUMNS))) + " |",
        *("| " + " | ".join(row) + " |" for row in rows(report)),
        "",
        footer(report),
    ]
    return "\n".join(lines)


def as_csv(report: BenchReport) -> str:
    """A header and one line per test; seconds, bytes and tokens per second, None as an empty field."""
    out = io.StringIO()
    records = [_record(report, result) for result in report.results]
    writer = csv.DictWriter(out, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue().rstrip("\n")


def as_json(report: BenchReport) -> dict[str, Any]:
    """Everything, every repetition included."""
    derived = [
        {
            "tokens_per_second": r.tokens_per_second,
            "deviation": r.deviation,
            "time_to_first_token": r.time_to_first_token,
        }
        for r in report.results
    ]
    everything = asdict(report)
    everything["results"] = [a | b for a, b in zip(everything["results"], derived, strict=True)]
    return everything


def _record(report: BenchReport, result: BenchResult) -> dict[str, Any]:
    memory = report.peak_memory
    return {
        "model": report.model,
        "type": report.type,
        "size": report.size,
        "parameters": report.parameters,
        "backend": report.backend,
        "isa": report.isa,
        "threads": report.threads,
        "activations": report.activations,
        "test": result.test,
        "tokens": result.tokens,
        "repetitions": len(result.seconds),
        "tokens_per_second": result.tokens_per_second,
        "deviation": result.deviation,
        "time_to_first_token": result.time_to_first_token,
        "load_seconds": report.load_seconds,
        "tokenizer_seconds": report.tokenizer_seconds,
        "peak_memory": None if memory is None else memory.bytes,
        "peak_memory_kind": None if memory is None else memory.kind,
    }


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"

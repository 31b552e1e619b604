"""The table as Markdown, and its place in the documentation."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from figures import ENGINES, Goal, Row, Spread
from rounds import Samples

__all__ = ["markdown", "update_page"]

_BEGIN, _END = "<!-- peers:begin -->", "<!-- peers:end -->"
_PEERS = [engine for engine in ENGINES if engine != "cg"]


def markdown(results: Mapping[str, Any], samples: Samples, table: Sequence[Row]) -> str:
    """Machine, table and settings."""
    heads = ["figure", *ENGINES.values(), *(f"cg ÷ {ENGINES[p]}" for p in _PEERS), "goal", "reached"]
    lines = [_machine(results), "", _line(heads), _line(["---", *["--:"] * (len(heads) - 3), "---", "---"])]
    lines += [_line(_cells(row)) for row in table]
    lines += ["", _conditions(results, samples), ""]
    lines += [f"- {name}: {_engine(told)}" for name, told in results["engines"].items()]
    return "\n".join(lines) + "\n"


def update_page(page: Path, text: str) -> None:
    """Replace what stands between the page's markers.

    Raises:
        ValueError: the page has no markers.
    """
    before, begin, rest = page.read_text("utf-8").partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"{page} has no {_BEGIN} … {_END}")
    page.write_text(f"{before}{_BEGIN}\n\n{text}\n{_END}{after}", "utf-8")


def _cells(row: Row) -> list[str]:
    name = f"{row.name} ({row.unit})" if row.unit else row.name
    values = [_number(row.values[e].median) if e in row.values else "" for e in ENGINES]
    ratios = [_ratio(row.ratios[p]) if p in row.ratios else "" for p in _PEERS]
    reached = {True: "yes", False: "no", None: "not measured"}
    return [
        name, *values, *ratios,
        ", ".join(_goal(goal) for goal in row.goals),
        ", ".join(reached[goal.reached(row)] for goal in row.goals),
    ]  # fmt: skip


def _ratio(spread: Spread) -> str:
    return f"**{spread.median:.2f}** ({spread.low:.2f}–{spread.high:.2f})"


def _goal(goal: Goal) -> str:
    sign = "≤" if goal.at_most else "≥"
    return f"{sign} {goal.value:g}" + (f" × {ENGINES[goal.peer]}" if goal.peer else "")


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _machine(results: Mapping[str, Any]) -> str:
    m = results["machine"]
    memory = m["memory_bytes"] / 2**30
    return (
        f"{m['date'][:10]}, {m['cpu']} ({m['cpu_family_model']}), {m['cores']} cores, {memory:.0f} GiB, "
        f"{m['system']}, Python {m['python']}; cg {m['cg']}"
        + (f" at {m['commit']}" if m["commit"] else "")
        + f", {results['threads']} threads for every program. Instruction sets: "
        + ", ".join(m["instruction_sets"]) + "."
    )  # fmt: skip


def _conditions(results: Mapping[str, Any], samples: Samples) -> str:
    others = [s.others for by_engine in samples.values() for taken in by_engine.values() for s in taken]
    busy = f"{max(others):.0%} (median {statistics.median(others):.0%})"
    text = (
        f"Medians of rounds in alternation ({results['rounds']} of them); a ratio is the median of the "
        "rounds' ratios, with the lowest and the highest. While a program was measured, everything else on "
        f"the machine used at most {busy} of the processors."
    )
    return " ".join([text, *results["notes"]])


def _engine(told: Mapping[str, Any]) -> str:
    settings = ", ".join(f"{name} {value}" for name, value in told["settings"].items())
    system = f"; compiled with {told['system']}" if told.get("system") else ""
    return f"{told['package']} {told['version']}, {settings}{system}"

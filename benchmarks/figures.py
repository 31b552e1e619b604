"""From samples to the rows of the table: medians, ratios within one round, goals."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rounds import Sample, Samples

__all__ = ["ENGINES", "Goal", "Row", "Spread", "rows"]

ENGINES = {
    "cg": "cg",
    "cg_f16": "cg, optimized",
    "llama": "llama.cpp",
    "ik": "ik_llama.cpp",
    "torch": "torch",
}
_LIMIT, _WEIGHTS = "bytes_per_second", "weights_bytes_per_second"
"""What a program that only reads gets from private memory, and of the model's weights where they lie."""


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of the rounds, and the lowest and highest of them."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of one value a round."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Goal:
    """What cg wants to reach: a value of its own, or a ratio to a peer."""

    value: float
    peer: str | None = None
    at_most: bool = False

    def reached(self, row: Row) -> bool | None:
        """Whether the median is there; None where it was not measured."""
        spread = row.ratios.get(self.peer) if self.peer else row.values.get("cg")
        if spread is None:
            return None
        return spread.median <= self.value if self.at_most else spread.median >= self.value


@dataclass(frozen=True, slots=True)
class Row:
    """One figure: the value of every engine, and how many times as good as each peer cg is."""

    name: str
    unit: str
    values: Mapping[str, Spread]
    ratios: Mapping[str, Spread]
    goals: tuple[Goal, ...] = ()


def rows(results: Mapping[str, Any], samples: Samples) -> list[Row]:
    """The rows for everything that was measured, in the order of the table."""
    sizes, made = results["sizes"], []
    prompt, tokens, depth = sizes["prompt"], sizes["decode"], sizes["depth"]

    def add(row: Row | None) -> None:
        if row is not None:
            made.append(row)

    def speed(name: str, figure: str, count: int, *goals: Goal) -> None:
        add(_speed(name, samples.get(figure), count, goals))

    speed("decode, empty cache", "decode", tokens, Goal(1.45, "llama"), Goal(1.25, "ik"))
    decode = samples.get("decode")
    add(_share("decode, share of the read limit", results, "2b", decode, tokens, _LIMIT, Goal(0.90)))
    add(_share("decode, share of reading its weights alone", results, "2b", decode, tokens, _WEIGHTS))
    speed(
        "decode, the peers with their default Q4_0", "default", tokens, Goal(1.45, "llama"), Goal(1.25, "ik")
    )
    speed(f"prompt of {prompt}", "prompt", prompt, Goal(1.7, "llama"), Goal(1.2, "ik"))
    behind = f"decode behind {depth} tokens"
    speed(behind, "depth", tokens)
    add(_quotient(f"{behind} ÷ empty cache", samples, "depth0", "depth", Goal(0.90)))
    for count, most in zip(sizes["batches"], (1.6, 2.6), strict=True):
        name = f"time of {count} tokens in a batch ÷ 1 token"
        add(_quotient(name, samples, f"batch{count}", "batch1", Goal(most, at_most=True)))
    speed(f"original bf16 weights, prompt of {prompt}", "original", prompt, Goal(1.0, "torch"))
    add(_time("quantize to 4 bits", samples.get("quantize"), (Goal(1.0, "llama"),)))
    add(_time("warm start to the first token", samples.get("start"), (Goal(0.6, at_most=True),)))
    add(_memory(results.get("private_bytes", {})))
    speed("7b: decode, empty cache", "seven_b", sizes["seven_b"])
    larger, count = samples.get("seven_b"), sizes["seven_b"]
    add(_share("7b: share of the read limit", results, "7b", larger, count, _LIMIT, Goal(0.85)))
    add(_share("7b: share of reading its weights alone", results, "7b", larger, count, _WEIGHTS))
    return made


def _speed(
    name: str, by_engine: Mapping[str, list[Sample]] | None, count: int, goals: tuple[Goal, ...]
) -> Row | None:
    if not by_engine:
        return None
    values = {e: Spread.of([count / s.seconds for s in taken]) for e, taken in by_engine.items()}
    return Row(name, "tok/s", values, _times_as_fast(by_engine), goals)


def _time(name: str, by_engine: Mapping[str, list[Sample]] | None, goals: tuple[Goal, ...]) -> Row | None:
    if not by_engine:
        return None
    values = {e: Spread.of([s.seconds for s in taken]) for e, taken in by_engine.items()}
    return Row(name, "s", values, _times_as_fast(by_engine), goals)


def _times_as_fast(by_engine: Mapping[str, list[Sample]]) -> dict[str, Spread]:
    """For every peer: the peer's time divided by cg's, in each round."""
    own = by_engine.get("cg", [])
    return {
        engine: Spread.of([s.seconds / c.seconds for s, c in zip(taken, own, strict=True)])
        for engine, taken in by_engine.items()
        if engine != "cg" and own
    }


def _quotient(name: str, samples: Samples, above: str, below: str, goal: Goal) -> Row | None:
    """Time of one figure divided by that of another, within one engine."""
    values = {
        engine: Spread.of([a.seconds / b.seconds for a, b in zip(taken, samples[below][engine], strict=True)])
        for engine, taken in samples.get(above, {}).items()
    }
    return Row(name, "", values, {}, (goal,)) if values else None


def _share(
    name: str, results: Mapping[str, Any], model: str,
    by_engine: Mapping[str, list[Sample]] | None, count: int, rate: str, *goals: Goal,
) -> Row | None:  # fmt: skip
    """Bytes that decoding reads a second, divided by the measured ``rate``, in each round."""
    limits = results.get("bandwidth", {}).get(model)
    if not limits or not by_engine or rate not in limits[0]:
        return None
    shares = [
        limit["bytes_per_token"] * count / sample.seconds / limit[rate]
        for limit, sample in zip(limits, by_engine["cg"], strict=True)
    ]
    return Row(name, "", {"cg": Spread.of(shares)}, {}, goals)


def _memory(private: Mapping[str, int]) -> Row | None:
    values = {engine: Spread(size / 1e6, size / 1e6, size / 1e6) for engine, size in private.items()}
    goal = Goal(300, at_most=True)
    return Row("private memory beyond the key-value cache", "MB", values, {}, (goal,)) if values else None

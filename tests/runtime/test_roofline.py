"""Bytes per token counted by hand, and a measurement that really reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import cg.runtime._native as native
from cg.runtime import ops_native, roofline
from cg.runtime.errors import BackendError, UsageError
from cg.runtime.formats.checkpoint import Checkpoint
from cg.runtime.loading import load_gemma
from cg.runtime.models.gemma import Gemma
from cg.runtime.process_memory import read_memory
from cg.runtime.roofline import Bandwidth, bytes_per_token, measure_read_bandwidth, measure_weights_bandwidth

MB = 1 << 20


@pytest.mark.parametrize("name", ["gemma-mqa", "gemma-mqa-JQ4", "gemma-mqa-JQ4-embed", "gemma-mha-wide"])
def test_a_token_reads_every_weight_once(name: str, golden: Path) -> None:
    with Checkpoint.open(golden / name) as checkpoint:
        model = load_gemma(checkpoint, backend="numpy")
        tensors = checkpoint.tensors
        matrices = sum(t.nbytes for n, t in tensors.items() if "norm" not in n)
        norms = sum(t.size for n, t in tensors.items() if "norm" in n)
        table = tensors["model.embed_tokens.weight"]
        assert (
            "lm_head.weight" not in tensors
        )  # the head is the embedding: read once, and one row of it again
        config = model.config
        per_token = 2 * 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
        weights = matrices + 4 * norms + table.nbytes // config.vocab_size
        assert bytes_per_token(model) == weights + per_token
        assert bytes_per_token(model, 9) == weights + 10 * per_token
        assert bytes_per_token(model, 9, kv_dtype="f32") == weights + 20 * per_token


def test_an_output_head_of_its_own_counts_without_the_embedding(golden: Path) -> None:
    with Checkpoint.open(golden / "gemma-mqa") as checkpoint:
        tied = load_gemma(checkpoint, backend="numpy")
        table = checkpoint.tensors["model.embed_tokens.weight"]
        untied = Gemma(tied.config, {**checkpoint.tensors, "lm_head.weight": table}, tied.ops)
        assert bytes_per_token(untied) == bytes_per_token(tied)


@pytest.mark.parametrize("threads", [1, 3])
def test_measuring(threads: int) -> None:
    before = read_memory()
    bandwidth = measure_read_bandwidth(threads, passes=5, buffer_bytes=64 * MB)
    after = read_memory()
    assert (bandwidth.threads, bandwidth.buffer_bytes, len(bandwidth.passes)) == (threads, 64 * MB, 5)
    assert all(1e8 < rate < 1e13 for rate in bandwidth.passes)
    assert before is not None
    assert after is not None
    if after.kind == "private":
        assert after.bytes - before.bytes < 32 * MB  # the buffer is gone


@pytest.mark.parametrize("name", ["gemma-mqa", "gemma-mqa-JQ4-embed"])
def test_reading_the_weights_where_they_lie(name: str, golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def time_reads_of(arrays: list[Any], threads: int, passes: int) -> list[float]:
        asked.append((arrays, threads, passes))
        return real(arrays, threads, passes)

    real = native.time_reads_of
    monkeypatch.setattr(native, "time_reads_of", time_reads_of)
    with Checkpoint.open(golden / name) as checkpoint:
        model = load_gemma(checkpoint, backend="native", threads=2)
        measured = measure_weights_bandwidth(model, passes=3)
        matrices = [t for n, t in checkpoint.tensors.items() if "norm" not in n]
        assert (measured.threads, measured.source, len(measured.passes)) == (2, "weights", 3)
        assert measured.buffer_bytes == sum(t.nbytes for t in matrices)
        assert all(1e7 < rate < 1e13 for rate in measured.passes)
        ((arrays, threads, passes),) = asked
        assert (threads, passes) == (2, 3)
        parts = [part for t in matrices for part in (t.data, t.scales) if part is not None]
        assert {a.ctypes.data for a in arrays} == {part.ctypes.data for part in parts}  # no copies
        with pytest.raises(UsageError, match="0 passes"):
            measure_weights_bandwidth(model, passes=0)


def test_what_is_asked_of_the_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def time_reads(size: int, threads: int, passes: int) -> list[float]:
        asked.append((size, threads, passes))
        return [0.5, 0.25, 1.0]

    monkeypatch.setattr(native, "time_reads", time_reads)
    monkeypatch.setattr(roofline, "available_memory", lambda: 2 << 30)
    assert measure_read_bandwidth(2, passes=3) == Bandwidth(2, 1 << 30, (2.0 * 2**30, 4.0 * 2**30, 2.0**30))
    for free in ((2 << 30) - 1, 512 << 20, None):
        monkeypatch.setattr(roofline, "available_memory", lambda free=free: free)
        measure_read_bandwidth(1)
    assert asked == [(1 << 30, 2, 3), (512 << 20, 1, 8), (256 << 20, 1, 8), (1 << 30, 1, 8)]


def test_too_little_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "available_memory", lambda: (512 << 20) - 1)
    with pytest.raises(BackendError, match=r"512 MiB of free memory.* 511 MiB are free") as caught:
        measure_read_bandwidth(1)
    assert "--roofline" in str(caught.value.hint)


def test_the_bandwidth_is_the_median_of_the_better_half() -> None:
    assert Bandwidth(1, 8, (1.0, 9.0, 5.0, 8.0, 2.0)).bytes_per_second == 8
    assert Bandwidth(1, 8, (4.0, 1.0, 8.0, 2.0)).bytes_per_second == 6
    assert Bandwidth(1, 8, (3.0,)).bytes_per_second == 3


def test_measurements_are_joined_in_the_order_of_time() -> None:
    joined = Bandwidth(2, 16, (4.0, 1.0)).joined(Bandwidth(2, 8, (3.0,)))
    assert joined == Bandwidth(2, 8, (4.0, 1.0, 3.0))
    with pytest.raises(UsageError, match="of 2 threads from memory and of 1 threads from memory"):
        joined.joined(Bandwidth(1, 8, (1.0,)))
    with pytest.raises(UsageError, match="of 2 threads from memory and of 2 threads from weights"):
        joined.joined(Bandwidth(2, 8, (1.0,), "weights"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 0}, "0 threads"),
        ({"threads": 257}, "257 threads"),
        ({"threads": 1, "passes": 0}, "0 passes"),
        ({"threads": 1, "buffer_bytes": 0}, "buffer of 0 bytes"),
        ({"threads": 1, "buffer_bytes": 12}, "buffer of 12 bytes"),
    ],
)
def test_impossible_measurements(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        measure_read_bandwidth(**options)


def test_without_the_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops_native, "_problem", "compiled kernels are missing")
    with pytest.raises(BackendError, match="compiled kernels are missing") as caught:
        measure_read_bandwidth(1)
    assert "compiler" in str(caught.value.hint)


def test_threads_that_the_system_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(size: int, threads: int, passes: int) -> list[float]:
        raise RuntimeError("Resource temporarily unavailable")

    monkeypatch.setattr(native, "time_reads", refuse)
    with pytest.raises(BackendError, match="200 threads: Resource temporarily unavailable"):
        measure_read_bandwidth(200, buffer_bytes=64)

"""The report on a folder, and what a roofline makes of it."""

from __future__ import annotations

import shutil
import statistics
from pathlib import Path

import pytest

from cg.runtime import bench
from cg.runtime.bench import BenchReport, bench_model
from cg.runtime.bench_tests import BenchOptions, BenchResult
from cg.runtime.errors import TokenizerError, UsageError
from cg.runtime.formats.checkpoint import Checkpoint
from cg.runtime.models.gemma import Gemma
from cg.runtime.roofline import Bandwidth


def test_report_on_a_real_model(golden: Path) -> None:
    report = bench_model(golden / "gemma-mqa-JQ4", BenchOptions((8,), (2,), repetitions=2), backend="numpy")
    with Checkpoint.open(golden / "gemma-mqa") as original:
        assert report.parameters == sum(t.size for t in original.tensors.values())
    assert (report.model, report.type) == ("gemma-mqa-JQ4", "Q4")
    file = golden / "gemma-mqa-JQ4" / "model.safetensors"
    assert 0 < file.stat().st_size - report.size < 10_000  # the rest is the header
    assert (report.backend, report.activations) == ("numpy", "f32")
    assert report.load_seconds > 0
    assert report.tokenizer_seconds is not None
    assert report.peak_memory is not None
    assert report.peak_memory.bytes > 10 << 20
    assert report.bandwidths == ()
    pp, tg = report.results
    assert (pp.threads, tg.threads) == (1, 1)
    assert report.limit(tg) is report.share(tg) is None
    assert min(*pp.seconds, *tg.seconds) > 0
    assert pp.time_to_first_token is not None
    assert pp.time_to_first_token > statistics.fmean(pp.seconds)


def test_a_tokenizer_is_timed_if_it_is_there(golden: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(golden / "gemma-mqa" / name, folder)
    options = BenchOptions((2,), (), repetitions=1)
    assert bench_model(folder, options, backend="numpy").tokenizer_seconds is None
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(TokenizerError):
        bench_model(folder, options, backend="numpy")


def test_a_sweep_maps_the_file_once(golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    class Counting(Checkpoint):
        @classmethod
        def open(cls, folder: Path) -> Checkpoint:
            opened.append(folder)
            return Checkpoint.open(folder)

    monkeypatch.setattr(bench, "Checkpoint", Counting)
    options = BenchOptions((4,), (2,), repetitions=1)
    report = bench_model(golden / "gemma-mqa-JQ4", options, backend="native", threads=(2, 1, 2))
    assert [(r.test, r.threads) for r in report.results] == [("pp4", 2), ("tg2", 2), ("pp4", 1), ("tg2", 1)]
    assert opened == [golden / "gemma-mqa-JQ4"]


def test_a_sweep_needs_a_backend_whose_threads_are_its_own(golden: Path) -> None:
    options = BenchOptions((4,), (), repetitions=1)
    with pytest.raises(UsageError, match="numpy backend cannot be measured with several numbers") as caught:
        bench_model(golden / "gemma-mqa", options, backend="numpy", threads=(1, 2))
    assert "--backend native" in str(caught.value.hint)
    assert bench_model(golden / "gemma-mqa", options, backend="numpy", threads=(4, 4)).results[0].threads == 1


def test_bandwidth_is_measured_around_the_tests_of_every_depth(
    golden: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    rates = iter([100.0, 400.0, 300.0, 600.0, 200.0, 500.0])

    def measure(threads: int) -> Bandwidth:
        order.append(f"bandwidth {threads}")
        return Bandwidth(threads, 64, (next(rates),))

    def measure_weights(model: Gemma) -> Bandwidth:
        return Bandwidth(model.ops.threads, 64, (50.0,), "weights")

    monkeypatch.setattr(bench, "measure_read_bandwidth", measure)
    monkeypatch.setattr(bench, "measure_weights_bandwidth", measure_weights)
    report = bench_model(
        golden / "gemma-mqa-JQ4",
        BenchOptions((2,), (3,), repetitions=1, depths=(0, 5)),
        backend="native",
        threads=(1, 2),
        roofline=True,
        progress=lambda test, done, total: order.append(test),
    )
    runs = [i for i, step in enumerate(order) if step.startswith("bandwidth")]
    assert [order[i] for i in runs] == ["bandwidth 1", "bandwidth 2"] * 3
    assert runs[:2] == [0, 1]
    assert runs[-1] == len(order) - 1
    assert order[runs[3] + 1] == "fill 5/5"
    assert [b.threads for b in report.bandwidths] == [1, 1, 2, 2] * 3
    assert [b.source for b in report.bandwidths] == ["memory", "weights"] * 6
    assert report.bandwidth(1) == Bandwidth(1, 64, (100.0, 300.0, 200.0))  # median of the better two: 250
    assert report.bandwidth(2) == Bandwidth(2, 64, (400.0, 600.0, 500.0))
    assert report.bandwidth(1, "weights") == Bandwidth(1, 64, (50.0,) * 3, "weights")
    assert report.bandwidth(3) is None
    shallow = next(r for r in report.results if (r.test, r.threads) == ("tg3", 1))
    deep = next(r for r in report.results if (r.test, r.threads) == ("tg3@d5", 2))
    assert shallow.bytes_per_token is not None
    assert report.limit(shallow) == 250 / shallow.bytes_per_token
    assert report.limit(shallow, "weights") == 50 / shallow.bytes_per_token
    assert deep.bytes_per_token is not None
    assert report.limit(deep) == 550 / deep.bytes_per_token
    assert deep.bytes_per_token > shallow.bytes_per_token
    prompt = report.results[0]
    assert report.limit(prompt) is report.share(prompt) is None


def test_the_share_is_of_the_limit_with_as_many_threads() -> None:
    tests = (
        BenchResult("tg4", 4, (2.0,), threads=1, bytes_per_token=10),
        BenchResult("tg4", 4, (1.0,), threads=2, bytes_per_token=10),
    )
    measured = (Bandwidth(1, 8, (25.0,)), Bandwidth(2, 8, (160.0,)))
    report = BenchReport("m", "Q4", 1, 1, "native", "avx2", "int8", 0.1, None, None, tests, measured)
    assert [report.limit(r) for r in tests] == [2.5, 16]
    assert [report.share(r) for r in tests] == [0.8, 0.25]

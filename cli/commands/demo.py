"""``cg demo``: the whole story on the bundled model."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cg.cli import cursor, output
from cg.cli.options import BackendName, BackendOption, ThreadsOption, tell_fallback
from cg.runtime.hub import registry

if TYPE_CHECKING:
    from cg.runtime import Model

__all__ = ["demo"]

_CHUNKS = 8
_HOLES = [
    """\
def copy(source, target):
    while True:
        data = source.read(1024)
        if not <CURSOR>:
            break
        target.write(data)
""",
    """\
def lookup(table, key):
    try:
        return table[key]
    except <CURSOR>:
        return None
""",
    """\
if __name__ == <CURSOR>:
    main()
""",
]


def demo(
    out: Annotated[
        Path | None, typer.Option("--out", help="Keep the quantized model in this new folder.")
    ] = None,
    backend: BackendOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Quantize, verify and run the small bundled model: the whole story, offline.

    \b
    Examples:
      cg demo
      cg demo --out demo-q4
    """
    import tempfile

    started = time.perf_counter()
    original = registry.resolve(registry.DEMO)
    tell_fallback(backend)
    with tempfile.TemporaryDirectory(prefix="cg-demo-") as scratch:
        quantized = out or Path(scratch) / "demo-q4"
        _quantize(original, quantized)
        _verify(original, quantized, backend, threads)
        _complete(original, quantized, backend, threads)
    output.emit(
        f"Done in {time.perf_counter() - started:.0f} s. With CodeGemma itself (5 GB, licence needed):"
    )
    for command in (
        "cg download codegemma-2b",
        "cg quantize codegemma-2b",
        "cg verify codegemma-2b-q4 --against codegemma-2b",
        "cg complete -m codegemma-2b-q4 --file app.py --line 12 --column 9",
    ):
        output.emit(f"  {command}")


def _quantize(original: Path, quantized: Path) -> None:
    from cg.quant import quantize

    result = quantize(original, quantized)
    t = result.totals
    output.emit(
        f"1. Quantize a bundled Gemma of {t.parameters / 1e6:.1f} million parameters to Jlama's Q4 blocks\n"
        f"   {t.source_bytes / 1e6:.1f} MB -> {t.bytes / 1e6:.1f} MB, "
        f"{t.source_bits_per_weight:.0f} -> {t.bits_per_weight:.2f} bits per weight, "
        f"in {result.seconds:.2f} s\n"
    )


def _verify(original: Path, quantized: Path, backend: BackendName, threads: int | None) -> None:
    from cg.quant.verify import VerifyOptions, verify

    options = VerifyOptions(chunks=_CHUNKS, backend=backend, threads=threads)
    result = verify(quantized, original, options=options)
    f = result.figures
    output.emit(
        f"2. Verify it against the original on {f.tokens} tokens of Python that neither has seen\n"
        f"   perplexity {f.ppl_original.value:.3f} -> {f.ppl_quantized.value:.3f}, "
        f"{f.ppl_ratio.value:.4f} ± {f.ppl_ratio.error:.4f} times; KL divergence "
        f"{f.mean_kld.value:.4f} ± {f.mean_kld.error:.4f}; same first choice {f.same_top.value:.1%}\n"
    )


def _complete(original: Path, quantized: Path, backend: BackendName, threads: int | None) -> None:
    from cg.runtime import load

    output.emit("3. Fill in the middle with the quantized model, in [brackets]\n")
    with (
        load(original, backend=backend, threads=threads) as reference,
        load(quantized, backend=backend, threads=threads) as model,
    ):
        for hole in _HOLES:
            text = _fill(model, hole)
            same = "the original says the same" if text == _fill(reference, hole) else "the original differs"
            shown = hole.replace(cursor.MARKER, f"[{text}]")
            output.emit("".join(f"   | {line}\n" for line in shown.splitlines()) + f"   ({same})\n")


def _fill(model: Model, hole: str) -> str:
    place = cursor.from_marker(hole)
    return model.complete(place.prefix, place.suffix, max_tokens=24).text

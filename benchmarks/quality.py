"""cg's files beside those of llama.cpp's own quantizer: same model, same text, same judge.

    python benchmarks/quality.py                    # the bundled model
    python benchmarks/quality.py FOLDER             # an original checkpoint
    python benchmarks/quality.py --update-docs      # also writes the table to docs/reference/quality.md

Every program quantizes the layers' matrices; the embedding keeps its bf16. llama.cpp is compiled here from
PyPI, see environments.py; its importance matrix is measured on the rows that cg calibrates on. Its files are
imported, and `cg compare` scores everything with float32 activations, so that only the weights differ.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import environments
import numpy as np
from report import update_page

from cg.quant import QuantizeOptions, quantize
from cg.quant.calibrated import Calibration, calibrate
from cg.quant.compare import Comparison, compare
from cg.quant.export.gguf_export import export_gguf
from cg.quant.export.gguf_file import GgufFile
from cg.quant.export.gguf_import import import_gguf
from cg.quant.export.names import gguf_name
from cg.quant.groups import layer_groups
from cg.quant.layer_files import LayerFiles
from cg.quant.layer_inputs import LayerInputs
from cg.quant.material import VerifyOptions
from cg.quant.plan import Method, ScaleType
from cg.runtime.formats.checkpoint import Checkpoint
from cg.runtime.loading import load_gemma

__all__ = ["main"]

_ROOT = Path(__file__).parent.parent
_PAGE = _ROOT / "docs" / "reference" / "quality.md"
_WAYS: tuple[tuple[str, Method, ScaleType, bool, float | None], ...] = (
    ("cg absmax (Jlama's)", "absmax", "f32", False, None),
    ("cg search", "search", "f32", False, None),
    ("cg search, calibrated", "search", "f32", True, None),
    ("cg gptq", "gptq", "f32", True, None),
    ("cg gptq, f16 scales", "gptq", "f16", True, None),
    ("cg gptq, f16 scales, --bits 5.3", "gptq", "f16", True, 5.3),
    ("cg gptq, f16 scales, --bits 6", "gptq", "f16", True, 6),
)


def main(arguments: list[str] | None = None) -> None:
    """Make all files, score them, print the table."""
    options = _parser().parse_args(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    models = dict(_ours(options.model, options.work, options.tokens))
    if not options.without_llama:
        models.update(_theirs(options.model, options.work, options.tokens))
    scoring = VerifyOptions(chunks=None, holes=options.holes, activations="f32")
    found = compare(list(models.values()), options.model, options=scoring)
    text = _table(list(models), found)
    print(text)
    if options.update_docs:
        update_page(_PAGE, text)


def _ours(model: Path, work: Path, tokens: int) -> Iterator[tuple[str, Path]]:
    for name, method, scales, calibrated, bits in _WAYS:
        out = work / name.replace(" ", "-").replace(",", "").replace("'", "").replace("(", "").replace(
            ")", ""
        )
        _say(name)
        amount = tokens if calibrated else 0
        if method == "absmax":
            amount = QuantizeOptions().calibration_tokens
        quantize(
            model, out,
            QuantizeOptions(
                method=method, scales=scales, embed="keep", calibration_tokens=amount, overwrite=True,
                bits=bits,
            ),
        )  # fmt: skip
        yield name, out


def _theirs(model: Path, work: Path, tokens: int) -> Iterator[tuple[str, Path]]:
    python = environments.python_of("llama", work, _say)
    source = work / "original.gguf"
    export_gguf(model, source, overwrite=True)
    importance = work / "importance.npz"
    np.savez(importance, **_importance(model, work, tokens))  # type: ignore[arg-type]
    for kind in ("Q4_0", "Q4_K_M"):
        for extra in ((), (importance,)):
            name = f"llama.cpp {kind}" + (", importance matrix" if extra else "")
            _say(name)
            file = work / f"{kind}{'-i' if extra else ''}.gguf"
            script = Path(__file__).with_name("ggml_quantize.py")
            subprocess.run([python, script, source, file, "2", kind, *extra], check=True, capture_output=True)
            out = file.with_suffix("")
            import_gguf(file, out, dequantize="f32", overwrite=True)
            yield name, out


def _importance(model: Path, work: Path, tokens: int) -> dict[str, np.ndarray]:
    """Mean squares of what every matrix of the original reads, by llama.cpp's name for it."""
    found: dict[str, np.ndarray] = {}
    with Checkpoint.open(model) as checkpoint:
        calibration: Calibration = calibrate(
            checkpoint, QuantizeOptions(method="gptq", calibration_tokens=tokens)
        )
        gemma = load_gemma(checkpoint, activations="f32")
        files = LayerFiles(work / "importance", {})
        inputs = LayerInputs("original", gemma, calibration.rows, files)
        inputs.begin()
        for layer in range(len(gemma.layers)):
            for _, names in layer_groups(layer, len(gemma.layers)):
                squares = sum(np.square(x).sum(axis=0, dtype=np.float64) for x in inputs.of(layer, names[0]))
                for name in names:
                    found[gguf_name(name)] = np.asarray(squares / calibration.rows.size, np.float32)
            inputs.advance(layer)
        files.remove()
    return found


def _table(names: list[str], found: Comparison) -> str:
    lines = [
        "| file | bits, layers | perplexity | mean KL divergence | beside absmax | same top |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    first = found.models[0].run.figures[0].mean_kld.value
    for name, model in zip(names, found.models, strict=True):
        figures = model.run.figures[0]
        kld = figures.mean_kld
        lines.append(
            f"| {name} | {_bits(model.folder)} | {figures.ppl_quantized.value:.3f} "
            f"| {kld.value:.5f} ± {kld.error:.5f} | {kld.value / first:.3f} "
            f"| {100 * figures.same_top.value:.2f} % |"
        )
    original = found.models[0].run.figures[0].ppl_original.value
    return "\n".join([*lines, "", f"Perplexity of the original: {original:.3f}."])


def _bits(folder: Path) -> str:
    """Of the layers' matrices as the program itself stores them."""
    gguf = folder.with_suffix(".gguf")
    if gguf.is_file():
        with GgufFile(gguf) as file:
            sizes = [(t.data.nbytes, t.shape) for name, t in file.tensors.items() if name.startswith("blk.")]
    else:
        with Checkpoint.open(folder) as checkpoint:
            sizes = [(t.nbytes, t.shape) for name, t in checkpoint.tensors.items() if ".layers." in name]
    matrices = [(size, math.prod(shape)) for size, shape in sizes if len(shape) == 2]
    return f"{8 * sum(size for size, _ in matrices) / sum(count for _, count in matrices):.2f}"


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", type=Path, default=_ROOT / "runtime" / "demo")
    parser.add_argument("--work", type=Path, default=_ROOT / "build" / "quality")
    parser.add_argument("--tokens", type=int, default=65536, help="to calibrate on")
    parser.add_argument("--holes", type=int, default=0)
    parser.add_argument("--without-llama", action="store_true")
    parser.add_argument("--update-docs", action="store_true")
    return parser


if __name__ == "__main__":
    main()

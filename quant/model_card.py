"""README.md of a quantized model: a Hugging Face model card."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from cg import __version__
from cg.quant.plan import QuantizeOptions
from cg.quant.provenance import Source
from cg.quant.report import Totals

__all__ = ["front_matter", "model_card"]

_LICENSE_KEYS = ("license", "license_name", "license_link")
_GEMMA_NOTICE = """\
## Licence

Gemma is provided under and subject to the Gemma Terms of Use found at <https://ai.google.dev/gemma/terms>.
The weights were modified: they were quantized as described above.
"""
_METHODS = {
    "absmax": "round to nearest, scale from the largest magnitude (absmax)",
    "search": "scales searched by squared error (search)",
    "gptq": "errors made up for, layer by layer, on calibration text (GPTQ)",
}
_BITS = {
    "q4": "4-bit integers in blocks of 32 with one float32 scale each (Jlama's Q4, 5 bits per weight)",
    "i8": "8-bit integers in blocks of 32 with one float32 scale each (Jlama's I8, 9 bits per weight)",
}
_MIXED = "; matrices that lose most by it to 8-bit integers (I8)"


def model_card(
    source: Source,
    options: QuantizeOptions,
    totals: Totals,
    checksums: Mapping[str, str],
    license_fields: Mapping[str, str],
) -> str:
    """The text of README.md; ``license_fields`` come from the source's own card."""
    license_fields = dict(license_fields)
    if not license_fields and (source.repo_id or "").startswith("google/codegemma"):
        license_fields["license"] = "gemma"
    kind = options.type.upper()
    keep = ", ".join(f"`{p}`" for p in options.patterns) or "nothing"
    error = totals.relative_error
    lines = [
        "---",
        *_yaml(source, options, license_fields),
        "---",
        "",
        f"# {source.name}, quantized to {kind}",
        "",
        f"{source.repo_id or source.name}" + (f" at revision `{source.revision}`" if source.revision else "")
        + f", quantized by cg {__version__} to {_BITS[options.type]}"
        + ("." if options.bits is None else f"{_MIXED}."),
        "",
        "| | |",
        "|---|---|",
        f"| method | {_METHODS[options.method]} |",
        f"| quantized | {totals.quantized_tensors} of {totals.tensors} tensors; kept: names with {keep} |",
        f"| size of the tensors | {totals.bytes:,} bytes, before {totals.source_bytes:,} |",
        f"| bits per weight | {totals.bits_per_weight:.2f}, before {totals.source_bits_per_weight:.2f} |",
        *([f"| relative error of the quantized tensors | {error:.4f} |"] if error is not None else []),
        f"| runs in Jlama | {_jlama_note(options)} |",
        "",
        "SHA-256 of the source files:",
        "",
        *[f"- `{name}` `{checksum}`" for name, checksum in sorted(checksums.items())],
        "",
    ]  # fmt: skip
    if license_fields.get("license") == "gemma":
        lines.append(_GEMMA_NOTICE)
    return "\n".join(lines)


def front_matter(folder: Path) -> dict[str, str]:
    """The licence lines of a source folder's own README.md, as ``key: value``; empty without one."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return {}
    header = re.match(r"---\r?\n(.*?)\r?\n---", text, re.DOTALL)
    found: dict[str, str] = {}
    for line in header[1].splitlines() if header else ():
        key, colon, value = line.partition(":")
        if colon and key in _LICENSE_KEYS and value.strip():
            found[key] = value.strip()
    return found


def _yaml(source: Source, options: QuantizeOptions, license_fields: Mapping[str, str]) -> list[str]:
    lines = [f"{key}: {value}" for key, value in license_fields.items()]
    if source.repo_id:
        lines += [f"base_model: {source.repo_id}", "base_model_relation: quantized"]
    family = ["codegemma", "gemma"] if "codegemma" in source.name else ["gemma"]
    tags = [*family, "cg", "jlama", "4-bit" if options.type == "q4" else "8-bit"]
    lines += ["pipeline_tag: text-generation", "tags:", *[f"- {tag}" for tag in tags]]
    return lines


def _jlama_note(options: QuantizeOptions) -> str:
    if options.jlama_runnable:
        return "yes: norms and embedding have the source's type"
    return "no: it reads the file, but wants an embedding that is not quantized (`--jlama-runnable`)"

"""What ``cg inspect`` says, as plain values and as text."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cg import __version__
from cg.cli.output import format_size
from cg.runtime import ops
from cg.runtime.config import GemmaConfig
from cg.runtime.errors import CgError
from cg.runtime.formats.summary import DtypeSummary, brief, provenance, summarize
from cg.runtime.optimized import SWITCH, OptimizedScales
from cg.runtime.tensor import Tensor

__all__ = [
    "DTYPE_COLUMNS",
    "TENSOR_COLUMNS",
    "as_json",
    "describe",
    "dtype_rows",
    "machine",
    "machine_lines",
    "model_lines",
    "optimized",
    "tensor_cells",
    "tensor_rows",
]

DTYPE_COLUMNS = ("dtype", "tensors", "parameters", "size", "bits per weight")
TENSOR_COLUMNS = ("tensor", "dtype", "shape", "bytes", "bits per weight")


def describe(
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    files: Sequence[Path],
    config: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """A model's summary as plain values; ``config`` is None for a single file."""
    lines, total = summarize(tensors.values())
    parsed, problem = _config(config)
    return {
        "files": [{"path": str(f), "bytes": f.stat().st_size} for f in files],
        "model_type": None if config is None else config.get("model_type"),
        "config": parsed,
        "config_problem": problem,
        "dtypes": [_numbers(line) for line in lines],
        "total": _numbers(total),
        "provenance": provenance(metadata),
        "metadata": {k: v for k, v in metadata.items() if not k.startswith("cg.")},
    }


def optimized(scales: OptimizedScales) -> dict[str, Any]:
    """The f16 scales beside a model as plain values."""
    return {
        "state": scales.state,
        "file": None if scales.state == "none" else str(scales.file),
        "tensors": len(scales.tensors),
        "bytes": scales.nbytes,
        "warning": scales.warning,
    }


def machine() -> dict[str, Any]:
    """Versions, processors, backends with reasons, instruction sets."""
    from cg.runtime import ops_native

    backends = ops.available_backends()
    native = ops_native.import_problem() is None
    return {
        "version": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processors": os.cpu_count(),
        "backend": next(b.name for b in backends if b.available),
        "isa": ops_native.active_isa() if native else None,
        "isas": [
            {"name": n, "supported": s, "failure": ops_native.isa_failure(n) if s else None}
            for n, s in ops_native.supported_isas()
        ],
        "backends": [asdict(b) for b in backends],
    }


def as_json(
    described: dict[str, Any] | None, tensors: list[dict[str, Any]] | None, machine: dict[str, Any]
) -> dict[str, Any]:
    """One object: ``model`` (null without PATH) and ``machine``."""
    if described is not None and tensors is not None:
        described = {**described, "tensors": tensors}
    return {"model": described, "machine": machine}


def model_lines(described: Mapping[str, Any]) -> list[str]:
    """Files, configuration and origin as text."""
    lines = [f"{_plain(f['path'])}  {format_size(f['bytes'])}" for f in described["files"]]
    config = described["config"]
    if config is not None:
        lines += [
            f"{_plain(str(described['model_type']))}: {config['num_hidden_layers']} layers, "
            f"hidden {config['hidden_size']}, ffn {config['intermediate_size']}, "
            f"{config['num_attention_heads']} heads of {config['head_dim']}, "
            f"{config['num_key_value_heads']} for keys and values",
            f"vocabulary {config['vocab_size']:,}, context {config['max_position_embeddings']}, "
            f"rope theta {config['rope_theta']:g}, norm eps {config['rms_norm_eps']:g}, "
            f"cache {config['kv_bytes_per_token'] / 1024:g} KiB per token",
        ]
    elif described["config_problem"]:
        lines.append(f"not a model that cg can run: {_plain(described['config_problem'])}")
    if (line := _optimized_line(described)) is not None:
        lines.append(line)
    for title in ("provenance", "metadata"):
        lines += [f"{title} {_plain(k)}: {_plain(brief(v))}" for k, v in described[title].items()]
    return lines


def dtype_rows(described: Mapping[str, Any]) -> list[list[str]]:
    """Cells under :data:`DTYPE_COLUMNS`."""
    return [
        [
            d["dtype"],
            str(d["tensors"]),
            f"{d['parameters']:,}",
            format_size(d["bytes"]),
            f"{d['bits_per_weight']:.2f}",
        ]
        for d in (*described["dtypes"], described["total"])
    ]


def tensor_rows(tensors: Iterable[Tensor]) -> list[dict[str, Any]]:
    """One entry per tensor, as plain values."""
    return [
        {
            "name": t.name,
            "dtype": t.dtype.value,
            "shape": list(t.shape),
            "bytes": t.nbytes,
            "bits_per_weight": 8 * t.nbytes / t.size if t.size else 0.0,
        }
        for t in tensors
    ]


def tensor_cells(row: Mapping[str, Any]) -> list[str]:
    """Cells under :data:`TENSOR_COLUMNS`."""
    shape = " x ".join(map(str, row["shape"])) or "scalar"
    return [row["name"], row["dtype"], shape, f"{row['bytes']:,}", f"{row['bits_per_weight']:.2f}"]


def machine_lines(machine: Mapping[str, Any]) -> list[str]:
    """Versions and backends as text; the star marks the active backend."""
    lines = [
        f"cg {machine['version']}, Python {machine['python']}, {machine['system']}, "
        f"{machine['processors']} processors"
    ]
    for b in machine["backends"]:
        mark = "*" if b["name"] == machine["backend"] else " "
        lines.append(f"{mark} {b['name']:<7} {'yes' if b['available'] else 'no ':<3}  {b['reason']}")
    if machine["isa"]:
        isas = machine["isas"]
        usable = ", ".join(i["name"] for i in isas if i["supported"] and not i["failure"])
        lines.append(f"instruction set {machine['isa']}; this build offers {usable} here")
        lines += [f"{i['name']} failed its self-test: {i['failure']}" for i in isas if i["failure"]]
    return lines


def _optimized_line(described: Mapping[str, Any]) -> str | None:
    """Only where there are tensors that ``cg optimize`` is about."""
    found, q4 = described.get("optimized"), [d for d in described["dtypes"] if d["dtype"] == "Q4"]
    if found is None or not q4:
        return None
    if found["state"] == "none":
        return "not optimized; cg optimize can make generating faster"
    if found["state"] == "off":
        return f"optimized scales are switched off by {SWITCH}=0"
    if found["state"] == "fits":
        size = format_size(found["bytes"])
        return f"optimized: f16 scales for {found['tensors']} of {q4[0]['tensors']} Q4 tensors, {size}"
    return _plain(found["warning"])


def _config(raw: Mapping[str, Any] | None) -> tuple[dict[str, Any] | None, str | None]:
    if raw is None:
        return None, None
    try:
        config = GemmaConfig.from_json(raw)
    except CgError as e:
        return None, e.message
    return {**asdict(config), "kv_bytes_per_token": config.kv_bytes_per_token}, None


def _numbers(line: DtypeSummary) -> dict[str, Any]:
    return {**asdict(line), "bits_per_weight": line.bits_per_weight}


def _plain(text: str) -> str:
    """Without control characters, which a file could use to play tricks on a terminal."""
    return text if text.isprintable() else json.dumps(text)

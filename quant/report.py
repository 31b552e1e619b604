"""What a quantization did, tensor by tensor and in total."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cg.quant.distortion import Distortion
from cg.quant.plan import PlannedTensor
from cg.runtime.dtypes import DType

__all__ = ["GroupLoss", "QuantizeResult", "TensorReport", "Totals", "report_tensors", "total"]


@dataclass(frozen=True, slots=True)
class TensorReport:
    """One tensor before and after; bytes include scales."""

    name: str
    shape: tuple[int, ...]
    source_dtype: str
    dtype: str
    source_bytes: int
    bytes: int
    distortion: Distortion | None
    """None for a tensor that was copied."""

    @property
    def parameters(self) -> int:
        """Number of elements."""
        count = 1
        for dimension in self.shape:
            count *= dimension
        return count

    @property
    def bits_per_weight(self) -> float:
        """Bits per element, scales included."""
        return 8 * self.bytes / self.parameters if self.parameters else 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        return {
            "name": self.name,
            "shape": list(self.shape),
            "source_dtype": self.source_dtype,
            "dtype": self.dtype,
            "source_bytes": self.source_bytes,
            "bytes": self.bytes,
            "bits_per_weight": self.bits_per_weight,
            "relative_error": self.distortion.relative_error if self.distortion else None,
            "snr_db": self.distortion.snr_db if self.distortion else None,
        }


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over all tensors; bytes are those of the tensors, without headers."""

    tensors: int
    quantized_tensors: int
    parameters: int
    quantized_parameters: int
    source_bytes: int
    bytes: int
    distortion: Distortion
    """Over the quantized tensors."""

    @property
    def bits_per_weight(self) -> float:
        """Bits per element of the whole model."""
        return 8 * self.bytes / self.parameters if self.parameters else 0.0

    @property
    def source_bits_per_weight(self) -> float:
        """The same before."""
        return 8 * self.source_bytes / self.parameters if self.parameters else 0.0

    @property
    def relative_error(self) -> float | None:
        """Over all quantized tensors together."""
        return self.distortion.relative_error


@dataclass(frozen=True, slots=True)
class GroupLoss:
    """What was measured of matrices that get their type together."""

    tensors: tuple[str, ...]
    parameters: int
    kld: float
    """Mean KL divergence, nats per token, of the original model with these matrices alone as Q4 (absmax)."""
    dtype: DType = DType.Q4
    """The type they got."""

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        return {
            "tensors": list(self.tensors),
            "parameters": self.parameters,
            "kld": self.kld,
            "dtype": self.dtype.value,
        }


@dataclass(frozen=True, slots=True)
class QuantizeResult:
    """What :func:`cg.quant.quantize` did."""

    folder: Path
    tensors: tuple[TensorReport, ...]
    totals: Totals
    file_bytes: int
    """Size of the new safetensors file."""
    source_sha256: Mapping[str, str]
    """By file name."""
    seconds: float
    encoder: str
    """``native`` or ``numpy``."""
    threads: int
    notes: tuple[str, ...]
    """What a user should know: changes to config.json, leftovers that were removed."""
    losses: tuple[GroupLoss, ...] = ()
    """What types were chosen by, if there was a budget of bits."""

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        t = self.totals
        return {
            "folder": str(self.folder),
            "seconds": self.seconds,
            "encoder": self.encoder,
            "threads": self.threads,
            "file_bytes": self.file_bytes,
            "parameters": t.parameters,
            "quantized_parameters": t.quantized_parameters,
            "source_bytes": t.source_bytes,
            "bytes": t.bytes,
            "source_bits_per_weight": t.source_bits_per_weight,
            "bits_per_weight": t.bits_per_weight,
            "relative_error": t.relative_error,
            "snr_db": t.distortion.snr_db,
            "source_sha256": dict(self.source_sha256),
            "notes": list(self.notes),
            "tensors": [tensor.to_json() for tensor in self.tensors],
            "losses": [group.to_json() for group in self.losses],
        }


def report_tensors(
    planned: Sequence[PlannedTensor], distortions: Mapping[str, Distortion]
) -> tuple[TensorReport, ...]:
    """One report per planned tensor."""
    return tuple(
        TensorReport(
            p.source.name,
            p.source.shape,
            p.source.dtype.value,
            p.target.dtype.value,
            p.source.nbytes,
            p.target.data_bytes + p.target.scale_bytes,
            distortions.get(p.source.name, Distortion()) if p.is_quantized else None,
        )
        for p in planned
    )


def total(tensors: Sequence[TensorReport]) -> Totals:
    """Sum up; tensors are added in order, so the result does not depend on threads."""
    quantized = [t for t in tensors if t.distortion is not None]
    return Totals(
        len(tensors),
        len(quantized),
        sum(t.parameters for t in tensors),
        sum(t.parameters for t in quantized),
        sum(t.source_bytes for t in tensors),
        sum(t.bytes for t in tensors),
        sum((t.distortion for t in quantized if t.distortion is not None), Distortion()),
    )

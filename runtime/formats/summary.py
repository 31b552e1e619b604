"""What checkpoints hold, in numbers: for people, not for loading."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cg.runtime.dtypes import DType
from cg.runtime.tensor import Tensor

__all__ = ["DtypeSummary", "brief", "provenance", "summarize"]

_PROVENANCE = "cg."
_BRIEF = 400  # characters


@dataclass(frozen=True, slots=True)
class DtypeSummary:
    """All tensors of one dtype; bytes include scales."""

    dtype: str
    tensors: int
    parameters: int
    bytes: int

    @property
    def bits_per_weight(self) -> float:
        """Bits per element, scales included."""
        return 8 * self.bytes / self.parameters if self.parameters else 0.0


def summarize(tensors: Iterable[Tensor]) -> tuple[tuple[DtypeSummary, ...], DtypeSummary]:
    """One line per dtype in the order of :class:`DType`, and the sum (dtype ``all``)."""
    by_dtype: dict[DType, list[Tensor]] = {}
    for tensor in tensors:
        by_dtype.setdefault(tensor.dtype, []).append(tensor)
    lines = tuple(_line(d.value, by_dtype[d]) for d in DType if d in by_dtype)
    return lines, _line("all", [t for group in by_dtype.values() for t in group])


def provenance(metadata: Mapping[str, str]) -> dict[str, str]:
    """What ``cg quantize`` wrote about a file's origin, without the ``cg.`` in front."""
    return {k.removeprefix(_PROVENANCE): v for k, v in metadata.items() if k.startswith(_PROVENANCE)}


def brief(value: str) -> str:
    """A value of a header for people to read: of a long one, the beginning."""
    return value if len(value) <= _BRIEF else f"{value[:_BRIEF]}... ({len(value):,} characters)"


def _line(name: str, tensors: list[Tensor]) -> DtypeSummary:
    return DtypeSummary(name, len(tensors), sum(t.size for t in tensors), sum(t.nbytes for t in tensors))

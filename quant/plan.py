"""Decide what becomes of every tensor before anything is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from cg.runtime.dtypes import BLOCK_SIZE, DType
from cg.runtime.errors import UsageError
from cg.runtime.formats.checkpoint import Checkpoint
from cg.runtime.formats.safetensors import SafetensorsFile
from cg.runtime.formats.writer import TensorSpec
from cg.runtime.tensor import Tensor

__all__ = [
    "DEFAULT_CALIBRATION_TOKENS",
    "DEFAULT_KEEP",
    "EMBEDDING",
    "JLAMA_KEEP",
    "BlockType",
    "Method",
    "Plan",
    "PlannedTensor",
    "QuantizeOptions",
    "ScaleType",
    "make_plan",
    "spare_bytes",
    "tensors_of",
    "with_types",
]

BlockType = Literal["q4", "i8"]
Method = Literal["absmax", "search", "gptq"]
ScaleType = Literal["f32", "f16"]

DEFAULT_CALIBRATION_TOKENS = 16384

EMBEDDING = ("embed_tokens", "lm_head")
"""What the option ``embed`` is about: names that contain one of these."""

DEFAULT_KEEP = ("norm",)
"""Jlama's own default."""

JLAMA_KEEP = ("norm", "embed_tokens")
"""Jlama runs Gemma only when these are not quantized."""


@dataclass(frozen=True, slots=True)
class QuantizeOptions:
    """What to quantize and how."""

    type: BlockType = "q4"
    keep: tuple[str, ...] = DEFAULT_KEEP
    """Tensors whose name contains one of these strings are copied as they are."""
    jlama_runnable: bool = False
    """Make a folder that Jlama can load and run, not only read: norms and embedding are copied too."""
    allow_nonfinite: bool = False
    """Encode NaN and infinity as Jlama does instead of refusing."""
    overwrite: bool = False
    """Replace an existing model folder."""
    threads: int | None = None
    """Threads that compute; None: as many as there are processors."""
    method: Method = "absmax"
    """How integers and scales are chosen; absmax is Jlama's own, to the bit."""
    scales: ScaleType = "f32"
    """f16: only scales that f16 holds, stored as f32 all the same."""
    embed: BlockType | Literal["keep"] | None = None
    """What becomes of the embedding and the output head; None: as everything else."""
    calibrate: tuple[Path, ...] = ()
    """Files to calibrate on; none: the bundled text."""
    calibration_tokens: int = DEFAULT_CALIBRATION_TOKENS
    """Tokens to calibrate on, at most; 0: ``search`` takes every error to cost the same."""
    bits: float | None = None
    """At most so many bits per quantized weight, scales included: what loses most gets I8 instead of Q4."""

    @property
    def is_calibrated(self) -> bool:
        """Whether a text is run through the model."""
        return self.bits is not None or (self.method != "absmax" and self.calibration_tokens > 0)

    @property
    def patterns(self) -> tuple[str, ...]:
        """All strings that keep a tensor, without repetition."""
        extra = JLAMA_KEEP if self.jlama_runnable else ()
        embedding = EMBEDDING if self.embed == "keep" else ()
        return tuple(dict.fromkeys((*self.keep, *extra, *embedding)))

    def dtype_of(self, name: str) -> DType:
        """The block type of a tensor that is quantized."""
        kind = self.type
        if self.embed in ("q4", "i8") and any(part in name for part in EMBEDDING):
            kind = self.embed
        return DType.Q4 if kind == "q4" else DType.I8

    def check(self) -> None:
        """Refuse options that contradict each other.

        Raises:
            UsageError: they do.
        """
        if "" in self.patterns:
            raise UsageError(
                "an empty keep pattern would keep every tensor", hint="name a part of a tensor's name"
            )
        if self.embed in ("q4", "i8") and any(part in EMBEDDING for part in self.patterns):
            raise UsageError(f"the embedding cannot be kept and be quantized to {self.embed}")
        if self.method == "absmax" and self.scales == "f16":
            raise UsageError(
                "absmax has the scales that Jlama would choose, f16 does not hold them",
                hint="use --method gptq or search",
            )
        self._check_bits()
        if not self.is_calibrated and self.calibrate and self.method == "absmax":
            raise UsageError("absmax is not calibrated", hint="use --method gptq or search")
        if self.method != "absmax" and self.allow_nonfinite:
            raise UsageError(
                "only absmax encodes NaN and infinity, as Jlama does", hint="add --method absmax"
            )
        needed = self.method == "gptq" or self.bits is not None
        if self.calibration_tokens < 0 or (needed and not self.calibration_tokens):
            raise UsageError(
                f"{self.calibration_tokens} tokens to calibrate on", hint="use a few thousand at least"
            )

    def _check_bits(self) -> None:
        if self.bits is None:
            return
        if self.type != "q4":
            raise UsageError("a number of bits mixes q4 and i8, so the type is q4", hint="drop --type i8")
        if not 5 < self.bits < 9:
            raise UsageError(
                f"{self.bits:g} bits per weight", hint="q4 takes 5 and i8 takes 9; choose between them"
            )
        if self.jlama_runnable:
            raise UsageError("Jlama has no kernels for I8 weights", hint="drop --bits or --jlama-runnable")
        if self.allow_nonfinite:
            raise UsageError("a model with NaN or infinity in it cannot be measured", hint="drop --bits")


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """A source tensor, where it lies, and what is written for it."""

    source: Tensor
    begin: int
    """First byte of the source tensor in its file."""
    target: TensorSpec

    @property
    def is_quantized(self) -> bool:
        """Whether the tensor is encoded; otherwise its bytes are copied."""
        return self.target.dtype.is_quantized


Plan = tuple[tuple[SafetensorsFile, tuple[PlannedTensor, ...]], ...]
"""The tensors of every shard."""


def make_plan(checkpoint: Checkpoint, options: QuantizeOptions) -> Plan:
    """The tensors of every shard in the order of their bytes, which is also the order of writing.

    Raises:
        UsageError: the source is quantized already, nothing is left to quantize, or options contradict.
    """
    options.check()
    done = next((t for t in checkpoint.tensors.values() if t.dtype.is_quantized), None)
    if done is not None:
        raise UsageError(
            f"{checkpoint.folder} is quantized already: {done.name} is {done.dtype.value}",
            hint="quantize the original checkpoint",
        )
    plan = tuple((shard, tuple(_plan_shard(shard, options))) for shard in checkpoint.shards)
    if not any(t.is_quantized for _, tensors in plan for t in tensors):
        raise UsageError(
            f"nothing to quantize in {checkpoint.folder}: every tensor is kept",
            hint=f"keep patterns: {', '.join(options.patterns)}" if options.patterns else None,
        )
    return plan


def tensors_of(plan: Plan) -> tuple[PlannedTensor, ...]:
    """The tensors of all shards."""
    return tuple(tensor for _, tensors in plan for tensor in tensors)


def spare_bytes(planned: Sequence[PlannedTensor], bits: float) -> float:
    """How much larger the quantized tensors may become.

    Raises:
        UsageError: they are too large already.
    """
    quantized = [p for p in planned if p.is_quantized]
    parameters = sum(p.source.size for p in quantized)
    taken = sum(p.target.data_bytes + p.target.scale_bytes for p in quantized)
    spare = bits * parameters / 8 - taken
    if spare < 0:
        raise UsageError(
            f"with this embedding the file takes {8 * taken / parameters:.2f} bits per weight at least",
            hint="allow more bits or another --embed",
        )
    return spare


def with_types(plan: Plan, dtypes: Mapping[str, DType]) -> Plan:
    """The same plan with other types for some tensors."""

    def changed(planned: PlannedTensor) -> PlannedTensor:
        dtype = dtypes.get(planned.source.name, planned.target.dtype)
        return replace(planned, target=replace(planned.target, dtype=dtype))

    return tuple((shard, tuple(map(changed, tensors))) for shard, tensors in plan)


def _plan_shard(shard: SafetensorsFile, options: QuantizeOptions) -> Iterator[PlannedTensor]:
    for entry in shard.header.entries:
        tensor = shard.stored[entry.name]
        quantized = _is_matrix(tensor) and not _kept(tensor, options.patterns)
        dtype = options.dtype_of(tensor.name) if quantized else tensor.dtype
        yield PlannedTensor(tensor, entry.begin, TensorSpec(tensor.name, dtype, tensor.shape))


def _is_matrix(tensor: Tensor) -> bool:
    """What Jlama quantizes: matrices of more than one row. Rows must consist of whole blocks."""
    return (
        tensor.dtype.is_float
        and len(tensor.shape) == 2
        and tensor.shape[0] > 1
        and tensor.shape[1] > 0
        and tensor.shape[1] % BLOCK_SIZE == 0
    )


def _kept(tensor: Tensor, patterns: Sequence[str]) -> bool:
    return any(pattern in tensor.name for pattern in patterns)

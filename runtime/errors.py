"""Every error that cg raises on purpose.

::

    CgError                          exit code 1
    ├── UsageError                   2   the request itself makes no sense
    │   ├── PromptError              2   a prompt that the model cannot take
    │   │   └── ContextLengthError   2   ... because it is too long
    │   ├── SamplingError            2   an impossible sampling setting
    │   └── CalibrationOverlapError  2   a text to verify on that the model was calibrated on
    ├── FormatError                  3   a file is malformed (one subclass per cause)
    │   ├── TruncatedFileError, HeaderTooLargeError, InvalidHeaderError, BadOffsetsError,
    │   ├── OverlapError, HoleError, LengthMismatchError, DuplicateNameError, UnknownDtypeError,
    │   ├── MissingScalesError, ScalesShapeError, OrphanScalesError, BlockShapeError,
    │   ├── InvalidIndexError, IndexPathError, MissingShardError
    │   ├── CheckpointError          3   config.json or the set of tensors is wrong
    │   │   └── MissingTensorError   3
    │   └── TokenizerError           3   tokenizer files are missing or wrong
    ├── NonFiniteError               3   NaN or Inf where numbers are needed
    ├── OutputError                  4   the result cannot be written
    │   ├── OutputExistsError        4
    │   └── DiskFullError            4
    ├── HubError                     5   the Hub refused or cannot be reached
    │   ├── GatedModelError, ModelNotFoundError, InvalidTokenError, NetworkError
    ├── BackendError                 6   the wanted backend is not available here
    └── VerificationError            1   a threshold of ``cg verify`` was not met

A message says what is wrong and where; ``hint`` says what to do about it. The library raises, the
command line formats.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "BackendError",
    "BadOffsetsError",
    "BlockShapeError",
    "CalibrationOverlapError",
    "CgError",
    "CheckpointError",
    "ContextLengthError",
    "DiskFullError",
    "DuplicateNameError",
    "FormatError",
    "GatedModelError",
    "HeaderTooLargeError",
    "HoleError",
    "HubError",
    "IndexPathError",
    "InvalidHeaderError",
    "InvalidIndexError",
    "InvalidTokenError",
    "LengthMismatchError",
    "MissingScalesError",
    "MissingShardError",
    "MissingTensorError",
    "ModelNotFoundError",
    "NetworkError",
    "NonFiniteError",
    "OrphanScalesError",
    "OutputError",
    "OutputExistsError",
    "OverlapError",
    "PromptError",
    "SamplingError",
    "ScalesShapeError",
    "TokenizerError",
    "TruncatedFileError",
    "UnknownDtypeError",
    "UsageError",
    "VerificationError",
]


class CgError(Exception):
    """Base of all errors: ``message`` says what is wrong, ``hint`` what to do about it."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(CgError):
    """The request itself makes no sense: contradictory options, a missing file, a bad value."""

    exit_code = 2


class PromptError(UsageError):
    """A prompt or conversation that this model cannot take."""


class ContextLengthError(PromptError):
    """More tokens than the context holds."""


class SamplingError(UsageError):
    """A sampling setting outside its range."""


class CalibrationOverlapError(UsageError):
    """A text to verify on that repeats the text that the model was calibrated on."""


class FormatError(CgError):
    """A file does not follow its format."""

    exit_code = 3


class TruncatedFileError(FormatError):
    """The file ends before the data that its header announces."""


class HeaderTooLargeError(FormatError):
    """The header announces more bytes than the format allows."""


class InvalidHeaderError(FormatError):
    """The header is not the JSON object that the format asks for."""


class BadOffsetsError(FormatError):
    """Data offsets that are negative, reversed, not integers or past the end."""


class OverlapError(FormatError):
    """Two tensors claim the same bytes."""


class HoleError(FormatError):
    """Bytes of the data section that belong to no tensor."""


class LengthMismatchError(FormatError):
    """A tensor's shape times its dtype differs from its number of bytes."""


class DuplicateNameError(FormatError):
    """A tensor name occurs twice."""


class UnknownDtypeError(FormatError):
    """A dtype name that cg does not know."""


class MissingScalesError(FormatError):
    """A quantized tensor without its ``.qb`` companion."""


class ScalesShapeError(FormatError):
    """A ``.qb`` companion whose dtype or shape does not fit its tensor."""


class OrphanScalesError(FormatError):
    """A ``.qb`` companion of nothing, or of a tensor that is not quantized."""


class BlockShapeError(FormatError):
    """A quantized tensor that is not 2-D with a last dimension that is a multiple of 32."""


class InvalidIndexError(FormatError):
    """``model.safetensors.index.json`` is not the JSON object that the format asks for."""


class IndexPathError(FormatError):
    """An index entry that leads out of the checkpoint's folder."""


class MissingShardError(FormatError):
    """A shard that the index names does not exist."""


class CheckpointError(FormatError):
    """A folder whose files do not make a model that cg can run."""


class MissingTensorError(CheckpointError):
    """A tensor that the model needs is absent or has another shape."""


class TokenizerError(FormatError):
    """Tokenizer files that are missing, malformed or lack a token that the model needs."""


class NonFiniteError(CgError):
    """NaN or infinity in a tensor that is to be quantized or in a model's output."""

    exit_code = 3


class OutputError(CgError):
    """A result that cannot be written."""

    exit_code = 4


class OutputExistsError(OutputError):
    """The output is already there and may not be replaced."""


class DiskFullError(OutputError):
    """Not enough room for the output."""


class HubError(CgError):
    """The Hugging Face Hub refused, or failed in a way that has no class of its own."""

    exit_code = 5


class GatedModelError(HubError):
    """The licence of a gated model has not been accepted, or no token was given."""


class ModelNotFoundError(HubError):
    """No such repository, revision or local model."""


class InvalidTokenError(HubError):
    """The Hub does not accept the access token."""


class NetworkError(HubError):
    """The Hub cannot be reached, or the connection broke and could not be resumed."""


class BackendError(CgError):
    """A backend or instruction set that is not available on this machine."""

    exit_code = 6


class VerificationError(CgError):
    """A quantized model that misses a threshold of ``cg verify``."""

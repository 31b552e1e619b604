"""Which files of a repository on the Hub cg needs, with their sizes and hashes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from cg.runtime.errors import HubError, ModelNotFoundError
from cg.runtime.hub.patience import ask
from cg.runtime.hub.registry import HubModel

__all__ = ["Listing", "RemoteFile", "list_files", "select"]

_TIMEOUT = 20.0  # seconds
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_INDEX = "model.safetensors.index.json"
_SHARD = re.compile(r"[\w.-]+-of-\d+\.safetensors", re.ASCII)
_TEXTS = re.compile(r"(README|LICEN[CS]E|NOTICE)(\.\w+)?", re.ASCII | re.IGNORECASE)
_TOKENIZERS = frozenset({"tokenizer.json", "tokenizer.model"})
_NEEDED = _TOKENIZERS | frozenset(
    {
        "config.json",
        "generation_config.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.jinja",
    }
)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file on the Hub: ``size`` in bytes; ``sha256`` if it is a large one, kept outside git (LFS)."""

    name: str
    size: int
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Listing:
    """The files to fetch of a repository at one commit."""

    commit: str
    files: tuple[RemoteFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def list_files(model: HubModel, endpoint: str, token: str | None) -> Listing:
    """Ask the Hub; when it is busy, wait and ask again a few times."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint, token=token or False, library_name="cg")
    info = ask(
        lambda: api.model_info(model.repo_id, revision=model.revision, files_metadata=True, timeout=_TIMEOUT)
    )
    files = {file.rfilename: file for file in info.siblings or ()}
    listing = Listing(
        info.sha or "",
        tuple(
            RemoteFile(name, files[name].size or 0, lfs.sha256 if (lfs := files[name].lfs) else None)
            for name in select(model, files)
        ),
    )
    well_formed = all(file.sha256 is None or _SHA256.fullmatch(file.sha256) for file in listing.files)
    if not well_formed or not _COMMIT.fullmatch(listing.commit):  # both become file names
        raise HubError(f"{endpoint} lists {model} in a way that cg does not understand")
    return listing


def select(model: HubModel, names: Iterable[str]) -> list[str]:
    """The files that cg needs, of all that a repository holds: one format of the weights, not several.

    Raises ModelNotFoundError if config.json, the weights or the tokenizer are not among them.
    """
    held = sorted(names)
    shards = [name for name in held if _SHARD.fullmatch(name)]
    weights = [_INDEX, *shards] if _INDEX in held and shards else ["model.safetensors"]
    missing = [name for name in ("config.json", *weights) if name not in held]
    if not _TOKENIZERS & set(held):
        missing.append("tokenizer.json")
    if missing:
        some = ", ".join(held[:8]) or "nothing"
        raise ModelNotFoundError(
            f"{model} is not a model that cg can use: it has no {', '.join(missing)}, but {some}",
            hint="cg needs config.json, weights in safetensors and a tokenizer",
        )
    return [*weights, *(name for name in held if name in _NEEDED or _TEXTS.fullmatch(name))]

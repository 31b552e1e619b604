"""The models on this machine: listing them, and removing them without touching anything else."""

from __future__ import annotations

import difflib
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cg.runtime.errors import ModelNotFoundError, OutputError, UsageError
from cg.runtime.home import optimized_file
from cg.runtime.hub import hf_cache
from cg.runtime.hub.model_folder import file_size, folder_size, missing_files, model_type, weights_type
from cg.runtime.hub.names import (
    ALIASES,
    DEMO,
    HubModel,
    check_name,
    demo_folder,
    display_name,
    hub_model,
    looks_like_path,
    models_folder,
)

__all__ = ["LocalModel", "find", "list_models", "missing_from_snapshot", "remove", "suggest"]

_QUANTIZED = frozenset({"q4", "i8"})


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model on this machine; ``name`` is what every command takes, ``size`` is in bytes."""

    name: str
    path: Path
    kind: str  # original | quantized | incomplete
    type: str  # q4, i8, bf16, f16, f32; ? if the weights' header is not readable
    size: int
    origin: str  # bundled | hub | local
    repo_id: str | None = None

    @property
    def complete(self) -> bool:
        """Whether every file is there; an interrupted download is not complete."""
        return self.kind != "incomplete"


def list_models(*, incomplete: bool = False) -> list[LocalModel]:
    """The Gemma models on this machine, bundled and local ones first; if asked, unfinished downloads too."""
    demo = demo_folder()
    models = [LocalModel(DEMO, demo, "original", weights_type(demo), folder_size(demo), "bundled")]
    if models_folder().is_dir():
        for folder in sorted(models_folder().iterdir()):
            if folder.is_dir() and not folder.name.startswith("."):
                models.append(_describe(folder.name, folder, "local"))
    models += _hub_models()
    return [model for model in models if incomplete or model.complete]


def find(name: str) -> LocalModel:
    """The entry of :func:`list_models` with this name, Hub id or alias, complete or not."""
    if looks_like_path(name):
        raise UsageError(f"{name} is a path, not a model's name", hint="cg models lists the names")
    wanted = hub_model(name)
    snapshot = None
    if wanted is not None and (commit := hf_cache.find_commit(wanted.repo_id, wanted.revision)) is not None:
        snapshot = hf_cache.snapshot_folder(wanted.repo_id, commit)
    models = list_models(incomplete=True)
    for model in models:
        if model.name == name or model.path == snapshot:
            return model
    if wanted is not None and wanted.revision is None and not hf_cache.refs_by_commit(wanted.repo_id):
        leftover = _leftover(wanted.repo_id)
        if leftover.path.is_dir():
            return leftover
    raise ModelNotFoundError(
        f"there is no model {name!r} on this machine",
        hint=suggest(name, [model.name for model in models]) or "cg models lists what is here",
    )


def remove(name: str) -> int:
    """Delete a local model, or one revision of a downloaded one; the bytes freed.

    Only folders inside :func:`models_folder` and repositories in the Hugging Face cache are deleted; the
    latter by huggingface_hub's own strategy, because revisions can share files.
    """
    if name == DEMO:
        raise UsageError("the bundled model is part of cg and cannot be removed")
    model = find(name)
    folder = model.path.resolve()
    try:
        if model.origin == "hub" and model.repo_id is not None:
            from cg.runtime.hub.hf_delete import delete

            freed = delete(model.repo_id, model.path)
        else:
            freed = _remove_local(models_folder() / check_name(model.name), model.size)
        return freed + _remove_optimized(folder)
    except OSError as error:
        raise OutputError(f"cannot remove {model.path}: {error.strerror or error}") from error


def _remove_local(folder: Path, size: int) -> int:
    if folder.is_symlink():
        folder.unlink()
        return 0
    shutil.rmtree(folder)
    return size


def _remove_optimized(model: Path) -> int:
    """What ``cg optimize`` made for a folder, if that is gone: behind a link it is not."""
    side = optimized_file(model)
    if side is None or model.exists() or not side.is_file():
        return 0
    size = side.stat().st_size
    side.unlink()
    return size


def suggest(name: str, known: Iterable[str] | None = None) -> str:
    """``did you mean ...?`` with the nearest known names (default: all there are); empty if none is near."""
    if known is None:
        known = [DEMO, *ALIASES, *ALIASES.values(), *(model.name for model in list_models())]
    by_lower = {candidate.lower(): candidate for candidate in sorted(set(known)) if candidate != name}
    near = [by_lower[match] for match in difflib.get_close_matches(name.lower(), by_lower, n=2, cutoff=0.7)]
    return f"did you mean {' or '.join(near)}?" if near else ""


def missing_from_snapshot(folder: Path) -> list[str]:
    """What a download has still to bring: the files of a model, and a tokenizer."""
    has_tokenizer = any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model"))
    return missing_files(folder) + ([] if has_tokenizer else ["tokenizer.json"])


def _hub_models() -> Iterator[LocalModel]:
    for repo_id in hf_cache.cached_repos():
        snapshots = hf_cache.refs_by_commit(repo_id)
        known = repo_id in ALIASES.values()
        for commit, refs in snapshots.items():
            folder = hf_cache.snapshot_folder(repo_id, commit)
            if known or model_type(folder) == "gemma":
                revision = None if "main" in refs else refs[0] if refs else commit[:12]
                yield _describe(display_name(HubModel(repo_id, revision)), folder, "hub", repo_id)
        if known and not snapshots:
            yield _leftover(repo_id)


def _leftover(repo_id: str) -> LocalModel:
    """What a download left that was interrupted before its first file was whole."""
    folder = hf_cache.repo_folder(repo_id)
    name = display_name(HubModel(repo_id))
    return LocalModel(name, folder, "incomplete", "?", folder_size(folder), "hub", repo_id)


def _describe(name: str, folder: Path, origin: str, repo_id: str | None = None) -> LocalModel:
    weights = weights_type(folder)
    missing = missing_files(folder) if repo_id is None else missing_from_snapshot(folder)
    kind = "incomplete" if missing else "quantized" if weights in _QUANTIZED else "original"
    size = folder_size(folder)
    if missing and repo_id is not None:
        # The parts of large files: nothing in the snapshot links to them yet.
        size += sum(map(file_size, hf_cache.repo_folder(repo_id).glob("blobs/*.incomplete")))
    return LocalModel(name, folder, kind, weights, size, origin, repo_id)

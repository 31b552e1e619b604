"""From a model's name to its folder. Never touches the network.

Three places hold models: the package itself (``demo``), the Hugging Face cache (what ``cg download``
brings) and ``<home>/models`` (what cg makes). Only the standard library is imported here, so that a
command can resolve a name before anything heavy is loaded. The names of :mod:`cg.runtime.hub.names` and
:mod:`cg.runtime.hub.inventory` that other packages need can be had from here.
"""

from __future__ import annotations

from pathlib import Path

from cg.runtime.errors import ModelNotFoundError
from cg.runtime.hub import hf_cache
from cg.runtime.hub.inventory import (
    LocalModel,
    find,
    list_models,
    missing_from_snapshot,
    remove,
    suggest,
)
from cg.runtime.hub.model_folder import CONFIG
from cg.runtime.hub.names import (
    ALIASES,
    DEMO,
    HubModel,
    check_name,
    demo_folder,
    home,
    hub_model,
    looks_like_path,
    models_folder,
)

__all__ = [
    "ALIASES",
    "DEMO",
    "HubModel",
    "LocalModel",
    "check_name",
    "find",
    "home",
    "hub_model",
    "list_models",
    "models_folder",
    "remove",
    "resolve",
    "snapshot",
    "suggest",
]


def resolve(source: str) -> Path:
    """The folder of a model: a folder path, an alias, a Hub id in the cache, or a local model's name.

    Raises ModelNotFoundError if it is not (completely) on this machine; the hint says how to get it.
    """
    folder = Path(source).expanduser()
    is_path = looks_like_path(source)
    # A bare name that happens to be a folder here, but no model, does not hide a model of that name.
    if source and folder.is_dir() and (is_path or "/" in source or (folder / CONFIG).is_file()):
        return folder
    if source == DEMO:
        return demo_folder()
    if not is_path:
        wanted = hub_model(source)
        if wanted is not None and (folder_here := snapshot(wanted)) is not None:
            return folder_here
        if "/" not in source and (local := models_folder() / check_name(source)).is_dir():
            return local
        if wanted is not None:
            raise _not_downloaded(source, wanted)
    if source and folder.is_dir():
        return folder
    raise _unknown(source, folder, is_path=is_path)


def snapshot(wanted: HubModel) -> Path | None:
    """The folder of a downloaded model; None if it is not here or not complete."""
    commit = hf_cache.find_commit(wanted.repo_id, wanted.revision)
    folder = None if commit is None else hf_cache.snapshot_folder(wanted.repo_id, commit)
    return None if folder is None or missing_from_snapshot(folder) else folder


def _not_downloaded(source: str, wanted: HubModel) -> ModelNotFoundError:
    command = f"cg download {source}"
    commit = hf_cache.find_commit(wanted.repo_id, wanted.revision)
    if commit is not None:
        missing = missing_from_snapshot(hf_cache.snapshot_folder(wanted.repo_id, commit))
        return ModelNotFoundError(
            f"{source} is only partly downloaded; missing: {', '.join(missing)}",
            hint=f"{command} goes on from there",
        )
    others = [model.name for model in list_models() if model.repo_id == wanted.repo_id]
    if others:
        return ModelNotFoundError(
            f"{source} is not on this machine, but another revision is: {', '.join(others)}",
            hint=f"use that name, or {command}",
        )
    near = "" if wanted.repo_id in ALIASES.values() else suggest(source)
    return ModelNotFoundError(f"{source} is not on this machine", hint=f"{near} {command}".strip())


def _unknown(source: str, folder: Path, *, is_path: bool) -> ModelNotFoundError:
    if folder.is_file():
        return ModelNotFoundError(
            f"{source} is a file, not a model's folder", hint=f"give its folder: {folder.parent}"
        )
    if is_path:
        return ModelNotFoundError(f"there is no folder {source}")
    hint = suggest(source) or f"cg models lists what is here; known names: {', '.join(ALIASES)}, {DEMO}"
    return ModelNotFoundError(f"there is no model {source!r}", hint=hint)

"""Names of models: aliases, Hub ids, local models, folders. Never touches the network.

Three places hold models: the package itself (``demo``), the Hugging Face cache (what ``cg download``
brings) and ``<home>/models`` (what cg makes). Only the standard library is imported here, so that a
command can resolve a name before anything heavy is loaded.
"""

from __future__ import annotations

import difflib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from cg.runtime.errors import ModelNotFoundError, OutputError, UsageError
from cg.runtime.hub import hf_cache
from cg.runtime.hub.model_folder import CONFIG, folder_size, missing_files, model_type, weights_type

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

DEMO = "demo"

ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "codegemma-2b": "google/codegemma-2b",
        "codegemma-7b": "google/codegemma-7b",
        "codegemma-7b-it": "google/codegemma-7b-it",
        "codegemma-1.1-2b": "google/codegemma-1.1-2b",
        "codegemma-1.1-7b-it": "google/codegemma-1.1-7b-it",
        "codegemma-2b-jq4": "tjake/codegemma-2b-JQ4",
    }
)

_HUB_ID = re.compile(r"(?!.*(\.\.|--))\w[\w.-]*/\w[\w.-]*(?<!\.git)(?<![.-])", re.ASCII)
_FORBIDDEN = re.compile(r'[/\\:*?"<>|\x00-\x1f]')  # what one file system or another cannot store
_QUANTIZED = frozenset({"q4", "i8"})


@dataclass(frozen=True, slots=True)
class HubModel:
    """A repository on the Hub, at a revision if the name gave one (``org/name@revision``)."""

    repo_id: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.repo_id if self.revision is None else f"{self.repo_id}@{self.revision}"


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


def home() -> Path:
    """cg's own folder: $CG_HOME, or ~/.cache/cg."""
    value = os.environ.get("CG_HOME")
    return Path(value).expanduser() if value else Path.home() / ".cache" / "cg"


def models_folder() -> Path:
    """Where the models that cg makes lie, one folder per name; it may not exist yet."""
    return home() / "models"


def check_name(name: str) -> str:
    """The name itself if it can name a folder in :func:`models_folder`; UsageError otherwise."""
    if not name or name[0] in ".-~" or name.strip() != name or _FORBIDDEN.search(name):
        raise UsageError(
            f"{name!r} is not a model name",
            hint="a name is one folder's name: no path separators, no leading dot or dash",
        )
    return name


def hub_model(source: str) -> HubModel | None:
    """The Hub repository that an alias or ``org/name[@revision]`` stands for; None if it is neither."""
    name, at, revision = source.partition("@")
    repo_id = ALIASES.get(name, name)
    if not _HUB_ID.fullmatch(repo_id):
        return None
    if at and (not revision or not hf_cache.is_plain_revision(revision)):
        raise UsageError(f"{source!r}: not a branch, tag or commit after @", hint="write NAME@REVISION")
    return HubModel(repo_id, revision or None)


def resolve(source: str) -> Path:
    """The folder of a model: a folder path, an alias, a Hub id in the cache, or a local model's name.

    Raises ModelNotFoundError if it is not (completely) on this machine; the hint says how to get it.
    """
    folder = Path(source).expanduser()
    is_path = _looks_like_path(source)
    # A bare name that happens to be a folder here, but no model, does not hide a model of that name.
    if source and folder.is_dir() and (is_path or "/" in source or (folder / CONFIG).is_file()):
        return folder
    if source == DEMO:
        return _demo_folder()
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


def list_models(*, incomplete: bool = False) -> list[LocalModel]:
    """The Gemma models on this machine, bundled and local ones first; if asked, unfinished downloads too."""
    demo = _demo_folder()
    models = [LocalModel(DEMO, demo, "original", weights_type(demo), folder_size(demo), "bundled")]
    if models_folder().is_dir():
        for folder in sorted(models_folder().iterdir()):
            if folder.is_dir() and not folder.name.startswith("."):
                models.append(_describe(folder.name, folder, "local"))
    models += _hub_models()
    return [model for model in models if incomplete or model.complete]


def find(name: str) -> LocalModel:
    """The entry of :func:`list_models` with this name, Hub id or alias, complete or not."""
    if _looks_like_path(name):
        raise UsageError(f"{name} is a path, not a model's name", hint="cg models lists the names")
    models = list_models(incomplete=True)
    wanted = hub_model(name)
    for model in models:
        if name == model.name or (wanted is not None and model.name == _display_name(wanted)):
            return model
    if (
        wanted is not None
        and wanted.revision is None
        and (folder := hf_cache.repo_folder(wanted.repo_id)).is_dir()
    ):
        return LocalModel(
            wanted.repo_id, folder, "incomplete", "?", folder_size(folder), "hub", wanted.repo_id
        )
    raise ModelNotFoundError(
        f"there is no model {name!r} on this machine", hint=suggest(name) or "cg models lists what is here"
    )


def remove(name: str) -> int:
    """Delete a local model, or one revision of a downloaded one; the bytes freed.

    Only folders inside :func:`models_folder` and repositories in the Hugging Face cache are deleted; the
    latter by huggingface_hub's own strategy, because revisions can share files.
    """
    if name == DEMO:
        raise UsageError("the bundled model is part of cg and cannot be removed")
    model = find(name)
    try:
        if model.origin == "hub" and model.repo_id is not None:
            from cg.runtime.hub.hf_delete import delete

            return delete(model.repo_id, model.path)
        return _remove_local(models_folder() / check_name(model.name), model.size)
    except OSError as error:
        raise OutputError(f"cannot remove {model.path}: {error.strerror or error}") from error


def _remove_local(folder: Path, size: int) -> int:
    if folder.is_symlink():
        folder.unlink()
        return 0
    shutil.rmtree(folder)
    return size


def _demo_folder() -> Path:
    return Path(__file__).parent.parent / "demo"


def _looks_like_path(source: str) -> bool:
    """Whether a source can only be a folder's path: ``./x``, ``/x``, ``~/x``, ``C:\\x``, ``a/b/c``."""
    return (
        source.startswith((".", "/", "~"))
        or source.endswith("/")
        or "\\" in source
        or Path(source).is_absolute()
        or source.partition("@")[0].count("/") > 1
    )


def snapshot(wanted: HubModel) -> Path | None:
    """The folder of a downloaded model; None if it is not here or not complete."""
    commit = hf_cache.find_commit(wanted.repo_id, wanted.revision)
    folder = None if commit is None else hf_cache.snapshot_folder(wanted.repo_id, commit)
    return None if folder is None or missing_files(folder) else folder


def _hub_models() -> Iterator[LocalModel]:
    for repo_id in hf_cache.cached_repos():
        snapshots = hf_cache.refs_by_commit(repo_id)
        known = repo_id in ALIASES.values()
        for commit, refs in snapshots.items():
            folder = hf_cache.snapshot_folder(repo_id, commit)
            if known or model_type(folder) == "gemma":
                revision = None if "main" in refs else refs[0] if refs else commit[:12]
                yield _describe(_display_name(HubModel(repo_id, revision)), folder, "hub", repo_id)
        if known and not snapshots:  # interrupted before the first file was whole
            folder = hf_cache.repo_folder(repo_id)
            name = _display_name(HubModel(repo_id))
            yield LocalModel(name, folder, "incomplete", "?", folder_size(folder), "hub", repo_id)


def _describe(name: str, folder: Path, origin: str, repo_id: str | None = None) -> LocalModel:
    weights = weights_type(folder)
    kind = "incomplete" if missing_files(folder) else "quantized" if weights in _QUANTIZED else "original"
    return LocalModel(name, folder, kind, weights, folder_size(folder), origin, repo_id)


def _display_name(model: HubModel) -> str:
    """The alias if there is one, else the id; with the revision unless it is the main branch."""
    name = next((alias for alias, repo_id in ALIASES.items() if repo_id == model.repo_id), model.repo_id)
    return name if model.revision in (None, "main") else f"{name}@{model.revision}"


def _not_downloaded(source: str, wanted: HubModel) -> ModelNotFoundError:
    command = f"cg download {source}"
    commit = hf_cache.find_commit(wanted.repo_id, wanted.revision)
    if commit is not None:
        missing = missing_files(hf_cache.snapshot_folder(wanted.repo_id, commit))
        return ModelNotFoundError(
            f"{source} is only partly downloaded; missing: {', '.join(missing)}",
            hint=f"{command} goes on from there",
        )
    others = [m.name for m in _hub_models() if m.repo_id == wanted.repo_id and m.complete]
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


def suggest(name: str) -> str:
    """``did you mean ...?`` with the nearest known names; empty if none is near."""
    known = {DEMO, *ALIASES, *ALIASES.values(), *(model.name for model in list_models())}
    by_lower = {candidate.lower(): candidate for candidate in sorted(known)}
    near = [by_lower[match] for match in difflib.get_close_matches(name.lower(), by_lower, n=2, cutoff=0.7)]
    return f"did you mean {' or '.join(near)}?" if near else ""

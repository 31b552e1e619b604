"""Names of models and the places that hold them: aliases, Hub ids, folders. Only the standard library."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from cg.runtime.errors import UsageError
from cg.runtime.home import home
from cg.runtime.hub import hf_cache

__all__ = [
    "ALIASES",
    "DEMO",
    "HubModel",
    "check_name",
    "demo_folder",
    "display_name",
    "home",
    "hub_model",
    "looks_like_path",
    "models_folder",
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


@dataclass(frozen=True, slots=True)
class HubModel:
    """A repository on the Hub, at a revision if the name gave one (``org/name@revision``)."""

    repo_id: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.repo_id if self.revision is None else f"{self.repo_id}@{self.revision}"


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


def display_name(model: HubModel) -> str:
    """The alias if there is one, else the id; with the revision unless it is the main branch."""
    name = next((alias for alias, repo_id in ALIASES.items() if repo_id == model.repo_id), model.repo_id)
    return name if model.revision in (None, "main") else f"{name}@{model.revision}"


def demo_folder() -> Path:
    """The folder of the bundled model."""
    return Path(__file__).parent.parent / "demo"


def looks_like_path(source: str) -> bool:
    """Whether a source can only be a folder's path: ``./x``, ``/x``, ``~/x``, ``C:\\x``, ``a/b/c``."""
    return (
        source.startswith((".", "/", "~"))
        or source.endswith("/")
        or "\\" in source
        or Path(source).is_absolute()
        or source.partition("@")[0].count("/") > 1
    )

"""Names to folders, without a network: aliases, Hub ids in the cache, local models, paths."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cg.runtime.errors import ModelNotFoundError, UsageError
from cg.runtime.hub import hf_cache, registry

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "89abcdef0123456789abcdef0123456789abcdef"


def write_model(folder: Path, *, dtype: str = "BF16", shards: int = 1, model_type: str = "gemma") -> Path:
    """A folder that looks like a model: config.json, and one 2-D tensor in each file of weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    (folder / "tokenizer.json").write_text("{}")
    names = (
        [f"model-{i}-of-{shards}.safetensors" for i in range(shards)] if shards > 1 else ["model.safetensors"]
    )
    for i, name in enumerate(names):
        tensors = {f"w{i}": {"dtype": dtype, "shape": [1, 32], "data_offsets": [0, 0]}}
        if dtype in ("Q4", "I8"):
            tensors[f"w{i}.qb"] = {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 4]}
        header = json.dumps(tensors).encode()
        (folder / name).write_bytes(len(header).to_bytes(8, "little") + header)
    if shards > 1:
        weight_map = {f"w{i}": name for i, name in enumerate(names)}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def cache_model(repo_id: str, commit: str = COMMIT, ref: str | None = "main", **settings: object) -> Path:
    """A model in the Hugging Face cache: snapshot files are links to blobs, as the client makes them."""
    folder = write_model(hf_cache.snapshot_folder(repo_id, commit), **settings)  # type: ignore[arg-type]
    blobs = hf_cache.repo_folder(repo_id) / "blobs"
    blobs.mkdir(exist_ok=True)
    for file in list(folder.iterdir()):
        blob = blobs / f"{commit[:4]}-{file.name}"
        file.replace(blob)
        file.symlink_to(blob)
    if ref is not None:
        path = hf_cache.repo_folder(repo_id) / "refs" / ref
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(commit)
    return folder


def test_the_bundled_model_is_always_there(demo: Path) -> None:
    assert registry.resolve("demo").samefile(demo)


@pytest.mark.parametrize("alias", sorted(registry.ALIASES))
def test_alias_and_hub_id_lead_to_the_snapshot(alias: str) -> None:
    folder = cache_model(registry.ALIASES[alias])
    assert registry.resolve(alias) == folder
    assert registry.resolve(registry.ALIASES[alias]) == folder
    assert registry.resolve(f"{alias}@main") == folder


def test_alias_that_is_not_here_says_how_to_get_it() -> None:
    with pytest.raises(ModelNotFoundError, match="codegemma-7b is not on this machine") as caught:
        registry.resolve("codegemma-7b")
    assert caught.value.hint == "cg download codegemma-7b"


def test_near_misses_are_suggested() -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        registry.resolve("codegema-2b")
    assert "did you mean codegemma-2b" in str(caught.value.hint)
    with pytest.raises(ModelNotFoundError) as caught:
        registry.resolve("google/CodeGemma2b")
    assert "google/codegemma-2b" in str(caught.value.hint)
    assert "cg download google/CodeGemma2b" in str(caught.value.hint)


def test_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(ModelNotFoundError, match="no model 'llama'") as caught:
        registry.resolve("llama")
    assert "codegemma-7b-it" in str(caught.value.hint)


def test_revisions(tmp_path: Path) -> None:
    folder = cache_model("google/codegemma-2b", COMMIT, "main")
    older = cache_model("google/codegemma-2b", OTHER, "refs/pr/1")
    assert registry.resolve("codegemma-2b") == folder
    assert registry.resolve("codegemma-2b@refs/pr/1") == older
    assert registry.resolve(f"codegemma-2b@{OTHER}") == older
    assert registry.resolve(f"codegemma-2b@{OTHER[:8]}") == older
    with pytest.raises(ModelNotFoundError):
        registry.resolve("codegemma-2b@v9")


def test_another_revision_is_named_not_used() -> None:
    cache_model("google/codegemma-2b", OTHER, "v1")
    with pytest.raises(ModelNotFoundError, match="another revision is: codegemma-2b@v1"):
        registry.resolve("codegemma-2b")


@pytest.mark.parametrize("revision", ["../main", "/etc/passwd", "a//b", "..", "a\\b"])
def test_revision_that_would_leave_the_cache_is_refused(revision: str) -> None:
    cache_model("google/codegemma-2b")
    with pytest.raises((UsageError, ModelNotFoundError)):
        registry.resolve(f"google/codegemma-2b@{revision}")


def test_ref_that_names_no_commit_counts_as_absent() -> None:
    cache_model("google/codegemma-2b")
    (hf_cache.repo_folder("google/codegemma-2b") / "refs" / "main").write_text("../../../../etc")
    with pytest.raises(ModelNotFoundError):
        registry.resolve("codegemma-2b")


@pytest.mark.parametrize("name", ["config.json", "model-1-of-3.safetensors", "tokenizer.json"])
def test_incomplete_snapshot_does_not_count(name: str) -> None:
    folder = cache_model("google/codegemma-7b", shards=3)
    assert registry.resolve("codegemma-7b") == folder
    (folder / name).resolve().unlink()  # the blob: the link dangles
    with pytest.raises(ModelNotFoundError, match=f"partly downloaded; missing: {name}") as caught:
        registry.resolve("codegemma-7b")
    assert caught.value.hint == "cg download codegemma-7b goes on from there"


def test_index_that_leaves_the_folder_is_incomplete(tmp_path: Path) -> None:
    folder = cache_model("google/codegemma-7b", shards=2)
    (folder / "model.safetensors.index.json").unlink()
    outside = tmp_path / "x.safetensors"
    outside.touch()
    weight_map = {"a": str(outside), "b": "../x"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ModelNotFoundError, match="partly downloaded"):
        registry.resolve("codegemma-7b")


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({"HF_HUB_CACHE": "{tmp}/a"}, "a"),
        ({"HUGGINGFACE_HUB_CACHE": "{tmp}/b"}, "b"),
        ({"HF_HOME": "{tmp}/c"}, "c/hub"),
        ({"XDG_CACHE_HOME": "{tmp}/d"}, "d/huggingface/hub"),
        ({}, "home/.cache/huggingface/hub"),
        ({"HF_HUB_CACHE": "{tmp}/a", "HF_HOME": "{tmp}/c"}, "a"),
        ({"HF_HUB_CACHE": "$HOME/e"}, "home/e"),
        ({"HF_HOME": "~/f"}, "home/f/hub"),
    ],
)
def test_cache_folder_follows_the_clients_variables(
    variables: dict[str, str], place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    for name, value in variables.items():
        monkeypatch.setenv(name, value.replace("{tmp}", str(tmp_path)))
    assert hf_cache.hub_cache() == tmp_path / place
    # The oracle: the client's own idea, in a fresh process because it looks when it is imported.
    code = "from huggingface_hub import constants as c; print(c.HF_HUB_CACHE)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert Path(told.strip()) == tmp_path / place


def test_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CG_HOME", str(tmp_path))
    assert registry.models_folder() == tmp_path / "models"
    monkeypatch.delenv("CG_HOME")
    assert registry.home() == Path.home() / ".cache" / "cg"


def test_local_model_by_name() -> None:
    folder = write_model(registry.models_folder() / "mine-q4", dtype="Q4")
    assert registry.resolve("mine-q4") == folder


def test_folder_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_model(tmp_path / "google" / "codegemma-2b")
    cache_model("google/codegemma-2b")
    monkeypatch.chdir(tmp_path)
    assert registry.resolve(str(folder)) == folder
    assert registry.resolve("google/codegemma-2b") == Path("google/codegemma-2b")  # a path comes first
    assert registry.resolve("./google") == Path("google")


def test_bare_folder_hides_a_name_only_if_it_is_a_model(
    tmp_path: Path, demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    assert registry.resolve("demo").samefile(demo)
    write_model(tmp_path / "demo")
    assert registry.resolve("demo") == Path("demo")
    (tmp_path / "unknown").mkdir()
    assert registry.resolve("unknown") == Path("unknown")


@pytest.mark.parametrize("source", ["./x", "../x", "/no/such/folder", "~/x", "a/b/c", "x/", "a\\b"])
def test_missing_path(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFoundError, match="there is no folder"):
        registry.resolve(source)


def test_file_instead_of_folder(demo: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="is a file") as caught:
        registry.resolve(str(demo / "model.safetensors"))
    assert str(demo) in str(caught.value.hint)


@pytest.mark.parametrize("name", ["", " x", "a:b", "a\0b", "-x", "a\nb", "a*"])
def test_names_that_are_no_names(name: str) -> None:
    with pytest.raises(UsageError):
        registry.resolve(name)


@pytest.mark.parametrize("name", ["../x", "a/b", "a\\b", ".hidden", "-rf", "", "..", "~", "C:"])
def test_check_name_refuses_what_could_leave_the_folder(name: str) -> None:
    with pytest.raises(UsageError):
        registry.check_name(name)


@pytest.mark.parametrize(
    "source", ["a/b--c", "a--b/c", "a/..", "a/b.git", "a/b-", "a/b/c", "é/b", "a/b c", "a"]
)
def test_not_a_hub_id(source: str) -> None:
    assert registry.hub_model(source) is None


def test_resolving_imports_nothing_heavy() -> None:
    code = (
        "import sys; from cg.runtime.hub import registry; registry.resolve('demo'); registry.list_models()\n"
        "print([m for m in ('numpy', 'huggingface_hub', 'tokenizers', 'torch', 'rich') if m in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"

"""What is on this machine, and removing it without touching anything else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cg.runtime.errors import ModelNotFoundError, UsageError
from cg.runtime.hub import hf_cache, registry

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "89abcdef0123456789abcdef0123456789abcdef"


def write_local(name: str, dtype: str) -> Path:
    folder = registry.models_folder() / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "gemma"}')
    tensors = {"w": {"dtype": dtype, "shape": [1, 32]}, "norm": {"dtype": "BF16", "shape": [32]}}
    if dtype in ("Q4", "I8"):
        tensors["w.qb"] = {"dtype": "F32", "shape": [1, 1]}
    header = json.dumps(tensors).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    return folder


def write_cached(repo_id: str, commit: str, ref: str | None, shared: bytes = b"{}") -> Path:
    """A snapshot whose tokenizer.json is the same blob in every revision that has the same ``shared``."""
    repo = hf_cache.repo_folder(repo_id)
    snapshot = hf_cache.snapshot_folder(repo_id, commit)
    header = json.dumps({"w": {"dtype": "F16", "shape": [1, 32], "commit": commit}}).encode()
    files = {
        "config.json": (f"c{commit}", b'{"model_type": "gemma"}'),
        "model.safetensors": (f"w{commit}", len(header).to_bytes(8, "little") + header),
        "tokenizer.json": (f"t{len(shared)}", shared),
    }
    (repo / "blobs").mkdir(parents=True, exist_ok=True)
    snapshot.mkdir(parents=True)
    for name, (etag, data) in files.items():
        (repo / "blobs" / etag).write_bytes(data)
        (snapshot / name).symlink_to(Path("../../blobs") / etag)
    if ref is not None:
        (repo / "refs").mkdir(exist_ok=True)
        (repo / "refs" / ref).write_text(commit)
    return snapshot


def names(**settings: bool) -> list[str]:
    return [model.name for model in registry.list_models(**settings)]


def test_the_bundled_model_comes_first(demo: Path) -> None:
    (model,) = registry.list_models()
    assert (model.name, model.kind, model.type, model.origin) == ("demo", "original", "bf16", "bundled")
    assert model.path.samefile(demo)
    assert model.size == sum(f.stat().st_size for f in demo.rglob("*") if f.is_file())


@pytest.mark.parametrize(
    ("dtype", "kind", "label"),
    [("Q4", "quantized", "q4"), ("I8", "quantized", "i8"), ("F32", "original", "f32")],
)
def test_local_models_have_kind_and_type(dtype: str, kind: str, label: str) -> None:
    write_local("mine", dtype)
    model = registry.find("mine")
    assert (model.kind, model.type, model.origin, model.repo_id) == (kind, label, "local", None)


def test_golden_checkpoints_have_their_types(golden: Path) -> None:
    models = registry.models_folder()
    models.mkdir(parents=True)
    for name in ("gemma-mqa", "gemma-mqa-JQ4"):
        (models / name).symlink_to(golden / name)
    assert {m.name: m.type for m in registry.list_models()[1:]} == {
        "gemma-mqa": "bf16",
        "gemma-mqa-JQ4": "q4",
    }


def test_hub_models_by_alias_and_revision() -> None:
    write_cached("google/codegemma-2b", COMMIT, "main")
    write_cached("google/codegemma-2b", OTHER, "v1")
    write_cached("someone/gemma-finetune", COMMIT, None)
    found = registry.list_models()[1:]
    assert [m.name for m in found] == [
        "codegemma-2b",
        "codegemma-2b@v1",
        f"someone/gemma-finetune@{COMMIT[:12]}",
    ]
    for model in found:  # every name that is listed can be used
        assert registry.resolve(model.name) == model.path
        assert registry.find(model.name) == model
    assert (
        registry.find(f"codegemma-2b@{OTHER}")
        == registry.find(f"google/codegemma-2b@{OTHER[:7]}")
        == found[1]
    )


def test_models_of_other_programs_are_left_out() -> None:
    snapshot = write_cached("org/bert", COMMIT, "main")
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").write_text('{"model_type": "bert"}')
    assert names(incomplete=True) == ["demo"]
    with pytest.raises(ModelNotFoundError):
        registry.remove("org/bert")
    assert snapshot.is_dir()


def test_unfinished_download_is_listed_only_on_request() -> None:
    snapshot = write_cached("google/codegemma-2b", COMMIT, "main")
    (snapshot / "model.safetensors").unlink()
    blobs = hf_cache.repo_folder("google/codegemma-7b") / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "x.incomplete").write_bytes(bytes(1000))
    assert names() == ["demo"]
    found = registry.list_models(incomplete=True)[1:]
    assert [(m.name, m.kind) for m in found] == [
        ("codegemma-2b", "incomplete"),
        ("codegemma-7b", "incomplete"),
    ]
    assert found[1].size == 1000


def test_damaged_headers_do_not_stop_the_list() -> None:
    for i, data in enumerate(
        [b"", b"\xff" * 8, (10).to_bytes(8, "little") + b"not json!!", b"\2" + bytes(7) + b"[]"]
    ):
        folder = write_local(f"m{i}", "F16")
        (folder / "model.safetensors").write_bytes(data)
    (registry.models_folder() / "m0" / "config.json").write_bytes(b"\xff\xfe{")
    assert {m.type for m in registry.list_models()[1:]} == {"?"}


def test_remove_local() -> None:
    folder = write_local("mine", "Q4")
    keep = write_local("mine2", "Q4")
    size = registry.find("mine").size
    assert registry.remove("mine") == size
    assert not folder.exists()
    assert keep.is_dir()


def test_remove_a_link_leaves_its_target(tmp_path: Path) -> None:
    target = write_local("target", "Q4").rename(tmp_path / "elsewhere")
    link = registry.models_folder() / "mine"
    link.symlink_to(target)
    assert registry.remove("mine") == 0
    assert not link.is_symlink()
    assert (target / "model.safetensors").is_file()


def test_remove_one_revision_keeps_shared_files() -> None:
    main = write_cached("google/codegemma-2b", COMMIT, "main")
    older = write_cached("google/codegemma-2b", OTHER, "v1")
    freed = registry.remove("codegemma-2b@v1")
    assert freed == (hf_cache.repo_folder("google/codegemma-2b") / "blobs" / f"w{COMMIT}").stat().st_size + 23
    assert not older.exists()
    assert (main / "tokenizer.json").read_bytes() == b"{}"
    assert names() == ["demo", "codegemma-2b"]


def test_remove_the_last_revision_removes_the_repository() -> None:
    write_cached("google/codegemma-2b", COMMIT, "main")
    other = write_cached("google/codegemma-7b", OTHER, "main")
    repo = hf_cache.repo_folder("google/codegemma-2b")
    (repo / "blobs" / "x.incomplete").write_bytes(bytes(1000))
    assert registry.remove("google/codegemma-2b") > 0  # its id instead of its alias
    assert not repo.exists()
    assert other.is_dir()


def test_remove_what_an_interrupted_download_left() -> None:
    for repo_id in ("google/codegemma-7b", "someone/else"):
        blobs = hf_cache.repo_folder(repo_id) / "blobs"
        blobs.mkdir(parents=True)
        (blobs / "x.incomplete").write_bytes(bytes(1000))
        assert registry.remove(repo_id) == 1000
        assert not blobs.parent.exists()


def test_the_bundled_model_stays(demo: Path) -> None:
    with pytest.raises(UsageError, match="bundled"):
        registry.remove("demo")
    assert (demo / "model.safetensors").is_file()


@pytest.mark.parametrize(
    "name", ["../outside", "./outside", "/", "..", ".", "models/../../outside", "a\\b", "~"]
)
def test_paths_are_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = registry.home() / "outside"
    outside.mkdir(parents=True)
    monkeypatch.chdir(registry.home())
    with pytest.raises((UsageError, ModelNotFoundError)):
        registry.remove(name)
    assert outside.is_dir()


def test_folder_in_the_working_directory_is_never_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "codegemma-2b"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    with pytest.raises(ModelNotFoundError):
        registry.remove("codegemma-2b")
    assert folder.is_dir()


def test_remove_unknown_suggests() -> None:
    write_local("mine-q4", "Q4")
    with pytest.raises(ModelNotFoundError) as caught:
        registry.remove("mine-Q4x")
    assert "mine-q4" in str(caught.value.hint)
    with pytest.raises(ModelNotFoundError) as caught:
        registry.remove("codegemma-7b")
    assert caught.value.hint == "cg models lists what is here"

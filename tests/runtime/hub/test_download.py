"""Downloads with the real client from a local Hub: what arrives, with which token, what is refused."""

from __future__ import annotations

import json
import traceback
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hub_server import GOOD_TOKEN, OTHER_TOKEN, Repo, assert_whole, model_files

from cg.runtime.errors import (
    CgError,
    GatedModelError,
    HubError,
    InvalidTokenError,
    ModelNotFoundError,
    UsageError,
)
from cg.runtime.hub import hf_cache, registry
from cg.runtime.hub.download import DownloadProgress, download

WEIGHTS = "model.safetensors"


def leftovers() -> list[str]:
    return [path.name for path in hf_cache.hub_cache().rglob("*.incomplete")]


# --- what arrives ---


def test_only_the_needed_files_arrive(hub: Any) -> None:
    extra = {
        "codegemma-2b.gguf": b"G" * 1000,
        "pytorch_model.bin": b"P" * 1000,
        "flax_model.msgpack": b"F",
        "consolidated.safetensors": b"C" * 1000,
        "images/plot.png": b"PNG",
        ".gitattributes": b"*",
        "tokenizer.model": b"sentencepiece",
        "LICENSE": b"terms",
        "chat_template.jinja": b"{{ messages }}",
    }
    repo = hub.add("google/codegemma-2b", Repo({**model_files(), **extra}))
    folder = download("codegemma-2b")
    assert sorted(f.name for f in folder.iterdir()) == [
        "LICENSE",
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        WEIGHTS,
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
    ]
    assert_whole(folder, repo)
    assert folder.name == repo.commit
    assert not leftovers()
    assert registry.resolve("codegemma-2b") == folder


def test_shards_win_over_a_single_file_of_the_same_weights(hub: Any) -> None:
    repo = hub.add("o/m", Repo({**model_files(shards=3), WEIGHTS: b"the same once more"}))
    folder = download("o/m")
    names = {f.name for f in folder.iterdir()}
    assert WEIGHTS not in names
    assert {"model.safetensors.index.json", "model-00001-of-00003.safetensors"} <= names
    assert_whole(folder, repo)


def test_the_client_finds_what_was_downloaded(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache is laid out so that huggingface_hub itself takes it as its own."""
    from huggingface_hub import scan_cache_dir, snapshot_download

    hub.add("o/m", Repo(model_files(shards=2)))
    folder = download("o/m")
    (repo,) = scan_cache_dir(hf_cache.hub_cache()).repos
    (revision,) = repo.revisions
    assert (repo.repo_id, set(revision.refs)) == ("o/m", {"main"})
    assert len(revision.files) == len(list(folder.iterdir()))
    offline = snapshot_download("o/m", cache_dir=hf_cache.hub_cache(), local_files_only=True)
    assert Path(offline) == folder


def test_second_download_fetches_nothing(hub: Any) -> None:
    hub.add("o/m", Repo(model_files()))
    folder = download("o/m")
    hub.requests.clear()
    assert download("o/m") == folder
    assert not hub.gets("/resolve/")
    hub.requests.clear()
    assert download(f"o/m@{folder.name}") == folder
    assert not hub.requests  # a commit never changes: not even asked


def test_new_commit_fetches_only_what_changed(hub: Any) -> None:
    repo = hub.add("o/m", Repo(model_files(shards=2)))
    first = download("o/m")
    repo.files["model-00002-of-00002.safetensors"] = b"new weights" * 100
    hub.requests.clear()
    second = download("o/m")
    assert second != first
    assert [seen.path for seen in hub.gets("", "store")] == ["/o/m/model-00002-of-00002.safetensors"]
    assert_whole(second, repo)


def test_revision_by_option_and_by_name(hub: Any) -> None:
    repo = hub.add("o/m", Repo(model_files(), refs=("main", "v1.1", "refs/pr/2")))
    assert download("o/m", revision="v1.1").name == repo.commit
    assert download("o/m@refs/pr/2").name == repo.commit
    assert registry.resolve("o/m@v1.1") == registry.resolve("o/m@refs/pr/2")
    with pytest.raises(ModelNotFoundError):
        registry.resolve("o/m")  # main was not asked for
    with pytest.raises(UsageError, match="two revisions"):
        download("o/m@v1.1", revision="main")
    with pytest.raises(UsageError):
        download("o/m", revision="../x")


def test_demo_needs_no_network(demo: Path) -> None:
    assert download("demo").samefile(demo)


def test_progress_adds_up(hub: Any, capfd: pytest.CaptureFixture[str]) -> None:
    repo = hub.add("o/m", Repo(model_files(shards=3)))
    seen: list[DownloadProgress] = []
    download("o/m", progress=seen.append)
    total = sum(len(data) for data in repo.files.values())
    assert seen[-1].done == seen[-1].total == total
    assert all(a.done <= b.done for a, b in pairwise(seen))
    assert {s.file for s in seen} >= {f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)}
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")  # a library does not print


def test_callback_that_raises_stops_the_download(hub: Any) -> None:
    hub.add("o/m", Repo(model_files()))

    def refuse(_: DownloadProgress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download("o/m", progress=refuse)


# --- tokens ---


def test_token_goes_to_the_hub_and_not_to_the_store(hub: Any) -> None:
    hub.add("google/codegemma-2b", Repo(model_files(), gated=True))
    download("codegemma-2b", token=GOOD_TOKEN)
    assert {seen.headers["authorization"] for seen in hub.gets("/resolve/")} == {f"Bearer {GOOD_TOKEN}"}
    stored = hub.gets("", "store")
    assert stored
    assert not any("authorization" in seen.headers for seen in stored)


def test_token_from_the_environment_and_the_login(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    hub.add("o/a", Repo(model_files(), gated=True))
    hub.add("o/b", Repo(model_files(rows=100), gated=True))
    Path(constants.HF_TOKEN_PATH).parent.mkdir(parents=True)
    Path(constants.HF_TOKEN_PATH).write_text(GOOD_TOKEN + "\n")
    download("o/a")
    monkeypatch.setenv("HF_TOKEN", OTHER_TOKEN)
    with pytest.raises(GatedModelError):
        download("o/b")
    download("o/b", token=GOOD_TOKEN)


def test_gated_without_token(hub: Any) -> None:
    hub.add("google/codegemma-2b", Repo(model_files(), gated=True))
    with pytest.raises(GatedModelError, match="gated") as caught:
        download("codegemma-2b")
    for part in (f"{hub.url}/google/codegemma-2b", "hf auth login", "HF_TOKEN", "--token"):
        assert part in str(caught.value.hint)


def test_gated_with_the_wrong_account(hub: Any) -> None:
    hub.add("google/codegemma-2b", Repo(model_files(), gated=True))
    with pytest.raises(GatedModelError, match="not been granted") as caught:
        download("codegemma-2b", token=OTHER_TOKEN)
    assert f"accept the licence at {hub.url}/google/codegemma-2b" in str(caught.value.hint)


def test_token_that_the_hub_does_not_know(hub: Any) -> None:
    hub.add("o/m", Repo(model_files()))
    token = "hf_" + "x" * 34
    with pytest.raises(InvalidTokenError, match="does not accept") as caught:
        download("o/m", token=token)
    assert "/settings/tokens" in str(caught.value.hint)
    assert token not in "".join(traceback.format_exception(caught.value))


def test_token_without_the_right(hub: Any) -> None:
    hub.add("o/m", Repo(model_files()))
    hub.fail("/resolve/", "status", status=403, times=99)
    with pytest.raises(InvalidTokenError, match="may not read o/m: made to fail"):
        download("o/m", token=GOOD_TOKEN)


@pytest.mark.parametrize(
    "token", ["hf_secret\n", "hf secret", "", "hf_sécret", "hf_secret\r\nX-Evil: 1", "\0"]
)
def test_malformed_token_never_leaves(hub: Any, token: str) -> None:
    hub.add("o/m", Repo(model_files()))
    with pytest.raises(InvalidTokenError) as caught:
        download("o/m", token=token)
    told = "".join(traceback.format_exception(caught.value)) + str(caught.value.hint)
    assert "hf_s" not in told
    assert "secret" not in told
    assert not hub.gets("/api/models")


# --- what the Hub refuses ---


@pytest.mark.parametrize("token", [None, GOOD_TOKEN])
def test_missing_repository(hub: Any, token: str | None) -> None:
    with pytest.raises(ModelNotFoundError, match="has no model nobody/nothing") as caught:
        download("nobody/nothing", token=token)
    assert ("log in" in str(caught.value.hint)) == (token is None)


def test_missing_revision(hub: Any) -> None:
    hub.add("o/m", Repo(model_files()))
    with pytest.raises(ModelNotFoundError, match=r"o/m has no revision 'v9'"):
        download("o/m", revision="v9")


@pytest.mark.parametrize("name", ["config.json", WEIGHTS, "tokenizer.json"])
def test_repository_that_is_no_model(hub: Any, name: str) -> None:
    files = model_files()
    del files[name]
    hub.add("o/m", Repo({**files, "weights.gguf": b"G"}))
    with pytest.raises(ModelNotFoundError, match=f"has no {name}, but .*weights.gguf"):
        download("o/m")
    assert not hub.gets("/resolve/")


@pytest.mark.parametrize("config", [b'{"model_type": "llama"}', b"{}", b"not json", b"[1]"])
def test_other_models_are_refused_before_their_weights_are_fetched(hub: Any, config: bytes) -> None:
    hub.add("o/m", Repo({**model_files(), "config.json": config}))
    with pytest.raises(UsageError, match="o/m is of type"):
        download("o/m")
    assert not hub.gets(WEIGHTS)


def test_index_that_names_a_shard_the_repository_lacks(hub: Any) -> None:
    files = model_files(shards=2)
    files["model.safetensors.index.json"] = json.dumps({"weight_map": {"a": "other.safetensors"}}).encode()
    hub.add("o/m", Repo(files))
    with pytest.raises(ModelNotFoundError, match=r"missing: other.safetensors"):
        download("o/m")


def test_file_that_is_listed_but_missing(hub: Any) -> None:
    hub.add("o/m", Repo(model_files()))
    hub.fail(WEIGHTS, "status", status=404, headers={"X-Error-Code": "EntryNotFound"})
    with pytest.raises(ModelNotFoundError, match=f"a file that it does not have: .*{WEIGHTS}"):
        download("o/m")


@pytest.mark.parametrize("source", ["nosuchalias", "./folder", "a/b/c", "", "o/m@"])
def test_what_is_no_hub_id(source: str) -> None:
    with pytest.raises(CgError) as caught:
        download(source)
    assert caught.value.exit_code in (2, 5)


def test_unknown_name_suggests_an_alias() -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        download("codegema-7b")
    assert "codegemma-7b" in str(caught.value.hint)


def test_fault_of_the_hub(hub: Any) -> None:
    hub.add("o/m", Repo(model_files()))
    hub.fail("/api/models", "status", status=503, times=99)
    with pytest.raises(HubError, match=r"fault of its own \(503\)"):
        download("o/m")
    assert len(hub.gets("/api/models")) == 4


def test_passing_faults_are_waited_out(hub: Any) -> None:
    repo = hub.add("o/m", Repo(model_files()))
    hub.fail("/api/models", "status", status=500, times=2)
    hub.fail(WEIGHTS, "status", status=502, times=2)
    hub.fail("config.json", "status", status=503, method="HEAD")
    assert_whole(download("o/m"), repo)


def test_too_many_requests(hub: Any) -> None:
    hub.add("o/m", Repo(model_files()))
    hub.fail("/api/models", "status", status=429, headers={"Retry-After": "300"})
    with pytest.raises(HubError, match="429") as caught:
        download("o/m")  # 300 s are not waited for
    assert caught.value.hint == "try again in 300 s; with a login the limit is higher"


def test_page_of_something_else(hub: Any) -> None:
    hub.fail("/api/models", "page")
    with pytest.raises(HubError, match="not like a Hub") as caught:
        download("o/m")
    assert "HF_ENDPOINT" in str(caught.value.hint)


def test_listing_that_would_write_elsewhere(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("o/m", Repo(model_files()))
    monkeypatch.setattr("hub_server.sha256", lambda _: "../../../evil")
    with pytest.raises(HubError, match="does not understand"):
        download("o/m")

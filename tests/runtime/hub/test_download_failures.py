"""Downloads with the real client when the network or this machine fails: what is kept and resumed."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hub_server import Fault, Repo, assert_whole, model_files, sha256

from cg.runtime.errors import DiskFullError, NetworkError, OutputError, UsageError
from cg.runtime.hub import hf_cache, listing, patience, registry, transfer
from cg.runtime.hub.download import DownloadProgress, download

WEIGHTS = "model.safetensors"


def leftovers() -> list[str]:
    return [path.name for path in hf_cache.hub_cache().rglob("*.incomplete")]


def store_fault(kind: str, after: int, times: int = 1) -> Fault:
    return Fault(f"o/m/{WEIGHTS}", kind, after=after, times=times)


# --- what the network does ---


def test_broken_connection_goes_on_with_a_range(hub: Any) -> None:
    repo = hub.add("o/m", Repo(model_files()))
    hub.faults.append(store_fault("close", 400_000))
    hub.faults.append(store_fault("reset", 300_000))
    assert_whole(download("o/m"), repo)
    first, second, third = hub.gets(WEIGHTS, "store")
    assert "range" not in first.headers
    assert second.headers["range"] == "bytes=400000-"
    start = int(third.headers["range"].removeprefix("bytes=").removesuffix("-"))
    assert 400_000 <= start <= 700_000  # a reset may throw away what was on its way
    assert not leftovers()


def test_connection_that_breaks_without_any_progress(hub: Any) -> None:
    hub.add("o/m", Repo(model_files()))
    hub.faults.append(store_fault("close", 250_000))
    hub.faults.append(store_fault("close", 0, times=99))
    with pytest.raises(NetworkError, match="broke") as caught:
        download("o/m")
    assert "goes on where it stopped" in str(caught.value.hint)
    assert len(hub.gets(WEIGHTS, "store")) == 1 + len(patience.BACKOFF)
    part = hf_cache.repo_folder("o/m") / "blobs" / f"{sha256(hub.repos['o/m'].files[WEIGHTS])}.incomplete"
    assert part.stat().st_size == 250_000
    hub.faults.clear()
    assert_whole(download("o/m"), hub.repos["o/m"])
    assert hub.gets(WEIGHTS, "store")[-1].headers["range"] == "bytes=250000-"


def test_progress_of_a_resumed_download_starts_where_it_stopped(hub: Any) -> None:
    hub.add("o/m", Repo(model_files()))
    hub.faults += [store_fault("close", 250_000), store_fault("close", 0, times=99)]
    with pytest.raises(NetworkError):
        download("o/m")
    hub.faults.clear()
    seen: list[DownloadProgress] = []
    download("o/m", progress=seen.append)
    assert next(s.file_done for s in seen if s.file == WEIGHTS) == 250_000


def test_server_that_ignores_the_range(hub: Any) -> None:
    repo = hub.add("o/m", Repo(model_files()))
    hub.faults += [store_fault("close", 400_000), store_fault("ignore_range", 0)]
    assert_whole(download("o/m"), repo)


def test_damaged_bytes_are_noticed(hub: Any) -> None:
    hub.add("o/m", Repo(model_files()))
    hub.faults.append(store_fault("damage", 0))
    with pytest.raises(NetworkError, match="SHA-256"):
        download("o/m")
    assert_whole(download("o/m"), hub.repos["o/m"])  # nothing of the damaged file was kept


@pytest.mark.parametrize("length", [500_000, 5_000_000])
def test_damaged_leftover_is_fetched_anew(hub: Any, length: int) -> None:
    repo = hub.add("o/m", Repo(model_files()))
    blobs = hf_cache.repo_folder("o/m") / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{sha256(repo.files[WEIGHTS])}.incomplete").write_bytes(bytes(length))
    assert_whole(download("o/m"), repo)
    assert not leftovers()


def test_server_that_never_answers(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "_TIMEOUT", 0.2)
    hub.fail("/api/models", "hang", times=9)
    with pytest.raises(NetworkError, match="did not answer in time"):
        download("o/m")


def test_server_that_falls_silent(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = hub.add("o/m", Repo(model_files()))
    monkeypatch.setattr(transfer, "_TIMEOUT", 0.3)
    hub.faults.append(store_fault("hang", 300_000))
    assert_whole(download("o/m"), repo)
    assert hub.gets(WEIGHTS, "store")[-1].headers["range"] == "bytes=300000-"


def test_no_server(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    with pytest.raises(NetworkError, match=f"127.0.0.1:{port} refuses the connection"):
        download("o/m")


def test_no_name_service(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(NetworkError, match=r"hub.invalid cannot be found \(DNS\)"):
        download("o/m")


@pytest.mark.parametrize(
    "endpoint", ["not a url", "ftp://x", "http://[::1", "hub.example", "http://", "http://x:99999"]
)
def test_endpoint_that_is_no_address(hub: Any, monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(UsageError, match="HF_ENDPOINT"):
        download("o/m")


def test_password_of_a_mirror_is_not_told(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://me:s3cret@127.0.0.1:9")
    with pytest.raises(NetworkError, match=r"^127.0.0.1:9 refuses") as caught:
        download("o/m")
    assert "s3cret" not in f"{caught.value} {caught.value.hint}"


def test_no_network_but_an_earlier_download(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("o/m", Repo(model_files()))
    folder = download("o/m")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(NetworkError) as caught:
        download("o/m")
    assert str(folder) in str(caught.value.hint)


def test_offline_mode(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("o/m", Repo(model_files()))
    folder = download("o/m")
    hub.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert download("o/m") == folder
    with pytest.raises(NetworkError, match="offline mode") as caught:
        download("o/other")
    assert caught.value.hint == "unset HF_HUB_OFFLINE"
    assert not hub.requests


# --- what this machine does ---


def test_too_little_space_is_known_before_the_start(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = Repo(model_files(), claimed_sizes={WEIGHTS: 5 * 10**9})
    hub.add("o/m", repo)
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=3 * 10**9))
    with pytest.raises(DiskFullError, match=r"needs 5.00 GB more in .*, where 3.00 GB are free"):
        download("o/m")
    assert not hub.gets(WEIGHTS)


def test_what_is_here_needs_no_space(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("o/m", Repo(model_files()))
    folder = download("o/m")
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))
    assert download("o/m", revision="main") == folder


def test_disk_that_fills_up_on_the_way(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("o/m", Repo(model_files()))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(transfer._Part, "append", full)
    with pytest.raises(DiskFullError, match="no space left for o/m"):
        download("o/m")


def test_cache_that_cannot_be_written(hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("o/m", Repo(model_files()))
    blocked = tmp_path / "file"
    blocked.touch()
    monkeypatch.setenv("HF_HUB_CACHE", str(blocked / "hub"))
    with pytest.raises(OutputError, match="cannot write"):
        download("o/m")


def test_system_without_links(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows: the large files lie in the snapshot itself, once."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "a required privilege is not held by the client")

    monkeypatch.setattr(os, "symlink", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_SYMLINKS_WARNING", True)
    repo = hub.add("o/m", Repo(model_files()))
    folder = download("o/m")
    assert_whole(folder, repo)
    assert not any(file.is_symlink() for file in folder.iterdir())
    copies = [p for p in hf_cache.hub_cache().rglob("*") if p.is_file() and p.stat().st_size > 1_000_000]
    assert copies == [folder / WEIGHTS]


def test_second_download_waits_for_the_first(hub: Any) -> None:
    repo = hub.add("o/m", Repo(model_files()))
    hub.faults.append(store_fault("hang", 600_000))
    command = [sys.executable, "-c", "from cg.runtime.hub.download import download; print(download('o/m'))"]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert hub.hanging.wait(30)
    with ThreadPoolExecutor() as pool:
        second = pool.submit(download, "o/m")
        time.sleep(0.5)  # without the lock it would be asking for the weights by now
        assert not second.done()
        assert len(hub.gets(WEIGHTS, "store")) == 1
        hub.release.set()  # the connection ends, and the first one asks for the rest
        folder = second.result(timeout=30)
    assert first.communicate(timeout=30)[0].strip() == str(folder)
    assert_whole(folder, repo)
    assert len(hub.gets(WEIGHTS, "store")) == 2


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_download_goes_on(hub: Any, how: signal.Signals) -> None:
    repo = hub.add("o/m", Repo(model_files()))
    hub.faults.append(store_fault("hang", 600_000))
    command = [sys.executable, "-c", "from cg.runtime.hub.download import download; download('o/m')"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    part = hf_cache.repo_folder("o/m") / "blobs" / f"{sha256(repo.files[WEIGHTS])}.incomplete"
    deadline = time.monotonic() + 30
    while not (part.is_file() and part.stat().st_size > 500_000):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(how)
    hub.release.set()
    process.communicate(timeout=30)
    assert process.returncode != 0
    assert registry.list_models(incomplete=False) == registry.list_models()[:1]
    kept = part.stat().st_size
    assert 500_000 < kept <= 600_000
    assert_whole(download("o/m"), repo)
    assert hub.gets(WEIGHTS, "store")[-1].headers["range"] == f"bytes={kept}-"
    assert not leftovers()

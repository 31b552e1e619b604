"""The output folder is complete or absent, whatever happens."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from safetensors.numpy import save_file

from cg.quant import QuantizeOptions, quantize
from cg.quant import staging as staging_module
from cg.quant.folder_swap import exchange
from cg.quant.staging import StagedFolder
from cg.runtime.errors import DiskFullError, OutputError, OutputExistsError
from cg.runtime.formats.checkpoint import Checkpoint

OVERWRITE = QuantizeOptions(overwrite=True)


@pytest.fixture
def source(golden: Path) -> Path:
    return golden / "gemma-mha-wide"


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def snapshot(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def assert_complete(folder: Path) -> None:
    with Checkpoint.open(folder) as checkpoint:
        assert len(checkpoint.tensors) == 20
    assert (folder / "README.md").is_file()


def test_nothing_but_the_output_remains(source: Path, tmp_path: Path) -> None:
    quantize(source, tmp_path / "deep" / "er" / "out")
    assert names(tmp_path / "deep" / "er") == ["out"]
    assert_complete(tmp_path / "deep" / "er" / "out")


def test_an_existing_output_is_kept(source: Path, tmp_path: Path) -> None:
    quantize(source, tmp_path / "out")
    before = snapshot(tmp_path / "out")
    with pytest.raises(OutputExistsError, match="exists already") as caught:
        quantize(source, tmp_path / "out", QuantizeOptions("i8"))
    assert caught.value.exit_code == 4
    assert "--overwrite" in (caught.value.hint or "")
    assert snapshot(tmp_path / "out") == before


def test_an_empty_folder_is_no_obstacle(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    quantize(source, tmp_path / "out")
    assert_complete(tmp_path / "out")


def test_a_file_is_never_replaced(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("precious")
    with pytest.raises(OutputExistsError, match="is a file"):
        quantize(source, tmp_path / "out", OVERWRITE)
    assert (tmp_path / "out").read_text() == "precious"


@pytest.mark.parametrize(
    "contents", [["notes.txt"], ["config.json"], ["config.json", "x.safetensors", "sub/y"]]
)
def test_only_model_folders_are_replaced(source: Path, tmp_path: Path, contents: list[str]) -> None:
    for name in contents:
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_text("precious")
    with pytest.raises(OutputExistsError, match="does not look like a model"):
        quantize(source, tmp_path / "out", OVERWRITE)
    assert all((tmp_path / "out" / name).read_text() == "precious" for name in contents)


@pytest.mark.parametrize("can_exchange", [True, False])
def test_overwrite_replaces_everything(
    source: Path, tmp_path: Path, can_exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not can_exchange:
        monkeypatch.setattr(staging_module, "exchange", lambda *_: False)
    quantize(source, tmp_path / "out", QuantizeOptions("i8"))
    (tmp_path / "out" / "extra.txt").write_text("old")
    quantize(source, tmp_path / "out", OVERWRITE)
    assert_complete(tmp_path / "out")
    assert "extra.txt" not in names(tmp_path / "out")
    assert names(tmp_path) == ["out"]
    with Checkpoint.open(tmp_path / "out") as checkpoint:
        assert checkpoint.metadata["cg.type"] == "q4"


def test_a_mapped_old_model_stays_readable(source: Path, tmp_path: Path) -> None:
    quantize(source, tmp_path / "out", QuantizeOptions("i8"))
    with Checkpoint.open(tmp_path / "out") as old:
        tensor = old.tensors["model.layers.0.mlp.up_proj.weight"]
        before = tensor.dequantize()
        quantize(source, tmp_path / "out", OVERWRITE)
        np.testing.assert_array_equal(tensor.dequantize(), before)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("present", [True, False])
def test_an_interrupted_run_leaves_nothing(
    source: Path, tmp_path: Path, error: type[BaseException], present: bool
) -> None:
    if present:
        quantize(source, tmp_path / "out", QuantizeOptions("i8"))
    before = snapshot(tmp_path / "out") if present else None

    def stop(progress: Any) -> None:
        if progress.done > progress.total // 2:
            raise error

    with pytest.raises(error):
        quantize(source, tmp_path / "out", OVERWRITE, stop)
    assert names(tmp_path) == (["out"] if present else [])
    if present:
        assert snapshot(tmp_path / "out") == before


def test_failing_replacement_puts_the_old_folder_back(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantize(source, tmp_path / "out", QuantizeOptions("i8"))
    before = snapshot(tmp_path / "out")
    monkeypatch.setattr(staging_module, "exchange", lambda *_: False)
    original = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if "partial" in self.name:
            raise OSError(errno.EIO, "broken")
        return original(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OutputError, match="broken"):
        quantize(source, tmp_path / "out", OVERWRITE)
    assert snapshot(tmp_path / "out") == before
    assert names(tmp_path) == ["out"]


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_too_little_room_is_noticed_before_anything_is_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(DiskFullError, match=r"needs \d{3},\d{3} bytes, .* has 1,000 free") as caught:
        quantize(source, tmp_path / "out")
    assert caught.value.exit_code == 4
    assert names(tmp_path) == []


def test_just_enough_room_is_enough(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quantize(source, tmp_path / "first")
    size = sum(len(content) for content in snapshot(tmp_path / "first").values())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 0, size + 70_000))
    quantize(source, tmp_path / "second")


@pytest.mark.parametrize(
    ("code", "error", "match"),
    [
        (errno.ENOSPC, DiskFullError, "ran full"),
        (errno.EFBIG, OutputError, "cannot be written"),
        (errno.EIO, OutputError, "cannot be written"),
    ],
)
def test_errors_while_writing(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    error: type[OutputError],
    match: str,
) -> None:
    calls = 0

    def write(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > 5:
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr("cg.runtime.formats.writer.SafetensorsWriter.write", write)
    with pytest.raises(error, match=match) as caught:
        quantize(source, tmp_path / "out")
    assert type(caught.value) is error
    assert names(tmp_path) == []


def run_python(code: str, *arguments: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="no resource limits on Windows")
def test_a_limit_of_the_system_is_an_output_error(source: Path, tmp_path: Path) -> None:
    process = run_python(
        """
        import resource, signal, sys
        from pathlib import Path
        from cg.quant import quantize
        from cg.runtime.errors import OutputError
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            quantize(Path(sys.argv[1]), Path(sys.argv[2]))
        except OutputError as e:
            print(type(e).__name__, e.hint)
        """,
        source,
        tmp_path / "out",
    )
    out, err = process.communicate(timeout=60)
    assert out == "OutputError the file system cannot hold a file of this size\n", err
    assert names(tmp_path) == []


@pytest.fixture
def large_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Big enough that a run takes a moment: 48 pieces."""
    folder = tmp_path_factory.mktemp("large")
    (folder / "config.json").write_text("{}")
    tensors = {f"w{i}": np.ones((1024, 1024), np.float16) for i in range(48)}
    save_file(tensors, folder / "model.safetensors")
    return folder


KILLED_WHILE_STREAMING = """
    import os, signal, sys
    from pathlib import Path
    from cg.quant import quantize, QuantizeOptions
    def kill(progress):
        if progress.done * 2 > progress.total:
            os.kill(os.getpid(), signal.SIGKILL)
    quantize(Path(sys.argv[1]), Path(sys.argv[2]), QuantizeOptions(overwrite=True, threads=1), kill)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL on Windows")
@pytest.mark.parametrize("present", [False, True])
def test_killed_while_streaming(large_source: Path, source: Path, tmp_path: Path, present: bool) -> None:
    if present:
        quantize(source, tmp_path / "out", QuantizeOptions("i8"))
    process = run_python(KILLED_WHILE_STREAMING, large_source, tmp_path / "out")
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    partial = f".out.partial-{process.pid}"
    assert names(tmp_path) == [".out.lock", partial, *(["out"] if present else [])]
    if present:
        assert_complete(tmp_path / "out")
    result = quantize(source, tmp_path / "out", QuantizeOptions(overwrite=present))
    assert result.notes == (f"removed {partial}, left behind by a killed run",)
    assert names(tmp_path) == ["out"]
    assert_complete(tmp_path / "out")


KILLED_BETWEEN_RENAMES = """
    import os, signal, sys
    from pathlib import Path
    from cg.quant import quantize, staging, QuantizeOptions
    original = Path.rename
    def rename(self, target):
        if "partial" in self.name:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, target)
    Path.rename = rename
    staging.exchange = lambda *_: False
    quantize(Path(sys.argv[1]), Path(sys.argv[2]), QuantizeOptions(overwrite=True))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL on Windows")
def test_killed_between_two_renames(source: Path, tmp_path: Path) -> None:
    """Where folders cannot be exchanged in one step, the next run brings the old one back."""
    quantize(source, tmp_path / "out", QuantizeOptions("i8"))
    before = snapshot(tmp_path / "out")
    process = run_python(KILLED_BETWEEN_RENAMES, source, tmp_path / "out")
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    with pytest.raises(OutputExistsError):
        quantize(source, tmp_path / "out")
    assert snapshot(tmp_path / "out") == before
    assert names(tmp_path) == ["out"]


KILLED_AFTER_EXCHANGE = """
    import os, shutil, signal, sys
    from pathlib import Path
    from cg.quant import quantize, staging, QuantizeOptions
    staging.shutil.rmtree = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
    quantize(Path(sys.argv[1]), Path(sys.argv[2]), QuantizeOptions(overwrite=True))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL on Windows")
def test_killed_after_the_replacement(source: Path, tmp_path: Path) -> None:
    quantize(source, tmp_path / "out", QuantizeOptions("i8"))
    process = run_python(KILLED_AFTER_EXCHANGE, source, tmp_path / "out")
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    with Checkpoint.open(tmp_path / "out") as checkpoint:
        assert checkpoint.metadata["cg.type"] == "q4"
    quantize(source, tmp_path / "out", OVERWRITE)
    assert names(tmp_path) == ["out"]


def test_other_folders_are_not_leftovers(source: Path, tmp_path: Path) -> None:
    for name in (".out2.partial-1", ".other.partial-1", "out.partial-1", ".out-partial-1"):
        (tmp_path / name).mkdir()
    before = names(tmp_path)
    quantize(source, tmp_path / "out")
    assert names(tmp_path) == sorted([*before, "out"])


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Callable[[], bool]]:
    """Another process that holds the lock of ``out`` until told to end."""
    process = run_python(
        """
        import sys
        from pathlib import Path
        from cg.quant.staging import StagedFolder
        with StagedFolder(Path(sys.argv[1]), overwrite=False):
            print("ready", flush=True)
            sys.stdin.read()
        """,
        tmp_path / "out",
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield lambda: bool(process.communicate(timeout=60))
    process.kill()
    process.communicate()


def test_one_writer_at_a_time(source: Path, tmp_path: Path, holder: Callable[[], bool]) -> None:
    with pytest.raises(OutputError, match="another process is writing"):
        quantize(source, tmp_path / "out")
    holder()
    quantize(source, tmp_path / "out")
    assert names(tmp_path) == ["out"]


def test_a_folder_that_may_not_be_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mkdir(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(OutputError, match="cannot be written: Permission denied"):
        quantize(source, tmp_path / "out")
    assert names(tmp_path) == []


def test_a_parent_that_is_a_file(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        quantize(source, tmp_path / "file" / "out")


def test_an_output_that_appears_meanwhile_is_kept(source: Path, tmp_path: Path) -> None:
    def interfere(_: Any) -> None:
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / "precious").write_text("x")

    with pytest.raises(OutputExistsError):
        quantize(source, tmp_path / "out", None, interfere)
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["precious"]


@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="only Linux and macOS can exchange")
def test_exchange(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(name)
    assert exchange(tmp_path / "a", tmp_path / "b")
    assert names(tmp_path / "a") == ["b"]
    assert names(tmp_path / "b") == ["a"]
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "a", tmp_path / "absent")


def test_partial_folder_is_hidden_and_beside_the_output(tmp_path: Path) -> None:
    started = time.time()
    with StagedFolder(tmp_path / "out", overwrite=False) as staged:
        assert staged.path == tmp_path / f".out.partial-{os.getpid()}"
        assert staged.path.stat().st_mtime >= started - 2
    assert names(tmp_path) == []

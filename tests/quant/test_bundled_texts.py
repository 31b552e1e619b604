"""Where the bundled texts come from: sources.json, the licenses, and the texts themselves agree."""

from __future__ import annotations

import hashlib
import json
import platform
import sysconfig
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from cg.quant.calibration import read_calibration

ROOT = Path(__file__).parents[2]
DATA = ROOT / "quant" / "data"
PACKAGES: list[dict[str, Any]] = json.loads((DATA / "sources.json").read_text("utf-8"))
HELD_OUT = sorted(file.stem for file in DATA.glob("held_out_*.txt"))


def files(text: str) -> list[str]:
    return [path for package in PACKAGES if package["text"] == text for path in package["files"]]


def test_every_text_has_its_sources_and_no_other_package_is_listed() -> None:
    assert {package["text"] for package in PACKAGES} == {"calibration", *HELD_OUT}
    assert len(HELD_OUT) == 6


def test_no_package_is_in_two_texts_and_no_module_of_the_library() -> None:
    texts: dict[str, set[str]] = defaultdict(set)
    for package in PACKAGES:
        for path in package["files"] if package["registry"] == "cpython" else ["all"]:
            texts[f"{package['name']} {path}"].add(package["text"])
    assert not {name: found for name, found in texts.items() if len(found) > 1}


def test_nothing_that_the_bundled_model_is_judged_on_is_calibrated_on() -> None:
    held_out = json.loads((ROOT / "runtime" / "demo" / "metrics.json").read_text("utf-8"))["held_out"]
    assert not set(held_out) & set(files("calibration"))
    assert set(files("held_out_python")) <= set(held_out)


def test_calibration_documents_are_the_files_of_the_sources() -> None:
    assert [document.path for document in read_calibration().documents] == files("calibration")


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: f"{package['name']}-{package['text']}")
def test_license_texts_have_every_notice(package: dict[str, Any]) -> None:
    text = (DATA / "licenses" / f"{package['license']}.txt").read_text("utf-8")
    assert f"\n{package['name']} {package['version']}\n" in text
    assert package["copyright"]
    for notice in package["copyright"]:
        assert notice in text
    assert all(len(digest) == 64 for digest in package["files"].values())


@pytest.mark.parametrize("name", HELD_OUT)
def test_held_out_texts_are_the_ones_that_their_readme_describes(name: str) -> None:
    data = (DATA / f"{name}.txt").read_bytes()
    readme = (DATA / "README.md").read_text("utf-8")
    assert f"`{hashlib.sha256(data).hexdigest()}`, {len(data):,} bytes" in readme
    assert 60_000 < len(data) < 100_000
    assert b"\r" not in data


@pytest.mark.skipif(platform.python_version() != "3.11.7", reason="the library of another version")
def test_library_excerpts_are_excerpts() -> None:
    library = Path(sysconfig.get_path("stdlib"))
    texts = {document.path: document.text for document in read_calibration().documents}
    for package in PACKAGES:
        if package["registry"] == "cpython":
            for path, digest in package["files"].items():
                data = (library / path).read_bytes()
                assert hashlib.sha256(data).hexdigest() == digest
                if package["text"] == "calibration":
                    assert texts[path].rstrip("\n") in data.decode("utf-8")

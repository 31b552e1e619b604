"""What import-linter cannot see: the compiled extension, and the shape of the source tree."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

_ROOT = Path(__file__).parent.parent
_LONGEST, _LONGEST_TEST = 300, 500  # lines
_SOURCES = sorted(
    path
    for folder in ("cli", "quant", "runtime", "tools", "benchmarks", "tests")
    for path in (_ROOT / folder).rglob("*")
    if path.suffix in {".py", ".cpp", ".h"} and "golden" not in path.parts
)
_PACKAGE = [path for path in _SOURCES if path.relative_to(_ROOT).parts[0] in {"cli", "quant", "runtime"}]


def _imports(path: Path) -> set[str]:
    """Every dotted name that a module imports: ``a.b`` and ``a.b.c`` for ``from a.b import c``."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def test_only_these_modules_import_the_extension() -> None:
    importers = {
        path.relative_to(_ROOT).as_posix()
        for path in _PACKAGE
        if path.suffix == ".py" and "cg.runtime._native" in _imports(path)
    }
    assert importers == {
        "runtime/ops_native.py", "runtime/compact_form.py", "runtime/compact_vocabulary.py",
        "runtime/roofline.py", "runtime/blocks_native.py",
    }  # fmt: skip


@pytest.mark.parametrize("path", _SOURCES, ids=lambda p: p.relative_to(_ROOT).as_posix())
def test_files_are_short(path: Path) -> None:
    longest = _LONGEST_TEST if path.relative_to(_ROOT).parts[0] == "tests" else _LONGEST
    assert path.read_text("utf-8").count("\n") <= longest


@pytest.mark.parametrize("name", ["utils", "helpers", "common", "misc", "manager"])
def test_no_module_is_named_after_nothing(name: str) -> None:
    assert [path for path in _PACKAGE if path.stem == name] == []

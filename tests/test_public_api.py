"""What the package exports, and what importing it costs."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import cg
import cg.runtime
from cg.runtime.errors import CgError

_ROOT = Path(__file__).parent.parent
_MODULES = sorted(
    path
    for package in ("cli", "quant", "runtime")
    for path in (_ROOT / package).rglob("*.py")
    if "native" not in path.relative_to(_ROOT).parts
)
_HEAVY = {
    "torch",
    "transformers",
    "numpy",
    "tokenizers",
    "sentencepiece",
    "jinja2",
    "huggingface_hub",
    "safetensors",
}


# What a completion can do without. numpy is needed, and takes 0.05 s of its own.
_SLOW_TO_IMPORT = {*_HEAVY - {"numpy"}, "numpy.random", "pydantic", "rich", "tomllib"}


def _targets(statement: ast.stmt) -> list[ast.expr]:
    if isinstance(statement, ast.Assign):
        return statement.targets
    return [statement.target] if isinstance(statement, ast.AnnAssign) else []


def _public_names(tree: ast.Module) -> set[str]:
    """Names without a leading underscore that the module itself defines; imports are not its own."""
    names: set[str] = set()
    for statement in tree.body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(statement.name)
        for target in _targets(statement):
            names.update(node.id for node in ast.walk(target) if isinstance(node, ast.Name))
    return {name for name in names if not name.startswith("_")}


def _imported_names(tree: ast.Module) -> set[str]:
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    return {alias.asname or alias.name for node in imports for alias in node.names}


def _exported(tree: ast.Module) -> list[str]:
    for statement in tree.body:
        if any(isinstance(t, ast.Name) and t.id == "__all__" for t in _targets(statement)):
            names = ast.literal_eval(statement.value)  # type: ignore[attr-defined]
            assert isinstance(names, list)
            return names
    return []


@pytest.mark.parametrize("path", _MODULES, ids=lambda p: str(p.relative_to(_ROOT)))
def test_all_agrees_with_the_public_names(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    exported, public = _exported(tree), _public_names(tree)
    assert len(set(exported)) == len(exported), "a name is exported twice"
    assert public <= set(exported), "export it, or begin its name with an underscore"
    assert set(exported) <= public | _imported_names(tree), "exported, but not there"
    assert ast.get_docstring(tree), "a module says in one line what it is for"


@pytest.mark.parametrize("name", cg.runtime.__all__)
def test_what_the_package_promises_is_there_and_documented(name: str) -> None:
    assert getattr(cg.runtime, name).__doc__


def test_unknown_attributes_are_refused() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        cg.runtime.nonsense  # noqa: B018


def test_every_error_is_exported_documented_and_has_an_exit_code() -> None:
    errors = importlib.import_module("cg.runtime.errors")
    for name in errors.__all__:
        error = getattr(errors, name)
        assert issubclass(error, CgError)
        assert error.__doc__
        assert 1 <= error.exit_code <= 6


def test_typed_marker_is_shipped() -> None:
    assert (Path(cg.__file__).parent / "py.typed").is_file()


def _modules_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*sys.modules, file=sys.stderr)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(run.stderr.split())


def test_importing_the_library_loads_nothing_heavy() -> None:
    assert not _modules_after("import cg.runtime") & _HEAVY
    assert not _modules_after("import cg.quant") & (_HEAVY - {"numpy"})


def test_completing_imports_neither_torch_nor_the_command_line(demo: Path) -> None:
    code = f"import cg.runtime as r\nwith r.load({str(demo)!r}) as m: m.complete('x = ', '\\n', max_tokens=2)"
    loaded = _modules_after(code)
    assert "cg.runtime.engine" in loaded
    assert not loaded & {*_SLOW_TO_IMPORT, "typer"}


@pytest.mark.parametrize("first", [True, False], ids=["first start", "later"])
def test_cg_complete_imports_only_what_it_needs(first: bool) -> None:
    arguments = ["cg", "complete", "--model", "demo", "--prefix", "x = ", "--suffix", "", "--max-tokens", "2"]
    code = (
        f"sys.argv = {arguments!r}\n"
        "from cg.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as leave: assert not leave.code"
    )
    if not first:
        _modules_after(code)
    loaded = _modules_after(code)
    assert {"cg.cli.main", "cg.runtime.engine", "numpy"} <= loaded
    assert not loaded & _SLOW_TO_IMPORT


def test_the_torch_backend_is_the_only_one_that_imports_torch(demo: Path) -> None:
    code = f"import cg.runtime\nwith cg.runtime.load({str(demo)!r}, backend='numpy'): pass"
    assert "torch" not in _modules_after(code)
    assert "torch" in _modules_after(code.replace("numpy", "torch"))


_HELP = "import sys; sys.argv = ['cg', '--help']; from cg.cli.main import main; main()"


def test_help_imports_nothing_heavy() -> None:
    loaded = _modules_after(f"try:\n    {_HELP}\nexcept SystemExit: pass")
    assert "cg.cli.main" in loaded
    assert not loaded & (_HEAVY | {"rich.console", "rich.progress", "rich.table"})


def _cpu_seconds(code: str) -> float:
    """User and system time of one interpreter that runs ``code``: other processes do not count."""
    before = os.times()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    return (after.children_user - before.children_user) + (after.children_system - before.children_system)


def test_help_answers_at_once() -> None:
    _cpu_seconds(_HELP)  # writes the bytecode
    # The least of several: whatever else a machine does only adds to it.
    assert min(_cpu_seconds(_HELP) for _ in range(7)) <= 0.3

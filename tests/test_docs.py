"""The documentation: every command block runs, every output is as shown, every link leads somewhere.

Blocks marked ``sh`` and ``python`` are run, page by page and in order, each page in an empty folder with an
empty home; only the command that makes the model for most pages is run once for all of them. A ``text`` block
right after one is its output; ``...`` in it stands for any text, and on a line of its own for any lines.
``console`` blocks need what a test has not (the network, gated weights) and are not run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import pytest

import cg.runtime
from cg.cli import settings
from cg.runtime import errors

_ROOT = Path(__file__).parent.parent
_PAGES = sorted(
    [*_ROOT.glob("*.md"), *(_ROOT / "docs").rglob("*.md"), *(_ROOT / "runtime" / "demo").glob("*.md")]
)
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*) *\n(?P<text>.*?)^(?P=indent)``` *$", re.M | re.S)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_MAKES_MODEL = "cg quantize demo demo-q4\n"
_LANGUAGES = {"sh", "console", "text", "python", "json", "toml", "powershell", ""}


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block of a page."""

    language: str
    text: str
    line: int
    output: str | None
    """What the page says that it prints, if it says so."""

    @property
    def installs(self) -> bool:
        return "pip install" in self.text or "-m venv" in self.text


def _blocks(page: Path) -> list[Block]:
    source = page.read_text("utf-8")
    found = list(_FENCE.finditer(source))
    blocks = []
    for match, after in zip_longest(found, found[1:]):
        shows = after and after["language"] == "text" and not source[match.end() : after.start()].strip()
        text = re.sub(f"^{match['indent']}", "", match["text"], flags=re.M)
        line = source.count("\n", 0, match.start()) + 1
        blocks.append(Block(match["language"], text, line, after["text"] if after and shows else None))
    return blocks


def _name(page: Path) -> str:
    return page.relative_to(_ROOT).as_posix()


def _pages_with(*languages: str) -> list[Path]:
    return [p for p in _PAGES if any(b.language in languages and not b.installs for b in _blocks(p))]


def _matches(output: str, shown: str) -> bool:
    """Whether an output is what the page shows, where ``...`` is any text, and alone any lines."""
    patterns = {"...": r"(?:.*\n)*"}
    pattern = "".join(
        patterns.get(line.strip()) or re.escape(line).replace(r"\.\.\.", ".*") + "\n"
        for line in map(str.rstrip, shown.rstrip().splitlines())
    )
    lines = "".join(line.rstrip() + "\n" for line in output.rstrip().splitlines())
    return re.fullmatch(pattern, lines) is not None


def _environment() -> dict[str, str]:
    programs = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": programs + os.pathsep + os.environ["PATH"], "NO_COLOR": "1"}


def _run(language: str, text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    program = ["bash", "-euo", "pipefail"] if language == "sh" else [sys.executable, "-W", "error"]
    return subprocess.run(
        [*program, "-c", text],
        cwd=folder, env=_environment(), stdin=subprocess.DEVNULL,
        capture_output=True, encoding="utf-8", timeout=240, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def copy_of_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A command that does what ``_MAKES_MODEL`` does, from what that has made."""
    folder = tmp_path_factory.mktemp("model")
    run = _run("sh", _MAKES_MODEL, folder)
    assert run.returncode == 0, run.stderr
    return f"cp -r {folder / 'demo-q4'} .\n"


@pytest.mark.parametrize("page", _pages_with("sh", "python"), ids=_name)
def test_commands_run_and_print_what_the_page_says(page: Path, tmp_path: Path, copy_of_model: str) -> None:
    for block in _blocks(page):
        if block.language not in ("sh", "python") or block.installs:
            continue
        text = re.sub(f"^{_MAKES_MODEL}", copy_of_model, block.text, flags=re.M)
        run = _run(block.language, text, tmp_path)
        where = f"{_name(page)}:{block.line}\n{block.text}"
        assert run.returncode == 0, f"{where}exit code {run.returncode}\n{run.stdout}{run.stderr}"
        if block.output is not None:
            assert _matches(run.stdout, block.output), f"{where}prints:\n{run.stdout}\nshown:\n{block.output}"


@pytest.mark.parametrize("page", _PAGES, ids=_name)
def test_blocks_say_their_language(page: Path) -> None:
    assert {block.language for block in _blocks(page)} <= _LANGUAGES
    assert page.read_text("utf-8").count("```") == 2 * len(_blocks(page)), "a fence is not closed"


def _anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")


def _without_blocks(page: Path) -> str:
    return re.sub(r"`[^`\n]*`", "", _FENCE.sub("", page.read_text("utf-8")))


@pytest.mark.parametrize("page", _PAGES, ids=_name)
def test_links_lead_somewhere(page: Path) -> None:
    for match in _LINK.finditer(_without_blocks(page)):
        target = match["target"]
        if re.match(r"\w+:", target):
            assert target.startswith(("https://", "http://", "mailto:")), target
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.is_relative_to(_ROOT), f"{target} leads out of the project"
        assert file.exists(), f"{target} does not exist"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", _FENCE.sub("", file.read_text("utf-8")), re.M)
            assert anchor in {_anchor(heading) for heading in headings}, f"{target}: no such heading"


def test_every_page_is_reachable_from_the_index() -> None:
    index = _ROOT / "docs" / "index.md"
    targets = [match["target"].partition("#")[0] for match in _LINK.finditer(index.read_text("utf-8"))]
    linked = {(index.parent / target).resolve() for target in targets}
    pages = {p for p in _PAGES if p.is_relative_to(_ROOT / "docs") and p != index}
    assert {_name(p) for p in pages - linked} == set()


def _install_lines() -> list[tuple[str, str]]:
    return [
        (_name(page), line.strip())
        for page in _PAGES
        for block in _blocks(page)
        for line in block.text.splitlines()
        if "pip install" in line and block.language in ("sh", "console", "powershell")
    ]


def test_install_commands_name_what_exists() -> None:
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    allowed = re.compile(r"""(-e )?(\.|(?P<q>['"])\.\[(?P<extra>\w+)\](?P=q))( --\S+ \S+)*""")
    for page, line in _install_lines():
        for requirement in re.findall(r"pip install ([^&#]*)", line):
            match = allowed.fullmatch(requirement.strip())
            assert match, (page, line)
            assert match["extra"] in {None, *project["optional-dependencies"]}, (page, line)


def test_ci_runs_the_commands_at_the_top_of_the_readme() -> None:
    commands = [b.text for b in _blocks(_ROOT / "README.md") if b.installs][:2]
    assert commands == [
        "python3.11 -m venv .venv && .venv/bin/pip install . && .venv/bin/cg demo\n",
        "python3.11 -m venv .venv && .venv/bin/pip install -e '.[dev]' && .venv/bin/python -m pytest\n",
    ]
    # The script takes both from the README itself, by this beginning.
    beginning = "^python3.11 -m venv .venv && "
    assert f"grep '{beginning}' README.md" in (_ROOT / ".ci" / "run").read_text("utf-8")
    assert re.findall(beginning + ".*\n", (_ROOT / "README.md").read_text("utf-8"), re.M) == commands


def test_the_output_comparison_compares() -> None:
    assert _matches("a\nb  \nc\n", "a\n...\nc\n")
    assert _matches("a\nc", "a\n...\nc")
    assert _matches("a 1.5 b\n", "a ... b\n")
    assert not _matches("a 1.5\nb\n", "a ... b\n")
    assert not _matches("a\nb\n", "a\n")
    assert not _matches("a.c\n", "abc\n")


def test_command_line_reference_is_up_to_date() -> None:
    script = [sys.executable, str(_ROOT / "tools" / "make_cli_reference.py"), "--check"]
    run = subprocess.run(script, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_every_environment_variable_and_setting_is_documented() -> None:
    page = (_ROOT / "docs" / "reference" / "settings.md").read_text("utf-8")
    sources = [p for folder in ("cli", "quant", "runtime") for p in (_ROOT / folder).rglob("*.py")]
    found = {name for p in sources for name in re.findall(r"[\"'](CG_[A-Z_]+)[\"']", p.read_text("utf-8"))}
    assert {"CG_MODEL", "CG_HOME", "CG_FORCE_ISA"} <= found
    assert {name for name in found | set(settings.KEYS) if f"`{name}`" not in page} == set()


def test_exit_codes_are_those_of_the_errors() -> None:
    page = (_ROOT / "docs" / "reference" / "exit-codes.md").read_text("utf-8")
    documented: dict[str, int] = {}
    for code, names in re.findall(r"^\| (\d+) \|.*\| ([^|]*)\|$", page, re.M):
        documented.update({name: int(code) for name in re.findall(r"`(\w+Error)`", names)})
    assert documented == {name: getattr(errors, name).exit_code for name in documented}
    for name in set(errors.__all__) - {"CgError"} - set(documented):
        assert issubclass(getattr(errors, name), errors.FormatError), f"{name} is not on the page"


@pytest.mark.parametrize("name", cg.runtime.__all__)
def test_the_python_api_page_has_every_public_name(name: str) -> None:
    assert f"`{name}" in (_ROOT / "docs" / "reference" / "python-api.md").read_text("utf-8")

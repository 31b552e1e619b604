"""The project's checks. They run in nox's own environment, which ``pip install -e '.[dev]'`` makes."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2024.10"
nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "typecheck", "stubs", "native", "docs", "tests"]

# The environment's tools are found whether or not it is activated.
os.environ["PATH"] = str(Path(sys.executable).parent) + os.pathsep + os.environ.get("PATH", "")


@nox.session
def lint(session: nox.Session) -> None:
    """Style, spelling, layers."""
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("codespell")
    sources = [
        str(path)
        for path in sorted(Path("runtime/native").rglob("*"))
        if path.suffix in {".cpp", ".h", ".inl"}
    ]
    session.run("clang-format", "--dry-run", "--Werror", *sources)
    session.run("lint-imports")


@nox.session
def typecheck(session: nox.Session) -> None:
    """Mypy, strict, over the package, the tools, the benchmarks and the tests."""
    session.run("mypy")
    session.run("mypy", "tools")
    session.run("mypy", "benchmarks")
    session.run("mypy", "tests")


@nox.session
def tests(session: nox.Session) -> None:
    """The default tests: offline, a minute or two."""
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session(name="tests-slow")
def tests_slow(session: nox.Session) -> None:
    """Full-size shapes: minutes, and gigabytes of memory and disk."""
    session.run("python", "-m", "pytest", "-m", "slow", "--timeout", "3600", *session.posargs)


def _native_tests(session: nox.Session, build: Path, *options: str) -> None:
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    session.run(
        "cmake", "-S", "runtime/native", "-B", str(build), *generator,
        "-DCG_BUILD_TESTS=ON", *options, *session.posargs,
    )  # fmt: skip
    session.run("cmake", "--build", str(build), "--parallel")
    session.run("ctest", "--test-dir", str(build), "--output-on-failure")


@nox.session
def native(session: nox.Session) -> None:
    """The kernels' own tests, in C++, with the address and undefined-behaviour sanitizers."""
    _native_tests(session, Path("build") / "native-tests", "-DCG_SANITIZE=ON")


@nox.session(name="native-tsan")
def native_tsan(session: nox.Session) -> None:
    """The same with the thread sanitizer: the team of threads, and the operations that run on it."""
    _native_tests(session, Path("build") / "native-tsan-tests", "-DCG_SANITIZE=thread")


@nox.session(name="native-arm")
def native_arm(session: nox.Session) -> None:
    """The same for arm64 under emulation: NEON without and with dot products."""
    needed = {"aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu", "qemu-aarch64-static": "qemu-user-static"}
    missing = [package for tool, package in needed.items() if not shutil.which(tool)]
    if missing:
        session.error(f"not installed: the Debian packages {' '.join(missing)}")
    build = Path("build") / "native-arm-tests"
    _native_tests(
        session, build,
        "-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        "-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++", "-DCMAKE_EXE_LINKER_FLAGS=-static",
        "-DCMAKE_CROSSCOMPILING_EMULATOR=qemu-aarch64-static;-cpu;max",
        "-DCG_EXPECTED_ISAS=portable;neon;neon-dotprod",
    )  # fmt: skip
    # A processor from before the dot product.
    old = ("qemu-aarch64-static", "-cpu", "cortex-a57", str(build / "tests" / "test_dispatch"))
    session.run(*old, "portable", "neon", external=True)


@nox.session
def stubs(session: nox.Session) -> None:
    """What is generated from the code is up to date: the extension's stub, the command-line reference."""
    session.run("python", "tools/make_stub.py", "--check")
    session.run("python", "tools/make_cli_reference.py", "--check")


@nox.session
def docs(session: nox.Session) -> None:
    """Every command and every link of the documentation."""
    session.run("python", "-m", "pytest", "tests/test_docs.py", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Speed of the bundled model here and now; says nothing about another machine."""
    session.run("cg", "bench", "demo", *session.posargs)

"""Talking to a worker process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import worker
from conversation import Worker, WorkerError
from rounds import Question, Samples, run_rounds

_ENGINE = """
import ctypes, os, sys
sys.path.insert(0, {folder!r})
from worker import serve

class Engine:
    def describe(self):
        print("printed while loading")
        return {{"threads": 1}}
    def add(self, a, b):
        os.system("echo printed by a library")
        return a + b
    def several(self):
        return [1.0, 5.0, 2.0]
    def use_memory(self):
        self.kept = b"1" * 50_000_000
    def fail(self):
        raise ValueError("a bad day")
    def die(self):
        sys.stderr.write("last words")
        os._exit(1)

serve(Engine())
"""


@pytest.fixture
def engine(tmp_path: Path) -> Worker:
    script = tmp_path / "engine.py"
    script.write_text(_ENGINE.format(folder=str(Path(worker.__file__).parent)))
    return Worker("it", [sys.executable, str(script)], tmp_path / "log")


def test_answers_are_not_mixed_with_what_the_engine_prints(engine: Worker) -> None:
    with engine:
        assert engine.description == {"threads": 1}
        assert engine.ask("add", a=1, b=2) == 3
        assert engine.ask("add", a="x", b="y") == "xy"


def test_an_exception_arrives(engine: Worker) -> None:
    with engine, pytest.raises(WorkerError, match=r"it: (?s:.*)a bad day"):
        engine.ask("fail")


def test_a_dead_worker_is_noticed(engine: Worker) -> None:
    with engine, pytest.raises(WorkerError, match=r"the worker it ended:\n(?s:.*)last words"):
        engine.ask("die")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's memory figures")
def test_private_memory_and_rounds(engine: Worker) -> None:
    with engine:
        assert engine.ask_watched("use_memory") > 50_000_000
        samples: Samples = {}
        question = Question("figure", "several", {}, ("it", "absent"))
        run_rounds([question], {"it": engine}, 2, samples, lambda text: None)
    assert [s.seconds for s in samples["figure"]["it"]] == [2.0, 2.0]
    assert list(samples["figure"]) == ["it"]

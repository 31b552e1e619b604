"""Counting cores."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cg.runtime import cores


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's description of the processor")
def test_hardware_threads_of_one_core_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for cpu, siblings in enumerate(("0,2", "1,3", "0,2", "1,3")):
        topology = tmp_path / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(siblings + "\n", "ascii")
    monkeypatch.setattr(cores, "_CPUS", tmp_path)
    monkeypatch.setattr(cores, "_usable_cpus", lambda: [0, 1, 2, 3])
    assert cores.physical_cores() == 2
    monkeypatch.setattr(cores, "_usable_cpus", lambda: [0, 2])
    assert cores.physical_cores() == 1
    monkeypatch.setattr(cores, "_CPUS", tmp_path / "nothing here")
    assert cores.physical_cores() == 2


def test_there_is_at_least_one_core() -> None:
    assert cores.physical_cores() >= 1

"""Instruction sets whose kernels fail their self-test are not used, and it is said."""

from __future__ import annotations

import pytest

from cg.runtime import instruction_sets, ops_native
from cg.runtime.errors import BackendError
from cg.runtime.ops import available_backends, open_ops
from cg.runtime.ops_native import FORCE_ISA, NativeOps, active_isa, refused_isas

SUPPORTED = [("plain", True), ("fast", True), ("absent", False), ("faster", True), ("fastest", True)]
FAILURES = {"faster": "rotation", "fastest": "Q4 rows"}


def test_every_set_of_this_machine_passes() -> None:
    for name, supported in ops_native.supported_isas():
        if supported:
            assert ops_native.isa_failure(name) is None, name
        else:
            with pytest.raises(ValueError, match=name):
                ops_native.isa_failure(name)


def test_better_ones_are_refused_best_first() -> None:
    refused = instruction_sets.refused("fast", SUPPORTED, FAILURES.get)
    assert list(refused.items()) == [("fastest", "Q4 rows"), ("faster", "rotation")]
    assert instruction_sets.failed(refused) == (
        "fastest failed its self-test (Q4 rows) and faster failed its self-test (rotation)"
    )
    assert instruction_sets.refused("fastest", SUPPORTED, {"fast": "rotation"}.get) == {}


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        ("faster", "wish: faster failed its self-test (rotation): it would compute wrong results"),
        ("absent", "wish: this machine does not support it"),
        ("sse9", "wish: this build has no such instruction set"),
    ],
)
def test_a_wish_that_cannot_be_granted(wish: str, reason: str) -> None:
    with pytest.raises(BackendError) as caught:
        instruction_sets.check(wish, "wish", SUPPORTED, FAILURES.get)
    assert caught.value.message == reason
    assert caught.value.hint == "use one of plain, fast"
    assert instruction_sets.check("fast", "wish", SUPPORTED, FAILURES.get) == "fast"


def test_the_next_best_one_is_taken(failing_isa: str) -> None:
    assert active_isa() == open_ops("native").isa == "portable"
    assert refused_isas() == {failing_isa: "rotation"}
    native = available_backends()[0]
    assert native.available
    assert native.reason == f"compiled kernels, portable; {failing_isa} failed its self-test (rotation)"
    assert native.warning == f"{failing_isa} failed its self-test (rotation); computing with portable"


def test_the_override_does_not_get_around_it(failing_isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FORCE_ISA, failing_isa)
    with pytest.raises(
        BackendError, match=rf"{FORCE_ISA}={failing_isa}: .* self-test \(rotation\)"
    ) as caught:
        active_isa()
    assert caught.value.hint == "use one of portable"
    monkeypatch.delenv(FORCE_ISA)
    with pytest.raises(BackendError, match="self-test"):
        NativeOps(threads=1, isa=failing_isa)


def test_nothing_to_warn_of_when_another_is_wished_for(
    failing_isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FORCE_ISA, "portable")
    assert failing_isa not in refused_isas()
    assert available_backends()[0].warning is None


def test_nothing_to_warn_of_when_all_is_well() -> None:
    native = available_backends()[0]
    assert native.warning is None
    assert "self-test" not in native.reason

"""What the native backend refuses, its override, and its threads."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cg.runtime import ops_native
from cg.runtime.cores import physical_cores
from cg.runtime.dtypes import DType
from cg.runtime.errors import BackendError, CheckpointError, UsageError
from cg.runtime.ops_native import FORCE_ISA, NativeOps, active_isa, supported_isas
from cg.runtime.tensor import Tensor


@pytest.fixture
def ops() -> NativeOps:
    return NativeOps(threads=1)


def weight(rows: int = 4, cols: int = 64) -> Tensor:
    data = np.zeros(rows * cols // 2, np.uint8)
    return Tensor("w", DType.Q4, (rows, cols), data, np.ones((rows, cols // 32), np.float32))


def floats(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def test_kernels_are_there() -> None:
    assert ops_native.import_problem() is None
    names = [name for name, _ in supported_isas()]
    assert names[0] == "portable"
    assert dict(supported_isas())[active_isa()]


@pytest.mark.parametrize("isa", [name for name, supported in supported_isas() if supported])
def test_override(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FORCE_ISA, isa)
    assert active_isa() == isa
    assert NativeOps(threads=1).isa == isa


@pytest.mark.parametrize("isa", ["sse9", "AVX2", "portable "])
def test_unknown_override_is_refused(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FORCE_ISA, isa)
    with pytest.raises(BackendError, match=f"{FORCE_ISA}={isa}: this build has no such") as caught:
        NativeOps(threads=1)
    assert "portable" in str(caught.value.hint)


def test_unsupported_override_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops_native, "supported_isas", lambda: [("portable", True), ("avx9", False)])
    monkeypatch.setenv(FORCE_ISA, "avx9")
    with pytest.raises(BackendError, match="does not support it"):
        active_isa()


def test_override_reaches_another_process() -> None:
    code = "from cg.runtime.ops import open_ops; print(open_ops().isa)"
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, FORCE_ISA: "portable"},
    )
    assert (run.stdout, run.stderr) == ("portable\n", "")


def test_missing_extension_is_explained() -> None:
    code = (
        "import sys\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'cg.runtime._native': raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Hide())\n"
        "from cg.runtime import ops_native as o; print(o.import_problem(), o.supported_isas())\n"
        "try: o.NativeOps()\n"
        "except o.BackendError as e: print(e.hint)\n"
        "from cg.runtime.ops import available_backends; print(available_backends()[0].available)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    lines = run.stdout.splitlines()
    assert lines[0].startswith("compiled kernels are missing: no C++ compiler was found")
    assert lines[0].endswith("[]")
    assert "install a C++ compiler" in lines[1]
    assert lines[2] == "False"


@pytest.mark.parametrize("threads", [0, -1, 257])
def test_impossible_threads(threads: int) -> None:
    with pytest.raises(UsageError, match="threads: use 1 to 256"):
        NativeOps(threads=threads)


def test_default_threads() -> None:
    assert NativeOps().threads == physical_cores() >= 1


def test_unknown_activations() -> None:
    with pytest.raises(UsageError, match="unknown activations"):
        NativeOps(threads=1, activations="int4")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (Tensor("w", DType.Q4, (4, 64), np.zeros(127, np.uint8), floats(4, 2)), "127 bytes"),
        (Tensor("w", DType.Q4, (4, 64), np.zeros(128, np.uint8), None), "scales"),
        (Tensor("w", DType.Q4, (4, 64), np.zeros(128, np.uint8), floats(2, 4)), "scales"),
        (Tensor("w", DType.I8, (4, 48), np.zeros(192, np.uint8), floats(4, 1)), "multiple of 32"),
        (Tensor("w", DType.F32, (4, 64), np.zeros(4 * 64, np.uint8)), "256 bytes"),
        (Tensor("w", DType.F64, (1, 64), np.zeros(512, np.uint8)), "stored as F64"),
        (Tensor("w", DType.F32, (64,), np.zeros(256, np.uint8)), "only matrices"),
    ],
)
def test_broken_weights(ops: NativeOps, broken: Tensor, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        ops.matmul(floats(1, broken.shape[-1]), broken)
    with pytest.raises(CheckpointError, match=message):
        ops.embed(broken, np.zeros(1, np.int32), 1.0)


@pytest.mark.parametrize(
    "x",
    [floats(1, 32), floats(64), floats(1, 1, 64), np.ones((1, 64)), floats(1, 128)[:, ::2], floats(64, 2).T],
)
def test_activations_that_do_not_fit(ops: NativeOps, x: np.ndarray) -> None:
    with pytest.raises(UsageError, match="matmul"):
        ops.matmul(x, weight())


@pytest.mark.parametrize("bad", [-1, 4, 2**31 - 1, -(2**31)])
def test_ids_outside_the_table(ops: NativeOps, bad: int) -> None:
    with pytest.raises(UsageError, match=f"id {bad} is not one of the 4 rows"):
        ops.embed(weight(), np.array([0, bad], np.int32), 1.0)


def test_ids_of_another_type(ops: NativeOps) -> None:
    with pytest.raises(UsageError, match="int32"):
        ops.embed(weight(), np.array([0, 1], np.int64), 1.0)


def test_norms_and_residuals_that_do_not_fit(ops: NativeOps) -> None:
    with pytest.raises(UsageError, match="norm_matmul: x is"):
        ops.norm_matmul(floats(2, 64), floats(63), 1e-6, [weight()])
    with pytest.raises(UsageError, match="norm_matmul: x must be"):
        ops.norm_matmul(floats(2, 64), np.ones(64), 1e-6, [weight()])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="norm_geglu: gate is"):
        ops.norm_geglu(floats(2, 64), floats(64), 1e-6, weight(4), weight(5))
    with pytest.raises(UsageError, match="norm_geglu: x is"):
        ops.norm_geglu(floats(2, 64), floats(1, 64), 1e-6, weight(), weight())
    with pytest.raises(UsageError, match="norm_geglu: x and norm"):
        ops.norm_geglu(floats(2, 128)[:, ::2], floats(64), 1e-6, weight(), weight())
    with pytest.raises(UsageError, match="matmul: the residual is"):
        ops.matmul(floats(2, 64), weight(), floats(2, 5))
    with pytest.raises(UsageError, match="matmul: x must be"):
        ops.matmul(floats(2, 64), weight(), np.ones((2, 4)))  # type: ignore[arg-type]


def test_rotations_that_do_not_fit(ops: NativeOps) -> None:
    with pytest.raises(UsageError, match="rope"):
        ops.rope(floats(1, 2, 7), 0, 1e4)
    with pytest.raises(UsageError, match="rope"):
        ops.rope(floats(1, 2, 8).astype(np.float64), 0, 1e4)
    read_only = floats(1, 2, 8)
    read_only.flags.writeable = False
    with pytest.raises(UsageError, match="rope"):
        ops.rope(read_only, 0, 1e4)


@pytest.mark.parametrize(
    ("q", "keys", "values", "position"),
    [
        (floats(1, 4, 8), floats(1, 9, 8), floats(1, 8, 8), 0),
        (floats(1, 4, 8), floats(3, 9, 8), floats(3, 9, 8), 0),
        (floats(1, 4, 8), floats(1, 9, 4), floats(1, 9, 4), 0),
        (floats(2, 4, 8), floats(1, 9, 8), floats(1, 9, 8), 8),
        (floats(2, 4, 8), floats(1, 9, 8), floats(1, 9, 8), -1),
        (floats(1, 4, 8), floats(1, 9, 8), floats(1, 9, 8).astype(np.float16), 0),
        (floats(1, 4, 8), np.ones((1, 9, 8)), np.ones((1, 9, 8)), 0),
        (floats(1, 4, 8), floats(1, 9, 16)[:, :, ::2], floats(1, 9, 16)[:, :, ::2], 0),
        (floats(1, 8, 4).transpose(0, 2, 1), floats(1, 9, 8), floats(1, 9, 8), 0),
        (floats(4, 8), floats(1, 9, 8), floats(1, 9, 8), 0),
    ],
)
def test_attention_that_does_not_fit(
    ops: NativeOps, q: np.ndarray, keys: np.ndarray, values: np.ndarray, position: int
) -> None:
    with pytest.raises(UsageError, match="attention"):
        ops.attention(q, keys, values, position, 1.0)


def test_python_threads_may_share_one_instance() -> None:
    ops = NativeOps(threads=2, activations="int8")
    rng = np.random.default_rng(0)
    w = Tensor("w", DType.Q4, (512, 512), rng.integers(0, 256, 512 * 256, dtype=np.uint8), floats(512, 16))
    inputs = [rng.standard_normal((t, 512), dtype=np.float32) for t in (1, 2, 5, 20)] * 8
    expected = [ops.matmul(x, w) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for y, z in zip(pool.map(lambda x: ops.matmul(x, w), inputs), expected, strict=True):
            np.testing.assert_array_equal(y, z)


def test_many_instances_come_and_go() -> None:
    before = threading.active_count()
    for threads in (1, 2, 8) * 20:
        x = floats(1, 512)
        y = NativeOps(threads=threads).matmul(
            x, Tensor("w", DType.F32, (512, 512), floats(512 * 512).view(np.uint8))
        )
        assert (y == 512).all()
    assert threading.active_count() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_gets_threads_of_its_own() -> None:
    code = (
        "import os, numpy as np\n"
        "from cg.runtime.ops_native import NativeOps\n"
        "from cg.runtime.dtypes import DType\n"
        "from cg.runtime.tensor import Tensor\n"
        "ops = NativeOps(threads=3)\n"
        "w = Tensor('w', DType.F32, (600, 512), np.ones(600 * 512, np.float32).view(np.uint8))\n"
        "x = np.ones((1, 512), np.float32)\n"
        "run = lambda: bool((ops.matmul(x, w) == 512).all())\n"
        "assert run()\n"
        "pid = os.fork()\n"
        "if pid == 0: os._exit(0 if all(run() for _ in range(50)) else 1)\n"
        "print(run(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (run.stdout, run.stderr) == ("True 0\n", "")

"""Valid files, damaged at random: every one is read or refused with a CgError, never anything else."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cg.runtime.config import GemmaConfig
from cg.runtime.errors import CgError
from cg.runtime.formats.checkpoint import Checkpoint
from cg.runtime.formats.safetensors import SafetensorsFile

TOKENS = [
    b"-1", b"0", b"1", b"9223372036854775807", b"18446744073709551616", b"1e308", b"1e999", b"NaN", b"null",
    b"true", b"[]", b"{}", b"[[[[", b'""', b'"', b",", b":", b"}", b"]", b"\\ud800", b"\\u0000", b"\xff",
    b'"Q4"', b'"I8"', b'"F32"', b'"BOOL"', b'"F64"', b".qb", b'"__metadata__"', b'"shape"', b'"dtype"',
]  # fmt: skip


def damage(content: bytes, rng: random.Random, header_end: int) -> bytes:
    """One to three small changes, mostly in the header."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        limit = min(header_end if rng.random() < 0.6 else len(changed), len(changed)) or 1
        at = rng.randrange(limit)
        kind = rng.randrange(7)
        if kind == 0:
            changed[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            changed[at : at + 1] = bytes([(changed[at] if changed else 0) ^ (1 << rng.randrange(8))])
        elif kind == 2:
            del changed[at : at + rng.randint(1, 40)]
        elif kind == 3:
            changed[at:at] = rng.choice(TOKENS)
        elif kind == 4:
            token = rng.choice(TOKENS)
            changed[at : at + len(token)] = token
        elif kind == 5:
            del changed[rng.randrange(len(changed) + 1) :]
        else:  # a digit of some number
            digits = [i for i in range(min(header_end, len(changed))) if 48 <= changed[i] <= 57]
            if digits:
                changed[rng.choice(digits)] = 48 + rng.randrange(10)
    return bytes(changed)


def read_everything(path: Path) -> None:
    with SafetensorsFile(path) as f:
        for tensor in f.tensors.values():
            assert tensor.data.nbytes <= f.nbytes
            if tensor.dtype.is_float or tensor.dtype.is_quantized:
                assert tensor.dequantize().size == tensor.size
            else:
                assert tensor.storage().size == tensor.size
            assert tensor.data.sum(dtype="u8") >= 0  # touches every byte


def small_file(pack: Any, entry: Any) -> bytes:
    header = {
        "__metadata__": {"format": "pt"},
        "a.weight": entry("Q4", [2, 64], 0, 64),
        "a.weight.qb": entry("F32", [2, 2], 64, 80),
        "b": entry("BF16", [3, 4], 80, 104),
        "c": entry("I8", [1, 32], 104, 136),
        "c.qb": entry("F32", [1, 1], 136, 140),
        "d": entry("BOOL", [], 140, 141),
    }
    return bytes(pack(header, bytes(range(141))))


def survive(count: int, seed: int, once: Callable[[random.Random], None]) -> tuple[int, int]:
    read = refused = 0
    for i in range(count):
        rng = random.Random(f"{seed}/{i}")
        try:
            once(rng)
            read += 1
        except CgError:
            refused += 1
        except Exception as e:
            pytest.fail(f"mutation {seed}/{i}: {type(e).__name__}: {e}")
    return read, refused


def test_damaged_small_files(tmp_path: Path, pack: Any, entry: Any) -> None:
    content = small_file(pack, entry)
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    read_everything(path)

    def once(rng: random.Random) -> None:
        path.write_bytes(damage(content, rng, len(content) - 141))
        read_everything(path)

    read, refused = survive(3000, 1, once)
    assert read > 30
    assert refused > 1500


@pytest.mark.parametrize("name", ["edge", "edge-Q4", "edge-I8"])
def test_damaged_golden_files(golden: Path, tmp_path: Path, name: str) -> None:
    content = (golden / name / "model.safetensors").read_bytes()
    header_end = 8 + int.from_bytes(content[:8], "little")
    path = tmp_path / "x.safetensors"

    def once(rng: random.Random) -> None:
        path.write_bytes(damage(content, rng, header_end))
        read_everything(path)

    read, refused = survive(300, 2, once)
    assert read > 5
    assert refused > 150


def test_damaged_lengths(tmp_path: Path, pack: Any, entry: Any) -> None:
    content = small_file(pack, entry)
    path = tmp_path / "x.safetensors"

    def once(rng: random.Random) -> None:
        path.write_bytes(rng.randbytes(rng.randint(0, 9)) + content[8 : rng.randint(8, len(content))])
        read_everything(path)

    assert survive(500, 3, once) == (0, 500)


@pytest.mark.parametrize("victim", ["config.json", "model.safetensors.index.json"])
def test_damaged_json_beside_the_weights(golden: Path, tmp_path: Path, victim: str) -> None:
    config = json.loads((golden / "gemma-mqa" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    shutil.copy(golden / "edge" / "model.safetensors", tmp_path / "model-1.safetensors")
    with SafetensorsFile(tmp_path / "model-1.safetensors") as f:
        index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(f.tensors, "model-1.safetensors")}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    content = (tmp_path / victim).read_bytes()

    def once(rng: random.Random) -> None:
        (tmp_path / victim).write_bytes(damage(content, rng, len(content)))
        with Checkpoint.open(tmp_path) as checkpoint:
            assert len(checkpoint.tensors) == 13
            GemmaConfig.from_json(checkpoint.config)

    read, refused = survive(600, 4, once)
    assert read > 5
    assert refused > 250

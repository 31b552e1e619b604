"""How well a model folder fills holes in held-out standard-library modules (greedy decoding, PSM and SPM).

    eval_infill.py runtime/demo --holes 500 --json

A short hole is 1 to 24 characters of one line of code, beginning where a cursor stands (at the first
character of a word, a number or a punctuation mark) and ending at the end of such a one. Holes in comments
and docstrings are counted apart, as `prose`. `rest` is the same cursor with everything to the line's end
missing, whatever its length. A model stops by itself when it emits end of text or one of the four FIM ids
within `--max-tokens`.
"""

from __future__ import annotations

import argparse
import io
import json
import lzma
import math
import sys
import sysconfig
import tokenize
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import sentencepiece
import torch
from demo_corpus import BOS, FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX, STOP_IDS, WORD, Module
from demo_model import Cache, DemoGemma, load
from torch.nn import functional

SHORT = 24
PREFIX_CHARACTERS, SUFFIX_CHARACTERS = 700, 300
BUCKETS = ((1, 4), (5, 8), (9, 16), (17, 24))
ORDERS = ("psm", "spm")


@dataclass(frozen=True, slots=True)
class Hole:
    """A span left out of a module; `kind` is code, prose (comment or docstring) or rest."""

    path: str
    prefix: str
    middle: str
    suffix: str
    kind: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model filled in, and whether it stopped by itself."""

    hole: Hole
    order: str
    text: str
    stopped: bool

    @property
    def exact(self) -> bool:
        """Stopped, and character by character what was left out."""
        return self.stopped and self.text == self.hole.middle


def read_held_out(names: list[str]) -> list[Module]:
    """The named modules of the running interpreter's library."""
    root = Path(sysconfig.get_path("stdlib"))
    return [Module(name, (root / name).read_text("utf-8"), 1.0) for name in names]


def prose_lines(text: str) -> frozenset[int]:
    """Numbers, from 1, of the lines that are a comment or part of a string statement (a docstring)."""
    lines: set[int] = set()
    fresh = True
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and not token.line[: token.start[1]].strip():
            lines.add(token.start[0])
        elif token.type == tokenize.STRING and fresh:
            lines.update(range(token.start[0], token.end[0] + 1))
        if token.type not in (tokenize.COMMENT, tokenize.NL):
            fresh = token.type in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING)
    return frozenset(lines)


def draw_holes(modules: list[Module], kind: str, count: int, seed: int) -> list[Hole]:
    """Distinct holes; module (of 20 lines or more), line, cursor and end are each drawn uniformly."""
    rng = np.random.default_rng((seed, *kind.encode()))
    pool = []
    for module in modules:
        prose = prose_lines(module.text)
        numbered = enumerate(module.text.splitlines(keepends=True), 1)
        offset, lines = 0, []
        for number, line in numbered:
            if line.strip() and (number in prose) == (kind == "prose"):
                lines.append((offset, offset + len(line.rstrip("\n"))))
            offset += len(line)
        if len(lines) >= 20:
            pool.append((module, lines))
    holes: dict[tuple[str, int, int], Hole] = {}
    while len(holes) < count:
        module, lines = pool[int(rng.integers(len(pool)))]
        begin, end = lines[int(rng.integers(len(lines)))]
        words = [(m.start(), m.end()) for m in WORD.finditer(module.text, begin, end)]
        if not words:
            continue
        first = int(rng.integers(len(words)))
        start = words[first][0]
        ends = [end] if kind == "rest" else [e for _, e in words[first:] if e - start <= SHORT]
        if ends:
            stop = ends[int(rng.integers(len(ends)))]
            holes[module.path, start, stop] = cut(module, start, stop, kind)
    return list(holes.values())


def cut(module: Module, start: int, stop: int, kind: str) -> Hole:
    """The hole with the context that the model sees: whole lines, as far as the limits allow."""
    text, low, high = module.text, max(0, start - PREFIX_CHARACTERS), stop + SUFFIX_CHARACTERS
    low = text.find("\n", low, start) + 1 or low if low else 0
    high = text.rfind("\n", stop, high) if high < len(text) else len(text)
    return Hole(module.path, text[low:start], text[start:stop], text[stop : max(stop, high)], kind)


def prompt(tokenizer: sentencepiece.SentencePieceProcessor, hole: Hole, order: str) -> list[int]:
    """Token ids up to and including `<|fim_middle|>`, the path line first."""
    path, prefix, suffix = (tokenizer.encode(t) for t in (f"{hole.path}\n", hole.prefix, hole.suffix))
    if order == "psm":
        return [BOS, *path, FIM_PREFIX, *prefix, FIM_SUFFIX, *suffix, FIM_MIDDLE]
    return [BOS, *path, FIM_SUFFIX, *suffix, FIM_PREFIX, *prefix, FIM_MIDDLE]


@torch.inference_mode()
def complete(model: DemoGemma, ids: list[int], max_tokens: int) -> Iterator[int]:
    """Greedy ids, the stop id included, at most `max_tokens`."""
    cache: Cache = []
    fresh = torch.tensor([ids])
    for _ in range(max_tokens):
        token = int(model.logits(model(fresh, cache)[0, -1]).argmax())
        yield token
        if token in STOP_IDS:
            return
        fresh = torch.tensor([[token]])


def answer(
    model: DemoGemma, tokenizer: sentencepiece.SentencePieceProcessor, hole: Hole, order: str, max_tokens: int
) -> Answer:
    """Fill one hole."""
    ids = list(complete(model, prompt(tokenizer, hole, order), max_tokens))
    stopped = bool(ids) and ids[-1] in STOP_IDS
    return Answer(hole, order, tokenizer.decode(ids[:-1] if stopped else ids), stopped)


@torch.inference_mode()
def bits_per_byte(
    model: DemoGemma,
    tokenizer: sentencepiece.SentencePieceProcessor,
    modules: list[Module],
    window: int = 512,
    windows: int = 400,
) -> dict[str, float]:
    """Plain language modelling in windows that each begin with BOS, beside `xz -9` on the same bytes."""
    nats, count, raw = 0.0, 0, b""
    for module in modules:
        ids = tokenizer.encode(module.text)
        for i in range(0, len(ids), window):
            chunk = ids[i : i + window]
            if len(chunk) < 32 or count > windows * window:
                continue
            logits = model.logits(model(torch.tensor([[BOS, *chunk[:-1]]])))
            nats += float(functional.cross_entropy(logits[0], torch.tensor(chunk), reduction="sum"))
            count += len(chunk)
            raw += tokenizer.decode(chunk).encode()
    return {
        "bits_per_byte": round(nats / math.log(2) / len(raw), 4),
        "xz_bits_per_byte": round(8 * len(lzma.compress(raw, preset=9)) / len(raw), 4),
        "tokens": count,
    }


def rates(answers: list[Answer]) -> dict[str, float]:
    """Shares in percent."""
    count = len(answers)
    return {
        "holes": count,
        "exact": round(100 * sum(a.exact for a in answers) / max(1, count), 1),
        "stops": round(100 * sum(a.stopped for a in answers) / max(1, count), 1),
    }


def summary(answers: list[Answer]) -> dict[str, dict[str, dict[str, float]]]:
    """By order, then by kind; short code holes also by length."""
    result: dict[str, dict[str, dict[str, float]]] = {}
    for order in ORDERS:
        mine = [a for a in answers if a.order == order]
        rows = {kind: rates([a for a in mine if a.hole.kind == kind]) for kind in ("code", "prose", "rest")}
        code = [a for a in mine if a.hole.kind == "code"]
        for low, high in BUCKETS:
            rows[f"code {low}-{high}"] = rates([a for a in code if low <= len(a.hole.middle) <= high])
        result[order] = rows
    return result


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="model folder with tokenizer.model")
    parser.add_argument(
        "--held-out", type=Path, help="metrics.json with the list (default: the model folder's)"
    )
    parser.add_argument(
        "--holes", type=int, default=500, help="short code holes; a third as many of each other kind"
    )
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-bits", action="store_true", help="skip bits per byte")
    parser.add_argument("--show", type=int, default=0, help="print this many answers to stderr")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main() -> None:
    """Evaluate and print."""
    a = parse_arguments()
    torch.set_num_threads(a.threads)
    names: list[str] = json.loads((a.held_out or a.model / "metrics.json").read_text("utf-8"))["held_out"]
    modules = read_held_out(names)
    model = load(a.model).eval()
    tokenizer = sentencepiece.SentencePieceProcessor(str(a.model / "tokenizer.model"))
    holes = [
        hole
        for kind, count in (("code", a.holes), ("prose", a.holes // 3), ("rest", a.holes // 3))
        for hole in draw_holes(modules, kind, count, a.seed)
    ]
    answers = [answer(model, tokenizer, hole, order, a.max_tokens) for order in ORDERS for hole in holes]
    for shown in answers[: a.show]:
        print(json.dumps(asdict(shown) | {"exact": shown.exact}), file=sys.stderr)
    result: dict[str, object] = {"infilling": summary(answers)}
    if not a.no_bits:
        result["language_modelling"] = bits_per_byte(model, tokenizer, modules)
    if a.json:
        print(json.dumps(result, indent=1))
        return
    for order, rows in summary(answers).items():
        for kind, row in rows.items():
            figures = f"exact {row['exact']:5.1f} %  stops {row['stops']:5.1f} %"
            print(f"{order} {kind:12} {row['holes']:5.0f} holes  {figures}")
    if not a.no_bits:
        print(result["language_modelling"])


if __name__ == "__main__":
    main()

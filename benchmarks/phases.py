"""What is measured, phase by phase. Every phase starts the programs that it needs and ends them."""

from __future__ import annotations

import random
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import programs
from conversation import Worker, settle
from figures import ENGINES
from rounds import Question, Sample, Samples, run_rounds
from weights import Weights

__all__ = ["FULL", "SMOKE", "Run", "Sizes"]

_HERE = Path(__file__).parent
_NO_LIMIT = "The share of the read-bandwidth limit is left out: this cg cannot measure bandwidth."
_SETTINGS = ("package", "version", "settings", "system")


@dataclass(frozen=True, slots=True)
class Sizes:
    """Tokens of every test."""

    prompt: int = 512
    decode: int = 32
    decodes: int = 3
    """How often a round measures decoding and the limit of it."""
    depth: int = 4096
    batches: tuple[int, int] = (4, 8)
    repeat: int = 8
    """How often a batch is repeated within a round."""
    start: int = 16
    """Prompt of the peers' first token; that of cg has about as many."""
    seven_b: int = 16


FULL = Sizes()
SMOKE = Sizes(prompt=32, decode=4, decodes=1, depth=64, repeat=1, seven_b=4)


@dataclass(slots=True)
class Run:
    """One run of the benchmark and what it has found so far."""

    weights: Weights
    work: Path
    sizes: Sizes
    rounds: int
    threads: int
    pythons: Mapping[str, Path]
    """Of the peers' environments that are there, by engine."""
    say: Callable[[str], None]
    samples: Samples = field(default_factory=dict)
    engines: dict[str, Any] = field(default_factory=dict)
    bandwidth: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    private_bytes: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def prepare(self) -> None:
        """Make the files that the other phases load, where they are not there yet."""
        if "llama" in self.pythons:
            self.weights.make_gguf()
            if not self.weights.gguf_q4.is_file():
                programs.reported(self._llama_quantize())
        # Made anew every time: another version of the code may write other blocks.
        programs.program(self.weights.quantize_with_cg(self.threads))

    def quantize(self) -> None:
        """cg, llama.cpp and ik_llama.cpp from their own bf16 files, which are in the page cache."""
        for number in range(1, self.rounds + 1):
            self._add("quantize", "cg", programs.program(self.weights.quantize_with_cg(self.threads)))
            if "llama" in self.pythons:
                self._add("quantize", "llama", programs.reported(self._llama_quantize()))
            if "ik" in self.pythons:
                target = self.weights.folder / "ik-q4_0.gguf"
                command = programs.ik_quantize(self.pythons["ik"], self.weights.gguf, target, self.threads)
                self._add("quantize", "ik", programs.program(command))
                target.unlink()
            self.say(f"round {number}/{self.rounds} quantize")

    def start(self) -> None:
        """A fresh process to its first token."""
        model = self.weights.with_tokenizer()
        if model is None:
            self.notes.append("Warm start left out: npm, which has Gemma's tokenizer, is not there.")
            return
        ids = self._ids(self.sizes.start)
        home = self.work / "cg-home"
        shutil.rmtree(home, ignore_errors=True)
        for number in range(self.rounds + 1):
            sample = programs.cg_first_token(model, self.threads, number, home)
            if number == 0:
                continue  # files come into the page cache, cg may prepare what it keeps
            self._add("start", "cg", sample)
            for engine in ("llama", "ik"):
                if engine in self.pythons:
                    command, log = self._ggml(engine, self.weights.gguf_q4), self._log(engine)
                    self._add("start", engine, programs.worker_first_token(command, log, ids))
            self.say(f"round {number}/{self.rounds} warm start")

    def main(self) -> None:
        """Private memory, decoding, prompts, small batches, and decoding behind many tokens."""
        s, cached = self.sizes, ("cg", "cg_f16", "llama", "ik")
        everybody = (*cached, "torch")
        programs.program(self.weights.optimize_with_cg(), self._optimized)
        with self._workers(self._quantized()) as workers:
            for engine in cached:
                if engine in workers:
                    self._watch_memory(engine, workers[engine])
            if "torch" in workers:
                workers["torch"].ask("prompt", ids=self._ids(s.prompt))
            decode = Question("decode", "decode", {"ids": self._ids(s.decode)}, everybody)
            questions = [
                Question("prompt", "prompt", {"ids": self._ids(s.prompt)}, everybody),
                *(
                    Question(f"batch{n}", "batch", {"ids": self._ids(n), "repeat": s.repeat}, everybody)
                    for n in (1, *s.batches)
                ),
            ]
            for _ in range(self.rounds):
                # Several times a round: memory may be fast in one second and slow in the next.
                for _ in range(s.decodes):
                    run_rounds([decode], workers, 1, self.samples, self.say)
                    self._measure_limit("2b", workers["cg"])  # afterwards: it leaves cg wide awake
                run_rounds(questions, workers, 1, self.samples, self.say)
            for engine in cached:
                if engine in workers:
                    self.say(f"{ENGINES[engine]} reads {s.depth} tokens")
                    workers[engine].ask("fill", depth=s.depth, ids=self._ids(s.depth))
            questions = [
                Question("depth0", "decode", {"ids": self._ids(s.decode)}, cached),
                Question("depth", "decode", {"ids": self._ids(s.decode), "depth": s.depth}, cached),
            ]
            run_rounds(questions, workers, self.rounds * s.decodes, self.samples, self.say)

    def default(self) -> None:
        """Decoding beside the peers with the file that their own quantizer makes by default."""
        if "llama" not in self.pythons:
            return
        if not self.weights.gguf_default.is_file():
            programs.reported(self._llama_quantize(default=True))
        commands = {"cg": self._cg(self.weights.q4)} | self._peers(self.weights.gguf_default)
        arguments = {"ids": self._ids(self.sizes.decode)}
        question = Question("default", "decode", arguments, tuple(commands))
        with self._workers(commands, " (default file)") as workers:
            for worker in workers.values():
                worker.ask("decode", **arguments)
            run_rounds([question], workers, self.rounds * self.sizes.decodes, self.samples, self.say)

    def original(self) -> None:
        """A prompt on the unquantized weights."""
        commands = {"cg": self._cg(self.weights.source), "torch": self._torch("f32")}
        if "llama" in self.pythons:
            commands["llama"] = self._ggml("llama", self.weights.gguf)
        arguments = {"ids": self._ids(self.sizes.prompt)}
        question = Question("original", "prompt", arguments, ("cg", "llama", "torch"))
        with self._workers(commands, " (original weights)") as workers:
            for worker in workers.values():
                worker.ask("prompt", ids=self._ids(self.sizes.prompt))
            run_rounds([question], workers, self.rounds, self.samples, self.say)

    def seven_b(self, folder: Path) -> None:
        """Decoding on the larger model, cg alone."""
        arguments = {"ids": self._ids(self.sizes.seven_b)}
        question = Question("seven_b", "decode", arguments, ("cg",))
        with self._workers({"cg": self._cg(folder)}, " (7b)") as workers:
            workers["cg"].ask("decode", **arguments)
            for _ in range(self.rounds * self.sizes.decodes):
                self._measure_limit("7b", workers["cg"])
                run_rounds([question], workers, 1, self.samples, self.say)

    def _quantized(self) -> dict[str, list[str]]:
        plain = self._cg(self.weights.q4)
        own = {"cg": plain, "cg_f16": [*plain, "optimized"]}
        return own | self._peers(self.weights.gguf_q4) | {"torch": self._torch("int4")}

    def _peers(self, file: Path) -> dict[str, list[str]]:
        """Both programs that run GGUF, as far as they are there."""
        return {e: self._ggml(e, file) for e in ("llama", "ik") if e in self.pythons}

    @property
    def _optimized(self) -> dict[str, str]:
        """Where ``cg optimize`` puts its scales: a folder that no other phase looks into."""
        return {"CG_HOME": str(self.work / "cg-home-optimized")}

    def _cg(self, folder: Path) -> list[str]:
        return [sys.executable, str(_HERE / "cg_worker.py"), str(folder), str(self.threads)]

    def _ggml(self, engine: str, file: Path) -> list[str]:
        script = str(_HERE / "ggml_worker.py")
        return [str(self.pythons[engine]), script, engine, str(file), str(self.threads)]

    def _torch(self, kind: str) -> list[str]:
        config = str(self.weights.source / "config.json")
        return [sys.executable, str(_HERE / "torch_worker.py"), config, kind, str(self.threads)]

    def _llama_quantize(self, *, default: bool = False) -> list[str]:
        return self.weights.quantize_with_llama(self.pythons["llama"], self.threads, default=default)

    @contextmanager
    def _workers(self, commands: Mapping[str, Sequence[str]], of: str = "") -> Iterator[dict[str, Worker]]:
        """The workers of the engines that are there, loaded, and ended afterwards."""
        workers: dict[str, Worker] = {}
        with ExitStack() as stack:
            for engine, command in commands.items():
                if engine == "torch" and find_spec("torch") is None:
                    continue
                self.say(f"loading {ENGINES[engine]}{of}")
                worker = Worker(engine, command, self._log(engine), self._optimized)
                workers[engine] = stack.enter_context(worker)
                told = workers[engine].description
                self.engines[f"{ENGINES[engine]}{of}"] = {key: told[key] for key in _SETTINGS if key in told}
            yield workers

    def _watch_memory(self, engine: str, worker: Worker) -> None:
        """The peak while a prompt is read and tokens are decoded, beyond the cache of the prompt."""
        peak = max(
            worker.ask_watched("prompt", ids=self._ids(self.sizes.prompt)),
            worker.ask_watched("decode", ids=self._ids(self.sizes.decode)),
        )
        self.private_bytes[engine] = peak - self.sizes.prompt * self.weights.cache_bytes_per_token

    def _measure_limit(self, model: str, worker: Worker) -> None:
        settle()
        found = worker.ask("bandwidth")
        if found is not None:
            self.bandwidth.setdefault(model, []).append(found)
        elif _NO_LIMIT not in self.notes:
            self.notes.append(_NO_LIMIT)

    def _ids(self, count: int) -> list[int]:
        """The same random ids for everybody, BOS first."""
        draw = random.Random(0)
        vocabulary = self.weights.config["vocab_size"]
        return [self.weights.config["bos_token_id"], *(draw.randrange(vocabulary) for _ in range(count - 1))]

    def _add(self, figure: str, engine: str, sample: Sample) -> None:
        self.samples.setdefault(figure, {}).setdefault(engine, []).append(sample)

    def _log(self, engine: str) -> Path:
        return self.work / f"worker-{engine}.log"

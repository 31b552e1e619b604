"""Text in, text out: completion, fill-in-the-middle and chat on one loaded model."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from cg.runtime.cache import KVDType
from cg.runtime.completion import Completion, TextStream, Timings
from cg.runtime.engine import Engine, Progress
from cg.runtime.errors import ContextLengthError, SamplingError
from cg.runtime.formats.preload import PreloadProgress
from cg.runtime.loading import LoadedModel, load_model
from cg.runtime.ops import Activations, Backend
from cg.runtime.prompts.chat import ChatTemplate, Message
from cg.runtime.prompts.fim import ContextFile, FimMode, FimPrompt, build_fim, build_plain, stop_ids
from cg.runtime.sampling import SamplingOptions, make_sampler
from cg.runtime.stopping import StopStrings

__all__ = ["Model", "load"]


class Model:
    """A loaded model with one conversation's key-value cache. Use :func:`load` to make one.

    Not for two threads at once: the cache belongs to one sequence.
    """

    def __init__(self, parts: LoadedModel, engine: Engine) -> None:
        self.folder = parts.folder
        self.config = parts.model.config
        self.tokenizer = parts.tokenizer
        self.template = parts.template
        self.engine = engine
        self.warning = parts.warning
        """What the user should know about how the model was loaded, if anything."""
        # An instruct model ends its completions like its answers.
        self.stop_ids = stop_ids(
            parts.tokenizer, chat=self.template.has_template, eos_ids=self.config.eos_token_ids
        )
        self._checkpoint = parts.checkpoint

    def stream(
        self,
        prefix: str,
        suffix: str | None = None,
        *,
        path: str | None = None,
        context: Sequence[ContextFile] = (),
        mode: FimMode = "psm",
        max_tokens: int = 128,
        sampling: SamplingOptions | None = None,
        stop: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> TextStream:
        """Fill in what stands between ``prefix`` and ``suffix``; without a suffix, continue the prefix.

        ``path`` is the name of the file being edited, ``context`` other files of the project, the most
        related last. What does not fit the context is cut (see the stream's ``notes``): context files
        first, then the prefix from its start and the suffix from its end.
        """
        budget = self._prompt_budget(max_tokens)
        if suffix is None:
            prompt = build_plain(self.tokenizer, prefix, path=path, context=context, budget=budget)
        else:
            prompt = build_fim(
                self.tokenizer, prefix, suffix, mode=mode, path=path, context=context, budget=budget
            )
        return self.stream_ids(prompt, max_tokens=max_tokens, sampling=sampling, stop=stop, progress=progress)

    def complete(
        self,
        prefix: str,
        suffix: str | None = None,
        *,
        path: str | None = None,
        context: Sequence[ContextFile] = (),
        mode: FimMode = "psm",
        max_tokens: int = 128,
        sampling: SamplingOptions | None = None,
        stop: Sequence[str] = (),
    ) -> Completion:
        """:meth:`stream`, run to its end."""
        return self.stream(
            prefix,
            suffix,
            path=path,
            context=context,
            mode=mode,
            max_tokens=max_tokens,
            sampling=sampling,
            stop=stop,
        ).result

    def generate(
        self,
        prompt: str,
        *,
        max_tokens: int = 128,
        sampling: SamplingOptions | None = None,
        stop: Sequence[str] = (),
    ) -> Completion:
        """Continue ``prompt`` as plain text; alias of :meth:`complete` without a suffix."""
        return self.complete(prompt, max_tokens=max_tokens, sampling=sampling, stop=stop)

    def chat(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int = 512,
        sampling: SamplingOptions | None = None,
        stop: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> TextStream:
        """The model's answer to a conversation; earlier turns are not computed again.

        Raises:
            PromptError: wrong roles, or a model without a chat template.
            ContextLengthError: the conversation and ``max_tokens`` do not fit the context.
        """
        ids = self.template.render(messages)
        if len(ids) > self._prompt_budget(max_tokens):
            raise ContextLengthError(
                f"the conversation has {len(ids)} tokens; with {max_tokens} for the answer that is more than "
                f"the context of {self.engine.context_length}",
                hint="start over (/reset), or ask for a shorter answer",
            )
        return self.stream_ids(
            FimPrompt(ids, []), max_tokens=max_tokens, sampling=sampling, stop=stop, progress=progress
        )

    def use_template(self, source: str) -> None:
        """Chat through another jinja2 template, e.g. Gemma's turns for a base model that has none."""
        self.template = ChatTemplate(source, self.tokenizer)
        self.stop_ids = stop_ids(self.tokenizer, chat=True, eos_ids=self.config.eos_token_ids)

    def stream_ids(
        self,
        prompt: FimPrompt,
        *,
        max_tokens: int,
        sampling: SamplingOptions | None = None,
        stop: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> TextStream:
        """Generate after a prompt that is already token ids."""
        sampling = sampling or SamplingOptions()
        stops = StopStrings(stop)
        return TextStream(self._run(prompt, max_tokens, sampling, stops, progress), prompt.dropped)

    def _run(
        self,
        prompt: FimPrompt,
        max_tokens: int,
        sampling: SamplingOptions,
        stops: StopStrings,
        progress: Progress | None,
    ) -> Generator[str, None, Completion]:
        cached = self.engine.cache.common_prefix(prompt.ids[:-1])
        detokenizer = self.tokenizer.stream()
        ids: list[int] = []
        pieces: list[str] = []
        decoded = 0
        reason = "context"
        started = first = last = time.perf_counter()
        choose, entries = make_sampler(sampling), self.tokenizer.vocab_size
        # Rows of the output head beyond the tokenizer's entries are padding.
        steps = self.engine.generate_step(
            prompt.ids, lambda logits, seen: choose(logits[:entries], seen), progress
        )
        for token in steps:
            last = time.perf_counter()
            first = first if decoded else last
            decoded += 1
            if token in self.stop_ids:
                reason = "stop_token"
                break
            ids.append(token)
            piece = stops.push(detokenizer.push(token))
            if piece:
                pieces.append(piece)
                yield piece
            if stops.found is not None:
                reason = "stop_string"
                break
            if len(ids) == max_tokens:
                reason = "length"
                break
        if stops.found is None:
            piece = stops.push(detokenizer.finish()) + stops.finish()
            if piece:
                pieces.append(piece)
                yield piece
        timings = Timings(len(prompt.ids), cached, decoded, first - started, last - first)
        return Completion("".join(pieces), ids, reason, prompt.dropped, timings)

    def _prompt_budget(self, max_tokens: int) -> int:
        if max_tokens < 1:
            raise SamplingError(f"max-tokens is {max_tokens}, expected 1 or more")
        budget = self.engine.context_length - max_tokens
        if budget < 1:
            raise ContextLengthError(
                f"{max_tokens} tokens to generate leave no room for a prompt in a context of "
                f"{self.engine.context_length}",
                hint="lower --max-tokens",
            )
        return budget

    def close(self) -> None:
        """Unmap the file."""
        self._checkpoint.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load(
    path: str | Path,
    *,
    backend: Backend = "auto",
    threads: int | None = None,
    activations: Activations | None = None,
    context_length: int | None = None,
    kv_dtype: KVDType = "f16",
    preload: bool = False,
    preload_progress: PreloadProgress | None = None,
) -> Model:
    """Open a model folder, original or quantized, straight from its memory-mapped files.

    With ``preload`` all of the weights are read into the page cache first; ``preload_progress`` is called
    with the bytes so far and in all, and may raise to cancel.

    Raises:
        UsageError: preloading was asked for, and memory cannot hold the weights.
        FormatError: a file is missing or malformed.
        BackendError: the backend is not available here.
        ContextLengthError: ``context_length`` exceeds what the model was trained for.
    """
    parts = load_model(
        Path(path),
        backend=backend,
        threads=threads,
        activations=activations,
        preload=preload,
        preload_progress=preload_progress,
    )
    return Model(parts, Engine(parts.model, context_length=context_length, kv_dtype=kv_dtype))

"""``cg chat``: a conversation in the terminal."""

from __future__ import annotations

import sys

from cg.cli import output
from cg.cli.conversation import HELP, Conversation
from cg.cli.loading import load_model
from cg.cli.options import (
    ActivationsOption,
    BackendOption,
    ContextLengthOption,
    MaxTokensOption,
    MinPOption,
    ModelOption,
    PenaltyOption,
    PreloadOption,
    SeedOption,
    TemperatureOption,
    ThreadsOption,
    TopKOption,
    TopPOption,
    model_folder,
    tell_fallback,
)
from cg.cli.start import import_numpy

__all__ = ["Conversation", "chat"]


def chat(
    model: ModelOption = None,
    max_tokens: MaxTokensOption = 512,
    temperature: TemperatureOption = 0.7,
    top_k: TopKOption = 0,
    top_p: TopPOption = 0.95,
    min_p: MinPOption = 0.0,
    repetition_penalty: PenaltyOption = 1.0,
    seed: SeedOption = None,
    context_length: ContextLengthOption = None,
    backend: BackendOption = "auto",
    threads: ThreadsOption = None,
    activations: ActivationsOption = None,
    preload: PreloadOption = False,
) -> None:
    """Talk to an instruction-tuned model (codegemma-7b-it).

    /reset starts over, /save FILE writes the conversation, /quit or Ctrl-D leaves, Ctrl-C stops an
    answer. Standard input that is not a terminal is read line by line, one turn each.

    \b
    Examples:
      cg chat -m codegemma-7b-it-q4 --preload
      echo 'What does functools.partial do?' | cg chat -m codegemma-7b-it-q4 --temperature 0
    """
    folder = model_folder(model)
    import_numpy(backend)
    tell_fallback(backend)

    from cg.runtime import SamplingOptions
    from cg.runtime.prompts.chat import GEMMA_TEMPLATE

    sampling = SamplingOptions(temperature, top_k, top_p, min_p, repetition_penalty, seed)
    with load_model(
        folder,
        backend=backend,
        threads=threads,
        activations=activations,
        context_length=context_length,
        preload=preload,
    ) as engine:
        if engine.tokenizer.note is not None:
            output.detail(engine.tokenizer.note)
        if not engine.template.has_template:
            engine.use_template(GEMMA_TEMPLATE)
            output.warn(
                f"{folder.name} is a base model without a chat template: it was not trained to answer, "
                "so expect text that merely continues yours; codegemma-7b-it is the one for chat"
            )
        if sys.stdin.isatty():
            output.note(HELP)
        Conversation(engine, sampling, max_tokens).run()

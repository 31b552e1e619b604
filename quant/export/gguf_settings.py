"""config.json and the tokenizer's files from a GGUF file's metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cg.quant.export.gguf_file import GgufFile
from cg.quant.export.gguf_metadata import FIM_KEYS
from cg.quant.export.vocabulary import Pieces, PieceType
from cg.runtime.errors import CheckpointError, TokenizerError, UsageError

__all__ = ["check_model", "config_of", "pieces_of", "special_ids", "tokenizer_settings"]

_INTEGERS = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "max_position_embeddings": "context_length",
}
_ROLES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
"""Hugging Face's name of a special token, and GGUF's."""
_EMBEDDING = "token_embd.weight"


def check_model(file: GgufFile) -> None:
    """Refuse what is no Gemma model, or not all of one.

    Raises:
        CheckpointError: another architecture.
        UsageError: the file is one of several.
    """
    architecture = file.metadata.get("general.architecture")
    if architecture != "gemma":
        raise CheckpointError(
            f"{file.path}: the architecture is {architecture!r}, not 'gemma'",
            hint="cg runs CodeGemma and other first-generation Gemma models",
        )
    parts = file.metadata.get("split.count", 1)
    if parts not in (0, 1):
        raise UsageError(
            f"{file.path} is one of {parts} files", hint="join them first: llama-gguf-split --merge FIRST OUT"
        )


def config_of(file: GgufFile, special: Mapping[str, int]) -> dict[str, Any]:
    """config.json; ``special`` are the ids of :func:`special_ids`.

    Raises:
        CheckpointError: a number is missing or not a number, or the embedding is missing.
    """
    if _EMBEDDING not in file.tensors or len(file.tensors[_EMBEDDING].shape) != 2:
        raise CheckpointError(f"{file.path}: there is no matrix {_EMBEDDING}")
    config: dict[str, Any] = {"architectures": ["GemmaForCausalLM"], "model_type": "gemma"}
    for ours, theirs in _INTEGERS.items():
        config[ours] = _number(file, f"gemma.{theirs}", int)
    config["vocab_size"] = file.tensors[_EMBEDDING].shape[0]
    config["rms_norm_eps"] = _shortest(_number(file, "gemma.attention.layer_norm_rms_epsilon", float))
    config["rope_theta"] = _shortest(_number(file, "gemma.rope.freq_base", float, 10000.0))
    config |= {f"{role}_token_id": special[role] for role in ("bos", "eos", "pad")}
    activation = "gelu_pytorch_tanh"
    config |= {"hidden_act": activation, "hidden_activation": activation, "attention_bias": False}
    return config | {"tie_word_embeddings": True, "torch_dtype": "bfloat16"}


def pieces_of(file: GgufFile) -> Pieces:
    """The vocabulary, with CodeGemma's names for the tokens that fill the middle.

    Raises:
        TokenizerError: it is malformed, or of another kind than Gemma's.
    """
    model = file.metadata.get("tokenizer.ggml.model")
    if model != "llama":
        raise TokenizerError(f"{file.path}: the tokenizer is {model!r}, not a sentencepiece model as Gemma's")
    texts = _list(file, "tokenizer.ggml.tokens", str)
    scores = _list(file, "tokenizer.ggml.scores", float)
    numbers = _list(file, "tokenizer.ggml.token_type", int)
    if not len(texts) == len(scores) == len(numbers):
        raise TokenizerError(
            f"{file.path}: {len(texts)} tokens with {len(scores)} scores and {len(numbers)} types"
        )
    try:
        types = [PieceType(number) for number in numbers]
    except ValueError as error:
        raise TokenizerError(f"{file.path}: token type {error}") from None
    for key, name in FIM_KEYS.items():
        token_id = file.metadata.get(key)
        if isinstance(token_id, int) and 0 <= token_id < len(texts):
            texts[token_id], types[token_id] = name, PieceType.CONTROL
    for token_id, kind in enumerate(types):
        if kind is PieceType.USER_DEFINED:
            texts[token_id] = texts[token_id].replace(" ", "▁")
    return Pieces(tuple(texts), tuple(scores), tuple(types)).stripped()


def special_ids(file: GgufFile, pieces: Pieces) -> dict[str, int]:
    """The ids of the tokens bos, eos, unk and pad.

    Raises:
        TokenizerError: one of them is missing or outside the vocabulary.
    """
    found: dict[str, int] = {}
    for role, name in _ROLES.items():
        token_id = file.metadata.get(f"tokenizer.ggml.{name}_token_id")
        if token_id is None and f"<{role}>" in pieces.texts:
            token_id = pieces.texts.index(f"<{role}>")
        if type(token_id) is not int or not 0 <= token_id < len(pieces.texts):
            raise TokenizerError(f"{file.path}: the id of the {name} token is {_short(token_id)}")
        found[role] = token_id
    return found


def tokenizer_settings(file: GgufFile, pieces: Pieces, special: Mapping[str, int]) -> dict[str, Any]:
    """tokenizer_config.json; ``special`` are the ids of :func:`special_ids`."""
    settings: dict[str, Any] = {
        "tokenizer_class": "GemmaTokenizer",
        "model_max_length": _number(file, "gemma.context_length", int),
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
    }
    settings |= {f"{role}_token": pieces.texts[token_id] for role, token_id in special.items()}
    template = file.metadata.get("tokenizer.chat_template")
    if isinstance(template, str):
        settings["chat_template"] = template
    return settings


def _number(file: GgufFile, key: str, kind: type[int] | type[float], default: Any = None) -> Any:
    value = file.metadata.get(key, default)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise CheckpointError(f"{file.path}: {key} is {_short(value)}, expected {kind.__name__}")
    return value


def _list(file: GgufFile, key: str, kind: type) -> list[Any]:
    values = file.metadata.get(key)
    if not isinstance(values, list) or not all(type(value) is kind for value in values):
        raise TokenizerError(f"{file.path}: {key} is {_short(values)}, expected a list of {kind.__name__}")
    return list(values)


def _short(value: Any) -> str:
    return "missing" if value is None else repr(value)[:100]


def _shortest(value: float) -> float:
    """The number with the fewest digits that is this one in float32, which GGUF stores: 1e-06."""
    return float(str(np.float32(value)))

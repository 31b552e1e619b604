"""What a GGUF file says about a model beside its tensors: origin, sizes, vocabulary.

Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; those of FIM tokens: llama.cpp's
``gguf-py/gguf/constants.py``.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from cg.quant.export.source import OpenSource
from cg.quant.export.vocabulary import Pieces, PieceType
from cg.quant.model_card import front_matter
from cg.runtime.dtypes import DType

__all__ = ["FIM_KEYS", "add_metadata"]

FIM_KEYS = {
    "tokenizer.ggml.fim_pre_token_id": "<|fim_prefix|>",
    "tokenizer.ggml.fim_suf_token_id": "<|fim_suffix|>",
    "tokenizer.ggml.fim_mid_token_id": "<|fim_middle|>",
    "tokenizer.ggml.fim_sep_token_id": "<|file_separator|>",
}
"""Keys of the tokens that llama.cpp fills the middle with, and CodeGemma's names for them."""

_END_OF_TURN = "<end_of_turn>"
_FILE_TYPES = {
    DType.Q4: "MOSTLY_Q4_0", DType.I8: "MOSTLY_Q8_0", DType.BF16: "MOSTLY_BF16", DType.F16: "MOSTLY_F16",
    DType.F32: "ALL_F32",
}  # fmt: skip
_QUANTIZATION_VERSION = 2  # of GGUF's block types, since 2023


def add_metadata(
    gguf: Any, writer: Any, source: OpenSource, pieces: Pieces | None, template: str | None
) -> None:
    """Tell an open ``GGUFWriter`` everything but the tensors.

    Without ``pieces`` the file has no vocabulary; ``template`` is the chat template.
    """
    _add_general(gguf, writer, source)
    _add_sizes(writer, source)
    if pieces is None:
        writer.add_tokenizer_model("none")
    else:
        _add_vocabulary(writer, source, pieces)
    if template is not None:
        writer.add_chat_template(template)


def _add_general(gguf: Any, writer: Any, source: OpenSource) -> None:
    sizes: Counter[DType] = Counter()
    for tensor in source.tensors:
        sizes[tensor.dtype] += tensor.size
    parameters = sum(sizes.values())
    writer.add_type("model")
    writer.add_name(source.origin.name)
    writer.add_size_label(gguf.size_label(parameters, 0, 0, 0))
    writer.add_file_type(gguf.LlamaFileType[_FILE_TYPES[sizes.most_common(1)[0][0]]])
    if any(dtype.is_quantized for dtype in sizes):
        writer.add_quantization_version(_QUANTIZATION_VERSION)
        writer.add_quantized_by("cg")
    for key, value in front_matter(source.folder).items():
        writer.add_string(f"general.{key.replace('_', '.')}", value)
    provenance = source.provenance
    original = source.origin.repo_id or provenance.get("cg.source", "")
    if original.count("/") == 1:  # a repository on the Hub, not the name of a folder
        organization, name = original.split("/")
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, name)
        writer.add_base_model_organization(0, organization)
        writer.add_base_model_repo_url(0, f"https://huggingface.co/{original}")
    for key, value in provenance.items():
        writer.add_string(key, value)


def _add_sizes(writer: Any, source: OpenSource) -> None:
    config = source.config
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_vocab_size(config.vocab_size)


def _add_vocabulary(writer: Any, source: OpenSource, pieces: Pieces) -> None:
    tokenizer = source.tokenizer
    writer.add_tokenizer_model("llama")  # sentencepiece with byte-pair merges, of whatever model
    writer.add_tokenizer_pre("default")
    writer.add_token_list([_text(*piece) for piece in zip(pieces.texts, pieces.types, strict=True)])
    writer.add_token_scores(list(pieces.scores))
    writer.add_token_types(list(pieces.types))
    writer.add_bos_token_id(tokenizer.bos_id)
    writer.add_eos_token_id(tokenizer.eos_id)
    writer.add_unk_token_id(tokenizer.unk_id)
    writer.add_pad_token_id(tokenizer.pad_id)
    if tokenizer.has_control(_END_OF_TURN):
        writer.add_eot_token_id(tokenizer.control_id(_END_OF_TURN))
    for key, name in FIM_KEYS.items():
        if tokenizer.has_control(name):
            writer.add_uint32(key, tokenizer.control_id(name))
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)


def _text(text: str, kind: PieceType) -> str:
    """llama.cpp looks for user-defined pieces in the text as it is, before spaces become ``▁``."""
    return text.replace("▁", " ") if kind is PieceType.USER_DEFINED else text

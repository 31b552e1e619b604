"""A Gemma checkpoint's weights as a bf16 GGUF file, tensor by tensor, for llama.cpp and its relatives.

    python to_gguf.py CHECKPOINT OUT.gguf

Runs in the environment of ``gguf``, with cg's reader on ``PYTHONPATH``. The file holds no vocabulary
(tokenizer model "none"): the benchmark feeds token ids. Norms become float32 ``1 + w``, as llama.cpp wants
them. Only a norm is ever in memory, the matrices go straight from the mapped file to the new one.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

from cg.runtime.dtypes import DType
from cg.runtime.formats.checkpoint import Checkpoint
from cg.runtime.tensor import Tensor

__all__ = ["convert"]

_WHOLE = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
_IN_LAYER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def convert(source: Path, target: Path) -> None:
    """Write ``target``; killed half-way it leaves a file of another name only.

    Raises:
        ValueError: a tensor that Gemma has not, or a matrix that is not bf16.
    """
    import gguf

    unfinished = target.with_name(f"{target.name}.unfinished")
    matrix, norm = gguf.GGMLQuantizationType.BF16, gguf.GGMLQuantizationType.F32
    with Checkpoint.open(source) as checkpoint:
        writer = gguf.GGUFWriter(unfinished, "gemma")
        _add_settings(writer, checkpoint.config)
        writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
        tensors = list(checkpoint.tensors.values())
        for tensor in tensors:
            data = _data(tensor)
            kind = norm if tensor.rows == 1 else matrix
            writer.add_tensor_info(_name(tensor.name), data.shape, data.dtype, data.nbytes, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors:
            writer.write_tensor_data(_data(tensor))
        writer.close()
    unfinished.rename(target)


def _add_settings(writer: Any, config: dict[str, Any]) -> None:
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")


def _name(name: str) -> str:
    if name in _WHOLE:
        return _WHOLE[name]
    match = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.weight", name)
    if match is None or match[2] not in _IN_LAYER:
        raise ValueError(f"{name} is no tensor of a Gemma model with tied embeddings")
    return f"blk.{match[1]}.{_IN_LAYER[match[2]]}.weight"


def _data(tensor: Tensor) -> np.ndarray[Any, np.dtype[Any]]:
    if tensor.rows == 1:
        norm: np.ndarray[Any, np.dtype[Any]] = tensor.dequantize().reshape(-1) + np.float32(1)
        return norm
    if tensor.dtype is not DType.BF16:
        raise ValueError(f"{tensor.name} is stored as {tensor.dtype.value}, expected BF16")
    return tensor.storage()


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))

"""Write a random Gemma checkpoint of a real size, for tests and measurements where only size matters.

    python tools/make_checkpoint.py OUT --size 2b             # 5.0 GB
    python tools/make_checkpoint.py OUT --size 7b             # 17 GB
    python tools/make_checkpoint.py OUT --size 2b --layers 2  # 2b-shaped, 1.5 GB

The tokenizer is the bundled model's: its ids fit into the larger vocabulary. What the weights say is noise.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

import cg.runtime
from cg.runtime.dtypes import DType
from cg.runtime.formats.writer import SafetensorsWriter, TensorSpec

VOCAB_SIZE = 256_000
SIZES = {  # hidden_size, layers, intermediate_size, heads, kv heads; head_dim is 256
    "2b": (2048, 18, 16384, 8, 1),
    "7b": (3072, 28, 24576, 16, 16),
}
PIECE = 1 << 24  # elements drawn at a time
SPREAD = 0.02


def config(size: str, layers: int | None) -> dict[str, Any]:
    """config.json of CodeGemma in this size."""
    hidden, all_layers, inner, heads, kv_heads = SIZES[size]
    return {
        "architectures": ["GemmaForCausalLM"],
        "model_type": "gemma",
        "vocab_size": VOCAB_SIZE,
        "hidden_size": hidden,
        "num_hidden_layers": layers or all_layers,
        "intermediate_size": inner,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": 256,
        "hidden_act": "gelu_pytorch_tanh",
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "torch_dtype": "bfloat16",
    }


def specs(c: dict[str, Any]) -> list[TensorSpec]:
    """Every tensor of the model, bf16."""
    hidden, inner = c["hidden_size"], c["intermediate_size"]
    q, kv = c["num_attention_heads"] * c["head_dim"], c["num_key_value_heads"] * c["head_dim"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens": (VOCAB_SIZE, hidden)}
    for i in range(c["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        shapes |= {
            f"{layer}.input_layernorm": (hidden,),
            f"{layer}.self_attn.q_proj": (q, hidden),
            f"{layer}.self_attn.k_proj": (kv, hidden),
            f"{layer}.self_attn.v_proj": (kv, hidden),
            f"{layer}.self_attn.o_proj": (hidden, q),
            f"{layer}.post_attention_layernorm": (hidden,),
            f"{layer}.mlp.gate_proj": (inner, hidden),
            f"{layer}.mlp.up_proj": (inner, hidden),
            f"{layer}.mlp.down_proj": (hidden, inner),
        }
    shapes["model.norm"] = (hidden,)
    return [TensorSpec(f"{name}.weight", DType.BF16, shape) for name, shape in shapes.items()]


def main() -> None:
    """Parse the command line and write the folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", choices=SIZES, default="2b")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True)
    settings = config(arguments.size, arguments.layers)
    (out / "config.json").write_text(json.dumps(settings, indent=2))
    for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json"):
        shutil.copyfile(Path(cg.runtime.__file__).parent / "demo" / name, out / name)
    rng = np.random.default_rng(arguments.seed)
    tensors = specs(settings)
    with SafetensorsWriter(out / "model.safetensors", tensors, {"format": "pt"}) as writer:
        for spec in tensors:
            elements = spec.data_bytes // 2
            for start in range(0, elements, PIECE):
                count = min(PIECE, elements - start)
                drawn = rng.standard_normal(count, dtype=np.float32) * np.float32(SPREAD)
                writer.write(spec.name, 2 * start, (drawn.view(np.uint32) >> 16).astype(np.uint16))
        writer.finish({"format": "pt"})


if __name__ == "__main__":
    main()

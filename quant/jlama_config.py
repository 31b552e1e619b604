"""config.json for Jlama, which demands more of it than transformers does.

Jlama 0.8.4's ``GemmaConfig`` wants plain values under fixed keys and computes the head size itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cg.quant.plan import QuantizeOptions
from cg.runtime.errors import UsageError

__all__ = ["jlama_config"]

_ACTIVATIONS = ("silu", "gelu", "tanh", "gelu_pytorch_tanh")
_DEFAULTS: dict[str, Any] = {  # what transformers' GemmaConfig takes for a key that is absent
    "hidden_act": "gelu_pytorch_tanh", "head_dim": 256, "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "bos_token_id": 2, "eos_token_id": 1,
}  # fmt: skip


def jlama_config(
    raw: Mapping[str, Any], options: QuantizeOptions, *, has_tokenizer: bool
) -> tuple[dict[str, Any], list[str]]:
    """The config that Jlama can load, and a sentence for every change.

    Raises:
        UsageError: Jlama cannot run this model whatever its config says.
    """
    config: dict[str, Any] = dict(raw)
    notes: list[str] = []

    def change(key: str, value: Any) -> None:
        if key not in config or config[key] != value:
            notes.append(f"config.json: {key} is {value!r} for Jlama, was {config.get(key, 'absent')!r}")
            config[key] = value

    if options.type != "q4":
        raise _cannot_run("it has no kernels for I8 weights", "use --type q4, or drop --jlama-runnable")
    if raw.get("model_type") != "gemma":
        raise _cannot_run(f"model_type is {raw.get('model_type')!r}, not 'gemma'")
    if not has_tokenizer:
        raise _cannot_run("the source has no tokenizer.json", "add the file to the source folder")
    rope: Mapping[str, Any] = raw.get("rope_parameters") or {}
    scaling = raw.get("rope_scaling") or {}
    if scaling and scaling.get("rope_type", scaling.get("type")) != "default":
        raise _cannot_run(f"rope_scaling is {scaling!r}")
    for key, default in {**_DEFAULTS, **_rope_theta(rope)}.items():
        if config.get(key) is None or (key == "rope_theta" and rope):
            change(key, default)
    change("num_key_value_heads", config.get("num_key_value_heads") or config.get("num_attention_heads"))
    if config["hidden_act"] not in _ACTIVATIONS:
        change("hidden_act", "gelu_pytorch_tanh")
    if isinstance(config["eos_token_id"], list) and config["eos_token_id"]:
        change("eos_token_id", config["eos_token_id"][0])
    if scaling:
        change("rope_scaling", None)
    heads, hidden = config.get("num_attention_heads"), config.get("hidden_size")
    if not isinstance(heads, int) or not isinstance(hidden, int) or heads * config["head_dim"] != hidden:
        raise _cannot_run(
            f"it takes hidden_size / num_attention_heads for the head size ({hidden} / {heads}), "
            f"this model's is {config['head_dim']}"
        )
    return config, notes


def _rope_theta(rope: Mapping[str, Any]) -> dict[str, Any]:
    """``rope_theta`` from the table that transformers 5 writes."""
    return {"rope_theta": rope["rope_theta"]} if "rope_theta" in rope else {}


def _cannot_run(reason: str, hint: str = "cg itself can: quantize without --jlama-runnable") -> UsageError:
    return UsageError(f"Jlama cannot run this model: {reason}", hint=hint)

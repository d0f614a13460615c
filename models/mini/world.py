"""Shapes of the mini world's networks, in the words of ComfyUI's model configurations, and the words of its prompts."""

import re

NATIVE_SIZE = 128
LATENT_FACTOR = 8

TEXT_CONFIG = {
    "num_hidden_layers": 2,
    "hidden_size": 128,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "hidden_act": "quick_gelu",
    "max_position_embeddings": 32,
    "eos_token_id": 49407,
}

UNET_CONFIG = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 64,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [0, 2],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [0, 0, 2, 2],
    "use_spatial_transformer": True,
    "use_linear_in_transformer": True,
    "context_dim": TEXT_CONFIG["hidden_size"],
    "num_heads": -1,
    "num_head_channels": 32,
    "num_classes": "sequential",
    "adm_in_channels": TEXT_CONFIG["hidden_size"] + 6 * 256,
    "use_temporal_attention": False,
    "legacy": False,
}

# for arbitrary scales: a low-resolution latent beside the noisy one
ARBITRARY_CONFIG = {**UNET_CONFIG, "in_channels": 8}

# ComfyUI's NextDiT in the layout of Z-Image; no padding tokens, as captions are padded to 32 already
FLOW_CONFIG = {
    "patch_size": 2,
    "in_channels": 4,
    "dim": 256,
    "n_layers": 6,
    "n_refiner_layers": 1,
    "n_heads": 8,
    "n_kv_heads": 8,
    "multiple_of": 32,
    "ffn_dim_multiplier": 2.0,
    "norm_eps": 1e-5,
    "qk_norm": True,
    "cap_feat_dim": TEXT_CONFIG["hidden_size"],
    "axes_dims": [8, 12, 12],
    "axes_lens": [64, 64, 64],
    "rope_theta": 256.0,
    "z_image_modulation": True,
    "time_scale": 1000.0,
}
FLOW_SHIFT = 3.0

# what its text encoder was trained on; every other word is one and the same to it
WORDS = {
    "shapes": ("ball", "box", "pyramid", "star", "heart", "flower", "house", "tree"),
    "colors": ("red", "green", "blue", "yellow", "purple", "orange", "white", "cyan"),
    "places": ("top", "bottom", "left", "center", "right"),
    "grounds": ("grass", "sand", "brick", "wood", "water", "sky"),
    "others": ("a", "on"),
}


def unknown_words(prompt: str) -> list[str]:
    """The words of `prompt` that the text encoder does not know, each once, in their order."""
    text = re.sub(r"embedding:\S+|:\s*[-+.\d]+\s*(?=\))", " ", prompt.lower())  # neither embeddings nor weights are words
    known = {word for words in WORDS.values() for word in words}
    return list(dict.fromkeys(word for word in re.findall(r"[^\W_]+", text) if word not in known))


def warning_of(prompt: str) -> str | None:
    """A sentence about the unknown words of `prompt`, with the words to use instead; None if it knows all."""
    unknown = unknown_words(prompt)
    if not unknown:
        return None
    kinds = "; ".join(f"{kind}: {', '.join(words)}" for kind, words in WORDS.items() if kind != "others")
    return f"The mini world does not know {', '.join(unknown)} and may draw anything there. It knows {kinds}. A prompt looks like: red star top left, blue house bottom right, on grass."

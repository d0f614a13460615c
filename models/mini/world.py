"""Shapes of the mini world's networks, in the words of the host's model configurations."""

from pathlib import Path

FOLDER = Path(__file__).parent
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

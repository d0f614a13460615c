"""The mini world's text encoder in training: ComfyUI's CLIP text model over the few vocabulary rows that captions use."""

from __future__ import annotations

import comfy.clip_model
import comfy.ops
import torch
from comfy.sd1_clip import SDTokenizer
from torch import nn

from ...models.mini import file
from ...models.mini.captions import COLUMNS, ROWS
from ...models.mini.world import TEXT_CONFIG
from .scenes import COLORS, GROUNDS, SHAPES

UNKNOWN_ROW = 0


class Vocabulary:
    """CLIP token ids <-> rows of the small embedding table; row 0 stands for every other token."""

    def __init__(self):
        self.tokenizer = SDTokenizer(max_length=TEXT_CONFIG["max_position_embeddings"])
        words = [*GROUNDS, *SHAPES, *COLORS, *COLUMNS, *ROWS, "on", ",", "a"]
        ids = {self.tokenizer.start_token, self.tokenizer.end_token}
        for word in words:
            ids.update(self.tokenizer.tokenizer(word)["input_ids"])
        self.ids = sorted(ids)
        self.row = {token: i + 1 for i, token in enumerate(self.ids)}
        self.end_row = self.row[self.tokenizer.end_token]

    def rows(self, captions: list[str]) -> torch.Tensor:
        """Captions to (len, 32) int64 rows, padded as ComfyUI pads."""
        out = []
        for ids in self.tokenizer.tokenizer(captions)["input_ids"]:
            ids = ids + [self.tokenizer.pad_token] * (TEXT_CONFIG["max_position_embeddings"] - len(ids))
            out.append([self.row.get(i, UNKNOWN_ROW) for i in ids])
        return torch.tensor(out)


def build_text_model(vocabulary: Vocabulary) -> nn.Module:
    model = comfy.clip_model.CLIPTextModel_(TEXT_CONFIG, torch.float32, "cpu", comfy.ops.disable_weight_init)
    model.embeddings.token_embedding = nn.Embedding(len(vocabulary.ids) + 1, TEXT_CONFIG["hidden_size"])
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features ** -0.5)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
    nn.init.normal_(model.embeddings.token_embedding.weight, std=0.5)
    nn.init.normal_(model.embeddings.position_embedding.weight, std=0.1)
    return model


def load_text_model(vocabulary: Vocabulary) -> nn.Module:
    """The bundled text encoder in float32, frozen."""
    model = build_text_model(vocabulary)
    model.load_state_dict({k: v.float() for k, v in file.load("text")[0].items()})
    return model.requires_grad_(False)


def encode_text(model: nn.Module, rows: torch.Tensor, end_row: int, attention) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states (B, 32, 128) and the end token's (B, 128). ComfyUI's forward works in place and cannot be differentiated."""
    x = model.embeddings.token_embedding(rows) + model.embeddings.position_embedding.weight
    mask = torch.full((x.shape[1], x.shape[1]), float("-inf"), device=x.device).triu_(1)
    for layer in model.encoder.layers:
        y = layer.layer_norm1(x)
        a = layer.self_attn
        x = x + a.out_proj(attention(a.q_proj(y), a.k_proj(y), a.v_proj(y), a.heads, mask))
        x = x + layer.mlp(layer.layer_norm2(x))
    x = model.final_layer_norm(x)
    end = (rows == end_row).int().argmax(-1)
    return x, x[torch.arange(len(x), device=x.device), end]

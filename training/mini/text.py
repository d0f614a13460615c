"""The mini world's text encoder in training: the host's CLIP text model over the few vocabulary rows that captions use."""

from __future__ import annotations

import comfy.clip_model
import comfy.ops
import torch
import torch.nn.functional as F
from comfy.sd1_clip import SDTokenizer
from safetensors.torch import load_file
from torch import nn
from tqdm import tqdm

from ...models.mini.world import FOLDER, TEXT_CONFIG
from .scenes import (
    BASE_SEED,
    COLOURS,
    COLUMNS,
    GROUNDS,
    ROWS,
    SHAPES,
    Scene,
    caption,
    place,
    sample_scene,
)

UNKNOWN_ROW = 0


class Vocabulary:
    """CLIP token ids <-> rows of the small embedding table; row 0 stands for every other token."""

    def __init__(self):
        self.tokenizer = SDTokenizer(max_length=TEXT_CONFIG["max_position_embeddings"])
        words = [*GROUNDS, *SHAPES, *COLOURS, *COLUMNS, *ROWS, "on", ",", "a"]
        ids = {self.tokenizer.start_token, self.tokenizer.end_token}
        for word in words:
            ids.update(self.tokenizer.tokenizer(word)["input_ids"])
        self.ids = sorted(ids)
        self.row = {token: i + 1 for i, token in enumerate(self.ids)}
        self.end_row = self.row[self.tokenizer.end_token]

    def rows(self, captions: list[str]) -> torch.Tensor:
        """Captions to (len, 32) int64 rows, padded as the host pads."""
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
    model.load_state_dict({k: v.float() for k, v in load_file(FOLDER / "mini_text.safetensors").items()})
    return model.requires_grad_(False)


def encode_text(model: nn.Module, rows: torch.Tensor, end_row: int, attention) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states (B, 32, 128) and the end token's (B, 128). The host's forward works in place and cannot be differentiated."""
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


class SlotReader(nn.Module):
    """Reads a caption's meaning back from its encoding, for `pretrain`: per slot a shape and a colour (0 = none), and the ground."""

    def __init__(self, width: int = TEXT_CONFIG["hidden_size"], inner: int = 64):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(len(ROWS) * len(COLUMNS), inner))
        self.keys, self.values = nn.Linear(width, inner), nn.Linear(width, inner)
        self.classes = len(SHAPES) + len(COLOURS) + 2
        self.slot = nn.Linear(inner, self.classes)
        self.pooled = nn.Linear(width, len(self.queries) * self.classes + len(GROUNDS))

    def forward(self, context: torch.Tensor, pooled: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Two readings of the slots (B, 6, classes), by attention and from the pooled vector, and the ground (B, grounds)."""
        scores = self.queries @ self.keys(context).transpose(-1, -2) * self.queries.shape[-1] ** -0.5
        seen = self.slot(scores.softmax(-1) @ self.values(context))
        read = self.pooled(pooled)
        return [seen, read[:, :-len(GROUNDS)].unflatten(1, (len(self.queries), -1))], read[:, -len(GROUNDS):]


def slot_labels(scene: Scene) -> list[int]:
    """Shape and colour class of every slot, row by row, then the ground's class."""
    labels = [0] * (2 * len(ROWS) * len(COLUMNS))
    for thing in scene.things:
        row, column = place(thing.x, thing.y).split()
        slot = ROWS.index(row) * len(COLUMNS) + COLUMNS.index(column)
        labels[2 * slot:2 * slot + 2] = SHAPES.index(thing.shape) + 1, list(COLOURS).index(thing.colour) + 1
    return labels + [GROUNDS.index(scene.ground)]


def pretrain(model: nn.Module, vocabulary: Vocabulary, attention, steps: int = 500, batch: int = 96, scenes: int = 12000) -> float:
    """Teach the text encoder to bind words to slots before any picture is seen. Returns the last loss."""
    drawn = [sample_scene(BASE_SEED + i) for i in range(scenes)]
    rows = vocabulary.rows([caption(scene) for scene in drawn])
    labels = torch.tensor([slot_labels(scene) for scene in drawn])
    reader = SlotReader()
    parameters = [*model.parameters(), *reader.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps, pct_start=0.1)
    generator = torch.Generator().manual_seed(1)
    for _ in tqdm(range(steps), desc="text", mininterval=10):
        i = torch.randint(scenes, (batch,), generator=generator)
        readings, ground = reader(*encode_text(model, rows[i], vocabulary.end_row, attention))
        slots = labels[i, :-1].unflatten(1, (-1, 2))
        loss = F.cross_entropy(ground, labels[i, -1])
        for reading in readings:
            shape, colour = reading.split([len(SHAPES) + 1, len(COLOURS) + 1], -1)
            loss = loss + F.cross_entropy(shape.transpose(1, 2), slots[..., 0]) + F.cross_entropy(colour.transpose(1, 2), slots[..., 1])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
    return loss.item()

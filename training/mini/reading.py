"""`train mini-text`: the mini world's text encoder learns to read captions back, before and apart from any denoiser.

Trained along with the denoiser, it forgets the rows: `top` and `bottom` tell a young denoiser too little to keep them
apart. So it learns what is in which slot here and is frozen afterwards, and the reader sees its states through noise,
so that a word that matters moves them far.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ...models.files import Metadata
from ...models.mini import file
from ...models.mini.captions import COLUMNS, ROWS
from ...models.mini.world import TEXT_CONFIG
from ..command_line import launch, options_parser, provenance
from ..loop import Loop
from .denoiser import attention
from .scenes import (
    BASE_SEED,
    COLORS,
    GROUNDS,
    SHAPES,
    Scene,
    caption,
    place,
    sample_scene,
)
from .text import Vocabulary, build_text_model, encode_text, load_text_model

SCENES = 12000
NOISE = 1.0  # about the deviation of the states


class SlotReader(nn.Module):
    """Reads a caption's meaning back from its encoding, for training: per slot a shape and a color (0 = none), and the ground."""

    def __init__(self, width: int = TEXT_CONFIG["hidden_size"], inner: int = 64):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(len(ROWS) * len(COLUMNS), inner))
        self.keys, self.values = nn.Linear(width, inner), nn.Linear(width, inner)
        self.classes = len(SHAPES) + len(COLORS) + 2
        self.slot = nn.Linear(inner, self.classes)
        self.pooled = nn.Linear(width, len(self.queries) * self.classes + len(GROUNDS))

    def forward(self, context: torch.Tensor, pooled: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Two readings of the slots (B, 6, classes), by attention and from the pooled vector, and the ground (B, grounds)."""
        scores = self.queries @ self.keys(context).transpose(-1, -2) * self.queries.shape[-1] ** -0.5
        seen = self.slot(scores.softmax(-1) @ self.values(context))
        read = self.pooled(pooled)
        return [seen, read[:, :-len(GROUNDS)].unflatten(1, (len(self.queries), -1))], read[:, -len(GROUNDS):]


def slot_labels(scene: Scene) -> list[int]:
    """Shape and color class of every slot, row by row, then the ground's class."""
    labels = [0] * (2 * len(ROWS) * len(COLUMNS))
    for thing in scene.things:
        row, column = place(thing.x, thing.y).split()
        slot = ROWS.index(row) * len(COLUMNS) + COLUMNS.index(column)
        labels[2 * slot:2 * slot + 2] = SHAPES.index(thing.shape) + 1, list(COLORS).index(thing.color) + 1
    return labels + [GROUNDS.index(scene.ground)]


def reading_loss(reading: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
    shape, color = reading.split([len(SHAPES) + 1, len(COLORS) + 1], -1)
    return F.cross_entropy(shape.transpose(1, 2), slots[..., 0]) + F.cross_entropy(color.transpose(1, 2), slots[..., 1])


def train(rank: int, options) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    device, vocabulary, reader = options.device, Vocabulary(), SlotReader()
    near = load_text_model(vocabulary).to(device) if options.near else None
    model = load_text_model(vocabulary).requires_grad_(True) if options.near else build_text_model(vocabulary)
    drawn = [sample_scene(BASE_SEED + i) for i in range(SCENES)]
    rows = vocabulary.rows([caption(scene) for scene in drawn])
    labels = torch.tensor([slot_labels(scene) for scene in drawn])
    modules = {"text": model.to(device), "reader": reader.to(device)}
    loop = Loop("mini-text", modules, rank, options, lr=1e-3 if near else 2e-3, weight_decay=1e-3, warmup=50, ema=0.98)
    for _, g in loop:
        i = torch.randint(SCENES, (options.batch,), generator=g)
        captions, label = rows[i].to(device), labels[i].to(device)
        context, pooled = encode_text(model, captions, vocabulary.end_row, attention)
        noisy = [state + NOISE * torch.randn(state.shape, generator=g).to(device) for state in (context, pooled)]
        (seen, told), ground = reader(*noisy)
        slots = label[:, :-1].unflatten(1, (-1, 2))
        loss = F.cross_entropy(ground, label[:, -1]) + reading_loss(seen, slots)
        if near is None:
            loss = loss + reading_loss(told, slots)
            distance = 0.0
        else:
            before = encode_text(near, captions, vocabulary.end_row, attention)
            apart = sum((a - b).square().mean() for a, b in zip((context, pooled), before))
            loss, distance = loss + apart, apart.item()
        loop.update(loss, distance=distance)
    if rank == 0:
        rows = {k[5:]: v for k, v in loop.averaged().items() if k.startswith("text.")}
        made = provenance("mini-text --near" if near else "mini-text", options, loop.seconds)
        file.save("text", rows, Metadata(notes={"token_ids": ",".join(map(str, vocabulary.ids)), **made}), options.save)


def main(argv: list[str]) -> None:
    parser = options_parser("mini-text", __doc__, steps=500, batch=96)
    parser.add_argument("--near", action="store_true", help="start from the bundled file and stay near its states (its pooled vector stays), so that networks trained with them go on working")
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    launch(train, options)

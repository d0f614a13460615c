"""`train mini-lsr`: `train lsr` with the mini world's autoencoder, scenes and sizes, small enough for a CPU."""

from __future__ import annotations

from ...models.mini.world import FOLDER
from .. import lsr

PRESET = [
    "--vae", "mini", "--images", "runs/mini/scenes", "--out", "runs/mini", "--name", "mini-lsr", "--save", str(FOLDER / "mini_lsr.safetensors"),
    "--square", "512", "512", "--octaves", "2", "--crop", "16", "--query", "32", "--pixel-weight", "4",
    "--dim", "48", "--depths", "4", "4", "4", "--heads", "4", "4", "4", "--hidden", "128", "128", "128", "--drop-path", "0",
    "--steps", "6000", "--batch", "12", "--lr", "8e-4", "--floor", "0.02", "--warmup", "100", "--ema", "0.998", "--clip", "1", "--bf16",
]


def main(argv: list[str]) -> None:
    lsr.main([*PRESET, *argv], command="mini-lsr")

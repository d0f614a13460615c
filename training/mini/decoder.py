"""`train mini-decoder`: `train implicit-decoder` with the mini world's autoencoder, scenes and sizes."""

from __future__ import annotations

from ...models.mini.world import FOLDER
from .. import implicit_decoder

PRESET = [
    "--vae", "mini", "--images", "runs/mini/scenes", "--out", "runs/mini", "--name", "mini-decoder", "--save", str(FOLDER / "mini_decoder.safetensors"),
    "--square", "512", "--reductions", "2", "4", "--query", "48", "--hidden", "64", "64", "64",
    "--steps", "4000", "--batch", "8", "--lr", "1e-3", "--floor", "0.02", "--warmup", "100", "--ema", "0.998", "--clip", "1", "--bf16",
]


def main(argv: list[str]) -> None:
    implicit_decoder.main([*PRESET, *argv], command="mini-decoder")

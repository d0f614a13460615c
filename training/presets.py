"""Training commands with other options than their defaults: {name: (command, options)}. What follows the name overrides them."""

from ..models.files import BUNDLED


def bundled(name: str) -> list[str]:
    """Of `train lsr` and `train implicit-decoder`: the mini world's autoencoder and scenes, into the bundled file."""
    return ["--vae", "mini", "--images", "runs/mini/scenes", "--out", "runs/mini", "--name", name, "--save", str(BUNDLED / f"{name.replace('-', '_')}.safetensors")]


SHORT = ["--floor", "0.02", "--warmup", "100", "--ema", "0.998", "--clip", "1", "--bf16"]  # schedule that a CPU gets through

PRESETS = {
    "mini-lsr": ("lsr", [
        *bundled("mini-lsr"), *SHORT,
        "--square", "512", "512", "--octaves", "2", "--crop", "16", "--query", "32", "--pixel-weight", "4",
        "--dim", "48", "--depths", "4", "4", "4", "--heads", "4", "4", "4", "--hidden", "128", "128", "128", "--drop-path", "0",
        "--steps", "6000", "--batch", "12", "--lr", "8e-4",
    ]),
    "mini-decoder": ("implicit-decoder", [
        *bundled("mini-decoder"), *SHORT,
        "--square", "512", "--reductions", "2", "4", "--query", "48", "--hidden", "64", "64", "64",
        "--steps", "4000", "--batch", "8", "--lr", "1e-3",
    ]),
    "mini-clearsr": ("clearsr", [
        "--base", "mini", "--window", "8", "--scale", "2", "4",
        "--steps", "3900", "--batch", "16", "--lr", "6e-4",
    ]),
}

"""Command-line training. `COMMANDS` maps `python dev.py train NAME` to a module of this package with `main(argv)`."""

COMMANDS = {
    "clearsr": "clearsr",
    "implicit-decoder": "implicit_decoder",
    "lsr": "lsr",
    "mini-scenes": "mini.shards",
    "mini-vae": "mini.vae",
    "mini-text": "mini.reading",
    "mini-unet": "mini.denoiser",
    "mini-lsr": "mini.lsr",
    "mini-decoder": "mini.decoder",
    "mini-arbitrary": "mini.arbitrary",
    "mini-detector": "mini.detector",
}

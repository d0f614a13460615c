"""Command-line training. `COMMANDS` maps `python dev.py train NAME` to a module of this package with `main(argv)`."""

COMMANDS = {
    "clearsr": "clearsr",
    "lsr": "lsr",
    "mini-scenes": "mini.shards",
    "mini-vae": "mini.vae",
    "mini-unet": "mini.unet",
    "mini-lsr": "mini.lsr",
    "mini-arbitrary": "mini.arbitrary",
    "mini-detector": "mini.detector",
}

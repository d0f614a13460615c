"""Measurements. `COMMANDS` maps `python dev.py bench NAME` to a module of this package with `main(argv)`."""

COMMANDS = {
    "arbitrary": "arbitrary",
    "cupscale": "cupscale",
    "mini-world": "mini_world",
    "pixelsmith": "pixelsmith",
    "upscaling": "upscaling",
}

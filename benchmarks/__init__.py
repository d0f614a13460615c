"""Measurements. `COMMANDS` maps `python dev.py bench NAME` to a module of this package with `main(argv)`."""

COMMANDS = {
    "any-scale": "any_scale",
    "arbitrary": "arbitrary",
    "attention-cost": "attention_cost",
    "captions": "captions",
    "claims": "claims.run",
    "clearsr": "clearsr",
    "creativity": "creativity",
    "cupscale": "cupscale",
    "few-steps": "few_steps",
    "frontier": "frontier",
    "growth": "growth",
    "implicit-decode": "implicit_decode",
    "latent-adjustment": "latent_adjustment",
    "mini-world": "mini_world",
    "pixelsmith": "pixelsmith",
    "pixelsmith-calls": "pixelsmith_calls",
    "shallow-start": "shallow_start",
    "speed": "speed",
    "upscaling": "upscaling",
}

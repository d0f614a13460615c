"""Measurements. `COMMANDS` maps `python dev.py bench NAME` to a module of this package with `main(argv)`."""

COMMANDS = {
    "attention-cost": "attention_cost",
    "captions": "captions",
    "claims": "claims.run",
    "few-steps": "few_steps",
    "frontier": "frontier",
    "growth": "growth",
    "implicit-decode": "implicit_decode",
    "mini-world": "mini_world",
    "peers": "peers",
    "pixelsmith-calls": "pixelsmith_calls",
    "soak": "soak",
    "speed": "speed",
}

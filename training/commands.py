"""The training commands by name; each takes the rest of the command line."""

from functools import partial

from . import clearsr, implicit_decoder, lsr
from .mini import (
    arbitrary,
    captioner,
    denoiser,
    detector,
    few_steps,
    flow,
    reading,
    shards,
    vae,
)
from .presets import PRESETS

COMMANDS = {
    "clearsr": clearsr.main,
    "implicit-decoder": implicit_decoder.main,
    "lsr": lsr.main,
    "mini-scenes": shards.main,
    "mini-vae": vae.main,
    "mini-text": reading.main,
    "mini-unet": denoiser.main,
    "mini-flow": flow.main,
    "mini-flow-lora": few_steps.main,
    "mini-arbitrary": arbitrary.main,
    "mini-detector": detector.main,
    "mini-captioner": captioner.main,
}


def with_options(command: str, options: list[str], name: str, arguments: list[str]) -> None:
    """Run `command` as `name`, with `options` before those of its command line."""
    COMMANDS[command]([*options, *arguments], command=name)


COMMANDS |= {name: partial(with_options, command, options, name) for name, (command, options) in PRESETS.items()}

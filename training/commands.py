"""The training commands by name; each takes the rest of the command line."""

from . import clearsr, implicit_decoder, lsr
from .mini import arbitrary, decoder, denoiser, detector, reading, shards, vae
from .mini import lsr as mini_lsr

COMMANDS = {
    "clearsr": clearsr.main,
    "implicit-decoder": implicit_decoder.main,
    "lsr": lsr.main,
    "mini-scenes": shards.main,
    "mini-vae": vae.main,
    "mini-text": reading.main,
    "mini-unet": denoiser.main,
    "mini-lsr": mini_lsr.main,
    "mini-decoder": decoder.main,
    "mini-arbitrary": arbitrary.main,
    "mini-detector": detector.main,
}

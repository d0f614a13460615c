"""Nodes that stand in for loaders in a test's server: their names with Tiny before, their inputs with `family` in the
place of files, which names a network of tests/comfyui/families.py. All text encoders are one."""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import families
import torch

import nodes

from . import controls, own, vaes
from .text import Text

FILE = re.compile(r"\w+_name\d?")
FAMILY = ([name for name in families.FAMILIES if families.is_known(name)],)
NOTHING = {"required": {}}


def stand_in(outputs, load, declared=NOTHING, **chosen):
    """declared: INPUT_TYPES of the loader. chosen: inputs of its own, for `load`."""
    kept = {section: {name: spec for name, spec in inputs.items() if not FILE.fullmatch(name)} for section, inputs in declared.items()}

    class Loader:
        RETURN_TYPES, FUNCTION, CATEGORY = outputs, "load", "tiny"

        @classmethod
        def INPUT_TYPES(cls):
            return {**kept, "required": {**chosen, **kept["required"]}}

        def load(self, **values):
            return load(*(values[name] for name in chosen))

    return Loader


def core(kind, load, **chosen):
    loader = nodes.NODE_CLASS_MAPPINGS[kind]
    return stand_in(loader.RETURN_TYPES, load, loader.INPUT_TYPES(), **chosen)


class Figures:
    """What a test asks of an image before it is saved."""

    RETURN_TYPES, FUNCTION, CATEGORY, OUTPUT_NODE = (), "tell", "tiny", True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"images": ("IMAGE",)}}

    def tell(self, images):
        height, width = images.shape[-3:-1]
        return {"ui": {"finite": [bool(torch.isfinite(images).all())], "spread": [float(images.std())], "size": [width, height]}}


NODE_CLASS_MAPPINGS = {
    "TinyCheckpointLoaderSimple": core("CheckpointLoaderSimple", lambda family: (families.build(family), Text(), vaes.build(family)), family=FAMILY),
    "TinyUNETLoader": core("UNETLoader", lambda family: (families.build(family),), family=FAMILY),
    "TinyCLIPLoader": core("CLIPLoader", lambda: (Text(),)),
    "TinyDualCLIPLoader": core("DualCLIPLoader", lambda: (Text(),)),
    "TinyVAELoader": core("VAELoader", lambda family: (vaes.build(family),), family=FAMILY),
    "TinyControlNetLoader": core("ControlNetLoader", lambda family: (controls.build(family),), family=FAMILY),
    "TinyLoupeLoadClearSR": stand_in(("CONTROL_NET",), lambda family: (own.clearsr(family),), family=FAMILY),
    "TinyLoupeLoadImplicitDecoder": stand_in(("LOUPE_IMPLICIT_DECODER",), lambda family: (own.implicit_decoder(family),), family=FAMILY),
    "TinyFigures": Figures,
}

"""Inputs of nodes as links may bring them: right ones, and for each kind of socket and widget wrong ones.

Right values are cheap to run. `values(node)` has one right strategy and one of everything for each input.
"""

import comfy.nested_tensor
import hypothesis.strategies as st
import local
import tiny
import torch
from loupe.methods.regions import RegionLayout
from loupe.models.clearsr.loaded import ClearSRControl
from loupe.models.files import BUNDLED
from loupe.models.implicit_decoder.loaded import LoadedDecoder
from loupe.models.lsr.loaded import LatentUpscaler
from loupe.models.lsr.pixels import PixelUpscaler
from loupe.models.mini import loaded as mini
from loupe.nodes.regional_denoise import RegionalDenoiseNode

CHANNELS = 4
SHAPES = [(1, 8, 8), (2, 8, 8), (1, 12, 8)]  # images, height, width, in latent cells
NUMBERS = [-1, 0, 1, 2, 3, 0.5, -0.5, 1e30, -1e30, 10**9, -(10**9), 2**64, float("nan"), float("inf"), float("-inf")]
ANYTHING = [*NUMBERS, None, True, False, "", "nonsense", "3", [], {}, torch.zeros(1), torch.zeros(0)]
CHEAP = {  # where the schema's own range would take long
    "steps": [1, 2, 3],
    "guided_steps": [0, 1, 2, 1000],
    "scale_by": [1.0, 1.5, 2.37],
    "width": [0, 64, 120, 160],
    "height": [0, 64, 120, 160],
    "region_width": [0, 64, 72, 65536],
    "region_height": [0, 64, 72, 65536],
    "overlap": [0.0, 0.5, 0.95],
    "patch_size": [0, 64, 72, 65536],
    "max_tokens": [8, 75],
    "dilation": [0, 1, 3, 64],
}
TEXTS = ["", "red star", "a\nb", "[]", "{}", '["a"]', '["a", 1]', "[", "{" * 9, "[" * 100000, '{"1": "a"}', '{"0": "a"}', '{"1": 2}', '{"1": "a", "1": "b"}', "\ufeff", "null", "{prompt}"]


def tensors(shapes):
    """Of numbers, and of what is none."""
    fills = st.sampled_from(["noise", "zeros", "nan", "inf", "half", "whole"])
    return st.builds(filled, st.sampled_from(shapes) if isinstance(shapes, list) else shapes, fills)


def filled(shape, fill):
    if fill in ("noise", "half"):
        return tiny.noise(shape).to(torch.float16 if fill == "half" else torch.float32)
    if fill == "whole":
        return torch.ones(shape, dtype=torch.long)
    return torch.full(shape, {"zeros": 0.0, "nan": float("nan"), "inf": float("inf")}[fill])


def latent(shape, **keys):
    images, height, width = shape
    return {"samples": tiny.noise((images, CHANNELS, height, width)), **keys}


def shapes_of_any(sides, channels):
    batch, side = st.integers(0, 3), st.sampled_from(sides)
    plain = st.tuples(batch, st.sampled_from(channels), side, side)
    return st.one_of(plain, st.tuples(batch, side, side, st.sampled_from(channels)), st.tuples(batch, st.sampled_from(channels), st.integers(0, 2), side, side), st.tuples(batch, side))


def any_latents():
    shapes = st.sampled_from(SHAPES)
    places = st.sampled_from([[], [0], [-1], [5], [3, 4], [10**12], [0, 0, 0], [0.5], ["a"], 3])
    masks = tensors([(1, 8, 8), (8, 8), (1, 1, 64, 64), (2, 8, 8), (3, 9, 7), (0, 8, 8), (1, 0, 0), (8,), (1, 1, 1, 8, 8)])
    return st.one_of(
        st.builds(lambda samples: {"samples": samples}, tensors(shapes_of_any([0, 1, 2, 5, 8], [CHANNELS, 0, 1, 16]))),
        st.builds(latent, shapes, batch_index=places),
        st.builds(latent, shapes, noise_mask=masks),
        st.builds(empty, shapes, st.sampled_from([None, 4, 8, 16])),
        st.just({"samples": comfy.nested_tensor.NestedTensor([tiny.noise((1, CHANNELS, 8, 8))] * 2)}),
    )


def empty(shape, ratio):
    """An empty latent of some cell size, in pixels."""
    return {"samples": torch.zeros(shape[0], 4, *shape[1:]), "downscale_ratio_spacial": ratio}


def prompts(**keys):
    return tiny.conditioning(1, **keys)


def without_pooled():
    return [[text, {}] for text, _ in prompts()]


class Seeing:
    """A text encoder that looks at images."""

    def tokenize(self, text, image, **keys):
        return {"tokens": [[({"image": image}, 1.0)]]}

    def generate(self, tokens, **keys):
        return tokens

    def decode(self, tokens):
        return "The image shows a star."


class World:
    """What sockets carry, loaded once."""

    def __init__(self):
        self.model, self.video = local.build("sdxl"), local.build("wan")
        self.mini, self.clip, self.vae = mini.load_model(), mini.load_clip(), mini.load_vae()
        self.lsr = LatentUpscaler.from_file(f"{BUNDLED}/mini_lsr.safetensors", "mini")
        self.decoder = LoadedDecoder.from_file(f"{BUNDLED}/mini_decoder.safetensors", "mini")
        self.control = ClearSRControl.from_file(f"{BUNDLED}/mini_clearsr.safetensors")

    def sockets(self, node):
        """Strategies of right and of all values, by io type."""
        layouts = [RegionLayout.from_overlap(*size, 8, 8) for size in ((8, 8), (12, 8), (16, 16), (1, 40))]
        patched = RegionalDenoiseNode.execute(self.model, 64, 64, 0.5, "uniform", False, 0, "native", 0)[0]
        text = self.clip.encode_from_tokens_scheduled(self.clip.tokenize("red star"))
        images = [torch.rand(1, 64, 64, 3), torch.rand(2, 64, 64, 3), torch.rand(1, 96, 64, 3)]
        right = {
            "MODEL": [self.mini if node in ("LoupeApplyClearSR", "LoupeAttentionPrior") else self.model],
            "LATENT": [latent(shape) for shape in SHAPES],
            "IMAGE": images,
            "CONDITIONING": [prompts()],
            "VAE": [self.vae],
            "CLIP": [Seeing() if node == "LoupeCaptionRegions" else self.clip],
            "CONTROL_NET": [self.control],
            "CLIP_VISION_OUTPUT": [None],
            "UPSCALE_MODEL": [None],
            "LOUPE_LSR": [self.lsr, PixelUpscaler(self.vae)],
            "LOUPE_IMPLICIT_DECODER": [self.decoder],
            "LOUPE_REGIONS": layouts[:2],
        }
        other = {
            "MODEL": st.sampled_from([None, self.video, patched]),
            "LATENT": st.one_of(any_latents(), st.none()),
            "IMAGE": st.one_of(tensors(shapes_of_any([0, 1, 7, 8, 64], [3, 1, 4, 2, 0])), st.none()),
            "CONDITIONING": st.sampled_from([None, [], without_pooled(), prompts() + prompts(), prompts(mask=torch.ones(1, 8, 8)), text]),
            "CLIP": st.sampled_from([None, self.clip]),
            "CONTROL_NET": st.sampled_from([None, local.controlnet(local.hint())]),
            "CLIP_VISION_OUTPUT": st.sampled_from([{"image_embeds": tiny.noise((1, width))} for width in (1, 32, 64)]),
            "LOUPE_REGIONS": st.sampled_from([None, *layouts]),
        }
        return {kind: (st.sampled_from(values), other.get(kind, st.none())) for kind, values in right.items()}


def widget(declared):
    """Right and hostile values of a widget."""
    kind, options = declared.get_io_type(), getattr(declared, "options", None)
    if kind == "STRING":
        return st.sampled_from(["", "a"]), st.one_of(st.sampled_from([*TEXTS, None, 3]), st.text(max_size=20))
    if kind == "COMBO":
        right = options
    elif kind == "BOOLEAN":
        right = [True, False]
    else:
        right = CHEAP.get(declared.id) or [value for value in (declared.min, declared.default, declared.max) if value is not None]
    if declared.id == "overlap" and kind == "INT":
        right = [0, 32, 4096]
    outside = [] if kind not in ("INT", "FLOAT") else [declared.min - 1, declared.max + 1]
    hostile = [value for value in [*ANYTHING, *outside] if not cheap_is_all(declared, value)]
    return st.sampled_from(right), st.sampled_from(hostile)


def cheap_is_all(declared, value):
    """Whether a value in the widget's range would take long."""
    return declared.id in CHEAP and isinstance(value, int | float) and not isinstance(value, bool) and declared.min <= value <= declared.max


@st.composite
def values(draw, world, node):
    """Values for every input of `node`, up to two of them hostile."""
    schema = node.define_schema()
    sockets = world.sockets(schema.node_id)
    carried = [declared.id for declared in schema.inputs if declared.get_io_type() in sockets]
    said = [declared.id for declared in schema.inputs if declared.id not in carried]
    ids = st.one_of([st.sampled_from(names) for names in (carried, said) if names])
    hostile = draw(st.sets(ids, max_size=2))
    found = {}
    for declared in schema.inputs:
        right, other = sockets.get(declared.get_io_type()) or widget(declared)
        if declared.optional and draw(st.booleans()):
            continue
        found[declared.id] = draw(other if declared.id in hostile else right)
    return found

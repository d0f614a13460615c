"""Models of every family around a network that sees a few cells far, and all that conditions it.

`FAMILIES` are ComfyUI's model classes, `KINDS` the kinds of conditioning, `REFUSED` says why a kind is
none for a family.
"""

import comfy.controlnet
import comfy.hooks
import comfy.supported_models
import tiny
import torch
import torch.nn.functional as F

CANVAS, REGION = (24, 40), 16
REACH = 3  # cells to each side that an output depends on

FAMILIES = {
    "sd15": comfy.supported_models.SD15,
    "sdxl": comfy.supported_models.SDXL,
    "sd3": comfy.supported_models.SD3,
    "flux": comfy.supported_models.Flux,
    "pixart": comfy.supported_models.PixArtSigma,
    "qwen": comfy.supported_models.QwenImage,
    "wan": comfy.supported_models.WAN21_T2V,
    "zimage": comfy.supported_models.ZImage,
}
CONCATENATED = {"sd15": 5, "sdxl": 5, "flux": 80, "wan": 20}  # channels of the inpainting models


class Network(torch.nn.Module):
    """Convolutions over the image and over all conditioning of its size, plus the means of the rest.

    Frames are images, each with the mean of all.
    """

    def __init__(self, channels, concatenated=0):
        super().__init__()
        self.dtype, self.patch_size = torch.float32, 1
        generator = torch.Generator().manual_seed(0)
        self.patch_embedding = torch.nn.Conv2d(channels + concatenated, 8, 3, padding=1)  # Wan's name
        self.out = torch.nn.Conv2d(8, channels, 3, padding=1)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2

    def forward(self, x, timesteps, context=None, y=None, control=None, transformer_options=None, **conds):
        frames = x.shape[2] if x.ndim == 5 else 1
        images = x.movedim(2, 1).flatten(0, 1) if x.ndim == 5 else x
        hidden = self.patch_embedding(images)
        if frames > 1:
            hidden = hidden + seen(x.mean(2), x).repeat_interleave(frames, 0)
        conds = {"context": context, "y": y, **conds}
        for cond in conds.values():
            for value in cond if isinstance(cond, list) else [cond]:
                if torch.is_tensor(value) and value.is_floating_point():
                    hidden = hidden + seen(value, x).repeat_interleave(frames, 0)
        for features in (control or {}).values():
            for feature in features:
                hidden = hidden + (feature.repeat_interleave(frames, 0) if len(feature) > 1 else feature)
        for patches in transformer_options.get("patches", {}).get("middle_patch", ()):
            hidden = patches(hidden, {"transformer_index": 0})
        for patch in transformer_options.get("patches", {}).get("double_block", ()):
            tokens = hidden.flatten(2).mT
            hidden = patch({"x": x, "img": tokens, "block_index": 0})["img"].mT.unflatten(2, hidden.shape[-2:])
        times = (timesteps.reshape(len(x), -1)[:, 0] / 1000).repeat_interleave(frames)
        out = self.out((hidden + times[:, None, None, None]).tanh())
        return out.unflatten(0, (-1, frames)).movedim(1, 2) if x.ndim == 5 else out


def seen(value, x):
    if value.ndim >= 4 and value.shape[-2:] == x.shape[-2:]:
        return 3 * F.avg_pool2d(value.flatten(1, -3).mean(1, keepdim=True), 3, 1, 1, count_include_pad=False)
    return value.reshape(len(value), -1).mean(1)[:, None, None, None] * (5 if value.ndim == 3 else 0.01)


def build(family, concatenated=0):
    config = FAMILIES[family]
    conf = config({**config.unet_config, "disable_unet_model_creation": True, "in_channels": 4, "adm_in_channels": tiny.POOLED + 6 * 256})
    channels = conf.latent_format.latent_channels
    conf.unet_config.update(in_channels=channels + concatenated, out_channels=channels)
    conf.set_inference_dtype(torch.float32, None)
    model = conf.get_model({}, "")
    model.diffusion_model = Network(channels, concatenated)
    return tiny.patcher(model)


def latents(family, images, seed=0, channels=None):
    channels = channels or FAMILIES[family].latent_format().latent_channels
    frames = [tiny.FRAMES[family]] if family in tiny.FRAMES else []
    return tiny.noise((images, channels, *frames, *CANVAS), seed)


def hint(size=CANVAS, seed=0, images=1):
    return torch.rand((images, 3, size[0] * 8, size[1] * 8), generator=torch.Generator().manual_seed(seed))


class HintNetwork(torch.nn.Module):
    """Features of a hint in pixels or in latent cells."""

    dtype = torch.float32
    unshuffle_amount = 8

    def forward(self, hint, x=None, **kwargs):
        planes = hint.reshape(len(hint), -1, *hint.shape[-2:]).mean(1, keepdim=True)
        cells = planes if x is not None and planes.shape[-1] == x.shape[-1] else F.avg_pool2d(planes, 8)
        return {"middle": [4 * cells]}


class Blur:
    """A VAE whose latents are blurred images."""

    def __init__(self, channels, video):
        self.channels, self.video, self.calls = channels, video, []

    def spacial_compression_encode(self):
        return 8

    def encode(self, pixels):
        self.calls.append(tuple(pixels.shape))
        cells = F.avg_pool2d(F.avg_pool2d(pixels.movedim(-1, 1).mean(1, keepdim=True), 8), 3, 1, 1, count_include_pad=False)
        cells = cells.repeat(1, self.channels, 1, 1)
        return cells.unsqueeze(2) if self.video else cells


def controlnet(picture, strength=1.0, percents=(0.0, 1.0), vae=None, latent_format=None, extra=(), previous=None):
    control = comfy.controlnet.ControlNet(HintNetwork(), compression_ratio=8 if vae is None else 1, latent_format=latent_format, load_device=torch.device("cpu"), extra_conds=[])
    control.set_cond_hint(picture, strength, percents, vae, list(extra))
    return control if previous is None else control.set_previous_controlnet(previous)


class Boxes(torch.nn.Module):
    """Paints GLIGEN's boxes."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def set_position(self, shape, boxes, device):
        def paint(x, extra_options):
            x = x.clone()
            for embedding, height, width, top, left in boxes:
                x[..., top : top + height, left : left + width] += embedding.mean()
            return x

        assert boxes
        return paint

    def set_empty(self, shape, device):
        return lambda x, extra_options: x


class DiffSynthCnetPatch:
    """ComfyUI's patch of this name, around a network of no weights."""

    def __init__(self, vae, image):
        self.vae, self.image, self.mask, self.encoded_image = vae, image, None, None

    def __call__(self, args):
        x, img = args["x"], args["img"]
        size = x.shape[-2] * 8, x.shape[-1] * 8
        if self.encoded_image is None or self.encoded_image_size != size:
            scaled = comfy.utils.common_upscale(self.image.movedim(-1, 1), size[1], size[0], "area", "center")
            self.encoded_image, self.encoded_image_size = self.vae.encode(scaled.movedim(1, -1)), size
        return {**args, "img": img + 4 * self.encoded_image.flatten(2).mean(1)[..., None]}

    def to(self, device_or_dtype):
        return self


def both(**keys):
    return tiny.conditioning(1, **keys), tiny.conditioning(2, **keys)


def text_batch(family, model):
    """More prompts than images, one for each."""
    (positive,), (negative,) = both()
    text, pooled = tiny.noise((3, 8, 64), 5), tiny.noise((3, tiny.POOLED), 6)
    return [[text, {"pooled_output": pooled}]], [negative]


def combined(family, model):
    return both()[0] + tiny.conditioning(3, strength=0.3), both()[1]


def masks(family, model):
    first, second = torch.rand(2, 1, *CANVAS, generator=torch.Generator().manual_seed(1))
    return tiny.conditioning(1, mask=first) + tiny.conditioning(3, mask=second, mask_strength=0.5), tiny.conditioning(2)


def bounded_mask(family, model):
    mask = torch.zeros(1, *CANVAS)
    mask[:, 5:18, 6:31] = 0.7
    return tiny.conditioning(1) + tiny.conditioning(3, mask=mask, set_area_to_bounds=family not in tiny.FRAMES), tiny.conditioning(2)


def areas(family, model):
    return tiny.conditioning(1) + tiny.conditioning(3, area=(14, 27, 5, 9)) + tiny.conditioning(4, area=(24, 18, 0, 0), strength=2.0), tiny.conditioning(2)


def percentages(family, model):
    area = ("percentage", 1.0, 0.6, 0.7, 0.0, 0.2, 0.1) if family in tiny.FRAMES else ("percentage", 0.6, 0.7, 0.2, 0.1)
    return tiny.conditioning(1) + tiny.conditioning(3, area=area), tiny.conditioning(2)


def inpaint(family, model):
    mask = (latents(family, 1, 3, 1) > 0).float()
    return both(concat_latent_image=latents(family, 1, 2), concat_mask=mask)


def control(family, model):
    net = controlnet(hint())
    return both(control=net)


def control_chain(family, model):
    """Of different sizes and strengths, one of them over; both branches share the object."""
    over = controlnet(hint(seed=3), percents=(0.0, 0.01))
    first = controlnet(hint((12, 20), seed=1), 0.5, previous=over)
    net = controlnet(hint(seed=2), 0.8, (0.0, 0.99), previous=first)
    return both(control=net)


def encoded_control(family, model):
    latent_format = model.model.latent_format
    net = controlnet(hint(), vae=Blur(latent_format.latent_channels, family in tiny.FRAMES), latent_format=latent_format, extra=[] if family in tiny.FRAMES else [hint(seed=4)[:, :1]])
    return both(control=net)


def adapter(family, model):
    net = comfy.controlnet.T2IAdapter(HintNetwork(), 3, 8, "nearest-exact", torch.device("cpu"))
    return both(control=net.set_cond_hint(hint(), 0.7, (0.0, 0.99)))


def gligen(family, model):
    boxes = [(torch.ones(1, 4), 6, 5, 3, 2), (-torch.ones(1, 4), 10, 9, 9, 12), (2 * torch.ones(1, 4), 4, 4, 16, 34)]
    return tiny.conditioning(1, gligen=("position", tiny.patcher(Boxes()), boxes)), tiny.conditioning(2)


def references(family, model):
    """One of the canvas's size, where there may be several one that is not."""
    other = latents(family, 1, 4)[..., :12, :20]
    return both(reference_latents=[other, latents(family, 1, 3)])


def hooks(family, model):
    """A LoRA on one of two masked prompts."""
    group = comfy.hooks.HookGroup()
    hook = comfy.hooks.WeightHook(strength_model=1.0)
    hook.weights, hook.need_weight_init = {"diffusion_model.out.weight": ("diff", (torch.ones_like(model.model.diffusion_model.out.weight) * 0.1,))}, False
    group.add(hook)
    mask = torch.rand(1, *CANVAS, generator=torch.Generator().manual_seed(2))
    return tiny.conditioning(1, mask=mask) + tiny.conditioning(3, mask=1 - mask, hooks=group), tiny.conditioning(2)


def timesteps(family, model):
    """One that counts at this noise level, one that does not."""
    return tiny.conditioning(1, start_percent=0.0, end_percent=1.0) + tiny.conditioning(3, start_percent=0.0, end_percent=0.01), tiny.conditioning(2)


def default(family, model):
    """A prompt for where no other is."""
    mask = torch.zeros(1, *CANVAS)
    mask[:, :9, :25] = 1
    return tiny.conditioning(1, mask=mask) + tiny.conditioning(3, default=True), tiny.conditioning(2)


def together(family, model):
    """A masked prompt and one with an area under a chain of controls."""
    positive, negative = control_chain(family, model)
    keys = {"control": positive[0][1]["control"]}
    mask = torch.rand(1, *CANVAS, generator=torch.Generator().manual_seed(1))
    return tiny.conditioning(1, mask=mask, **keys) + tiny.conditioning(3, area=(14, 27, 5, 9), **keys), negative


def hint_patch(family, model):
    model.set_model_double_block_patch(DiffSynthCnetPatch(Blur(1, False), hint().movedim(1, -1)))
    return both()


KINDS = {
    "combined prompts": combined,
    "one prompt per image": text_batch,
    "masks": masks,
    "mask bounds": bounded_mask,
    "areas": areas,
    "percentage areas": percentages,
    "inpainting latents": inpaint,
    "ControlNet": control,
    "chained ControlNets": control_chain,
    "ControlNet through a VAE": encoded_control,
    "T2I adapter": adapter,
    "GLIGEN boxes": gligen,
    "reference latents": references,
    "LoRA hooks": hooks,
    "timestep ranges": timesteps,
    "default prompt": default,
    "several of these": together,
    "DiffSynth and Fun patches": hint_patch,
}

TRANSFORMERS = ("sd3", "flux", "pixart", "qwen", "wan", "zimage")
REFUSED = {
    **{("inpainting latents", family): "ComfyUI has no inpainting model of this family" for family in FAMILIES if family not in CONCATENATED},
    **{("GLIGEN boxes", family): "GLIGEN patches UNets" for family in TRANSFORMERS},
    **{("reference latents", family): "the family takes none" for family in ("sd15", "sdxl", "sd3", "pixart")},
    **{("T2I adapter", family): "ComfyUI's adapters take latents without a time axis" for family in tiny.FRAMES},
    **{("DiffSynth and Fun patches", family): "made for Qwen-Image and Z-Image" for family in FAMILIES if family not in ("qwen", "zimage")},
}
CASES = [(kind, family) for kind in KINDS for family in FAMILIES if (kind, family) not in REFUSED]

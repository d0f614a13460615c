"""Every method and loader on a device that takes no tensors of the CPU, and how often each makes the host wait for it."""

from collections import Counter

import comfy.sample
import comfy.samplers
import pretended_device
import pytest
import tiny
import torch
from comfy.model_management import intermediate_device
from loupe import nodes
from pretended_device import STATES, Pretended
from widgets import defaults

pytestmark = pytest.mark.newest

SIZE = 16  # cells to the side of the small image


class World:
    """The nodes, by id, and the mini world loaded by its own."""

    def __init__(self):
        self.nodes = {node.define_schema().node_id: node for node in nodes.NODES}
        self.made = []  # as ComfyUI's cache keeps it
        self.model, self.clip, self.vae = self("LoadMini")
        self.positive, self.negative = self.prompt("red ball, on grass"), self.prompt("")
        self.small, self.large, self.image = {"samples": self.noise(SIZE, SIZE)}, {"samples": self.noise(SIZE, 3 * SIZE // 2)}, torch.rand(1, 8 * SIZE, 12 * SIZE, 3, device=intermediate_device())

    def __call__(self, name, **values):
        node = self.nodes[f"Loupe{name}"]
        out = node.execute(**defaults(node, **values)).result
        self.made.append(out)
        return out

    def noise(self, height, width, channels=4):
        return tiny.noise((1, channels, height, width), 5).to(intermediate_device())

    def prompt(self, text):
        return self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text))

    def regional(self):
        return self("RegionalDenoise", model=self.model, region_width=8 * SIZE, region_height=8 * SIZE, jitter=True)[0]

    def sample(self, model, steps, positive=None, negative=None, latent=None):
        latent = self.large["samples"] if latent is None else latent
        noise = comfy.sample.prepare_noise(latent, 1)
        return comfy.sample.sample(model, noise, steps, 2.0, "euler", "normal", positive or self.positive, negative or self.negative, latent, disable_pbar=True, seed=1)


def regional_denoise(world, steps):
    return world.sample(world.regional(), steps)


def demofusion(world, steps):
    return world.sample(world("DemoFusion", model=world.regional(), reference=world.small)[0], steps)


def structure_prior(world, steps):
    return world.sample(world("StructurePrior", model=world.model, reference=world.small)[0], steps)


def small_structure_prior(world, steps):
    """Compared at the reference's size, by a wavelet of many taps."""
    return world.sample(world("StructurePrior", model=world.model, reference=world.small, compare="shrink prediction", wavelet="db2")[0], steps)


def latent_adjustment(world, steps):
    return world.sample(world("LatentAdjustment", model=world.model, reference=world.small)[0], steps)


def inject_noise(world, steps):
    return world.sample(world("InjectNoise", model=world.model, last_steps=3)[0], steps)


def attention_prior(world, steps):
    return world.sample(world("AttentionPrior", model=world.regional(), reference=world.small)[0], steps)


def masked_attention_prior(world, steps):
    mask = torch.ones(1, SIZE, 3 * SIZE // 2, device=intermediate_device())
    positive = [[text, {**keys, "mask": mask}] for text, keys in world.positive]
    return world.sample(world("AttentionPrior", model=world.regional(), reference=world.small)[0], steps, positive)


def pixart_attention_prior(world, steps):
    model = world("RegionalDenoise", model=tiny.pixart(), region_width=288, region_height=288)[0]
    model = world("AttentionPrior", model=model, reference={"samples": world.noise(36, 36)})[0]
    return world.sample(model, steps, tiny.conditioning(1), tiny.conditioning(2), world.noise(36, 54))


def anima_attention_prior(world, steps):
    model = world("RegionalDenoise", model=tiny.anima(), region_width=8 * SIZE, region_height=8 * SIZE)[0]
    model = world("AttentionPrior", model=model, reference={"samples": world.noise(SIZE, SIZE, 16)})[0]
    return world.sample(model, steps, tiny.conditioning(1), tiny.conditioning(2), world.noise(SIZE, 2 * SIZE, 16).unsqueeze(2))


def region_prompts(world, steps):
    layout = world("RegionLayout", samples=world.large, region_width=8 * SIZE, region_height=8 * SIZE)[0]
    prompts = "\n".join(["blue box"] * len(layout.regions))
    return world.sample(world.regional(), steps, world("RegionPrompts", clip=world.clip, regions=layout, conditioning=world.positive, prompts=prompts)[0])


def clearsr(world, steps):
    control = world("LoadClearSR", control_net_name="mini_clearsr.safetensors")[0]
    model, positive, *_ = world("ApplyClearSR", model=world.regional(), positive=world.positive, negative=world.negative, control_net=control, vae=world.vae, image=world.image)
    return world.sample(model, steps, positive)


def pixelsmith(world, steps):
    return world("PixelSmithSampler", model=world.model, positive=world.positive, negative=world.negative, guide=world.large, steps=steps, guided_steps=2, patch_size=8 * SIZE)[0]["samples"]


def demofusion_sampler(world, steps):
    """With the latent network and the noise at edges."""
    lsr = world("LoadLSR", model_name="mini_lsr.safetensors")[0]
    sizes = {"region_width": 8 * SIZE, "region_height": 8 * SIZE}
    return world("DemoFusionSampler", model=world.model, positive=world.positive, negative=world.negative, reference=world.small, mode="direct", steps=steps, strength=1.0, lsr=lsr, vae=world.vae, **sizes)[0]["samples"]


METHODS = [
    regional_denoise,
    demofusion,
    structure_prior,
    small_structure_prior,
    latent_adjustment,
    inject_noise,
    attention_prior,
    masked_attention_prior,
    pixart_attention_prior,
    anima_attention_prior,
    region_prompts,
    clearsr,
    pixelsmith,
    demofusion_sampler,
]
# in a step: one look at the noise level for all parts, and nothing copied to the device but a wavelet's taps
WAITS, COPIES = 1, {small_structure_prior: 2}


def region_noise(world):
    return world("RegionNoise", model=world.model, samples=world.large, reference=world.image)[0]["samples"]


def lsr(world):
    loaded = world("LoadLSR", model_name="mini_lsr.safetensors")[0]
    return world("LSRUpscale", lsr=loaded, samples=world.small)[0]["samples"]


def implicit_decoder(world):
    loaded = world("LoadImplicitDecoder", model_name="mini_decoder.safetensors")[0]
    return world("ImplicitDecode", samples=world.small, vae=world.vae, decoder=loaded)[0]


def mini_vae(world):
    return world.vae.encode(world.vae.decode(world.small["samples"]))


# in all: the result, and what is drawn from it
ONCE = {region_noise: (0, 0), lsr: (1, 1), implicit_decoder: (2, 1), mini_vae: (0, 0)}


@pytest.fixture(scope="module", params=STATES)
def state(request):
    """(state, device, World) of a ComfyUI that has the pretended device."""
    with pretended_device.pretended_device(request.param) as device, torch.inference_mode():
        yield request.param, device, World()


def counted(device, method, *args):
    """(waits, copies) of a call of `method`, whose result is where ComfyUI keeps results."""
    device.waits.clear()
    device.copies.clear()
    out = method(*args)
    assert isinstance(out, Pretended) == (intermediate_device() != torch.device("cpu"))
    assert out.isfinite().all()
    return Counter(device.waits), Counter(device.copies)


@pytest.mark.parametrize("method", METHODS)
def test_a_step_mixes_no_devices_and_waits_once(method, state):
    _, device, world = state
    fewer, more = (counted(device, method, world, steps) for steps in (3, 4))
    waits, copies = (after - before for before, after in zip(fewer, more))
    assert sum(waits.values()) <= WAITS, waits
    assert sum(copies.values()) <= COPIES.get(method, 0), copies


@pytest.mark.parametrize("method", ONCE)
def test_what_runs_once_mixes_no_devices(method, state):
    name, device, world = state
    waits, copies = counted(device, method, world)
    if name == "normal":  # elsewhere weights move too
        assert (sum(waits.values()), sum(copies.values())) <= ONCE[method], (waits, copies)


@pytest.mark.parametrize("fault", [
    lambda here, there: here + there,
    lambda here, there: torch.cat([here, there]),
    lambda here, there: here.numpy(),
    lambda here, there: there[here > 0],
    lambda here, there: torch.nn.Linear(4, 4)(here),
    lambda here, there: torch.autocast(here.device.type),
])  # fmt: skip
def test_the_pretended_device_refuses(fault, state):
    with pytest.raises((RuntimeError, TypeError, AssertionError), match="device|indices|backend"):
        fault(torch.zeros(4, 4, device=pretended_device.DEVICE), torch.zeros(4, 4))


def test_the_pretended_device_takes(state):
    here, there = torch.zeros(4, 4, device=pretended_device.DEVICE), torch.ones(4, 4)
    assert torch.equal((here + there.to(here)).cpu(), there)
    assert float((here * torch.tensor(2.0)).sum()) == 0
    assert torch.nn.Linear(4, 4).to(here.device)(here).device == here.device
    assert isinstance(here[0], Pretended) and not isinstance(there.copy_(here), Pretended)

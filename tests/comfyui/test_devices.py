"""Every method and loader on a device that takes no tensors of the CPU, and how often each makes the host wait for it."""

from collections import Counter

import comfy.sample
import comfy.samplers
import pretended_device
import pytest
import tiny
import torch
from loupe import nodes
from pretended_device import DEVICE, STATES, Pretended

SIZE = 16  # cells to the side of the small image


class World:
    """The nodes, by id, and the mini world loaded by its own."""

    def __init__(self):
        self.nodes = {node.define_schema().node_id: node for node in nodes.NODES}
        self.model, self.clip, self.vae = self("LoadMini")
        self.positive, self.negative = self.prompt("red ball, on grass"), self.prompt("")
        self.small, self.large, self.image = {"samples": tiny.noise((1, 4, SIZE, SIZE), 5)}, {"samples": tiny.noise((1, 4, SIZE, 3 * SIZE // 2), 6)}, torch.rand(1, 8 * SIZE, 12 * SIZE, 3)

    def __call__(self, name, **values):
        node = self.nodes[f"Loupe{name}"]
        inputs = node.define_schema().inputs
        return node.execute(**{i.id: i.default for i in inputs if hasattr(i, "default") and not i.optional} | values).result

    def prompt(self, text):
        return self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text))

    def regional(self):
        return self("RegionalDenoise", model=self.model, region_width=SIZE, region_height=SIZE, jitter=True)[0]

    def sample(self, model, steps, positive=None, sampler="euler"):
        noise = comfy.sample.prepare_noise(self.large["samples"], 1)
        return comfy.sample.sample(model, noise, steps, 2.0, sampler, "normal", positive or self.positive, self.negative, self.large["samples"], disable_pbar=True, seed=1)


def regional_denoise(world, steps):
    return world.sample(world.regional(), steps)


def demofusion(world, steps):
    return world.sample(world("DemoFusion", model=world.regional(), reference=world.small)[0], steps)


def structure_prior(world, steps):
    return world.sample(world("StructurePrior", model=world.model, reference=world.small)[0], steps)


def latent_adjustment(world, steps):
    return world.sample(world("LatentAdjustment", model=world.model, reference=world.small)[0], steps)


def attention_prior(world, steps):
    return world.sample(world("AttentionPrior", model=world.regional(), reference=world.small)[0], steps)


def region_prompts(world, steps):
    layout = world("RegionLayout", samples=world.large, region_width=SIZE, region_height=SIZE)[0]
    prompts = "\n".join(["blue box"] * len(layout.regions))
    return world.sample(world.regional(), steps, world("RegionPrompts", clip=world.clip, regions=layout, conditioning=world.positive, prompts=prompts)[0])


def clearsr(world, steps):
    control = world("LoadClearSR", control_net_name="mini_clearsr.safetensors")[0]
    model, positive, *_ = world("ApplyClearSR", model=world.regional(), positive=world.positive, negative=world.negative, control_net=control, vae=world.vae, image=world.image)
    return world.sample(model, steps, positive)


def pixelsmith(world, steps):
    return world("PixelSmithSampler", model=world.model, positive=world.positive, negative=world.negative, guidance=world.large, steps=steps, denoise_depth=steps, guided_steps=2, patch_size=SIZE)[0]["samples"]


def demofusion_sampler(world, steps):
    """With the latent network and the noise at edges."""
    lsr = world("LoadLSR", model_name="mini_lsr.safetensors")[0]
    sizes = {"region_width": SIZE, "region_height": SIZE}
    return world("DemoFusionSampler", model=world.model, positive=world.positive, negative=world.negative, reference=world.small, mode="direct", steps=steps, denoise_depth=steps, lsr=lsr, vae=world.vae, **sizes)[0]["samples"]


METHODS = [regional_denoise, demofusion, structure_prior, latent_adjustment, attention_prior, region_prompts, clearsr, pixelsmith, demofusion_sampler]


def region_noise(world):
    return world("RegionNoise", model=world.model, samples=world.small, reference=torch.rand(1, 8 * SIZE, 8 * SIZE, 3))[0]["samples"]


def lsr(world):
    loaded = world("LoadLSR", model_name="mini_lsr.safetensors")[0]
    return world("LSRUpscale", lsr=loaded, samples=world.small)[0]["samples"]


def implicit_decoder(world):
    loaded = world("LoadImplicitDecoder", model_name="mini_decoder.safetensors")[0]
    return world("ImplicitDecode", samples=world.small, vae=world.vae, decoder=loaded)[0]


def mini_vae(world):
    return world.vae.encode(world.vae.decode(world.small["samples"]))


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("method", [region_noise, lsr, implicit_decoder, mini_vae])
def test_runs_once(method, state):
    with pretended_device.pretended_device(state) as device:
        out = method(World())
        print(method.__name__, state, device.waits, device.copies)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("method", METHODS)
def test_runs(method, state):
    with pretended_device.pretended_device(state) as device:
        world = World()
        found = []
        for steps in (4, 6):
            device.waits.clear(), device.copies.clear()
            method(world, steps)
            found.append((Counter(device.waits), Counter(device.copies)))
        print(method.__name__, state)
        for a, b, what in zip(*found, ("waits", "copies")):
            print(what, {k: (a[k], b[k]) for k in b | a})

"""Patches and ControlNets of other packs, which hold masks, hints and features of the canvas, or keep what an earlier
call left: in regions they equal themselves on each crop."""

import collections
import functools
import types
from typing import NamedTuple

import comfy.controlnet
import comfy.samplers
import local
import pytest
import tiny
import torch
import torch.nn.functional as F
from comfy.ldm.modules.attention import optimized_attention
from comfy.patcher_extension import WrappersMP
from loupe.engine.evaluation import with_parts
from loupe.patches.demofusion import DilatedPass
from loupe.patches.pixelsmith import sample
from loupe.patches.regional_denoise import RegionalDenoise

pytestmark = pytest.mark.numerics

HEIGHT, WIDTH, SIDE = 16, 32, 16
NOISE = tiny.noise((1, 4, HEIGHT, WIDTH), 5)
HALVES = (0, SIDE)
LAYERS = (("input", 3), ("middle", 0), ("output", 0), ("output", 1))


@pytest.fixture(scope="module")
def sdxl():
    return tiny.sdxl()


def regional(model, **settings):
    return with_parts(model, RegionalDenoise(**{"region": (SIDE, SIDE), "overlap": 0.0, "sizes": "unchanged", **settings}))


def one_step(model, noise=NOISE, conds=None):
    positive, negative = conds or tuple(tiny.conditioning(seed, width=SIDE * 8, height=HEIGHT * 8) for seed in (1, 2))
    return tiny.sample(model, torch.zeros_like(noise), sigmas=torch.tensor([2.0, 0.0]), noise_tensor=noise, cfg=3.0, positive=positive, negative=negative)


def half(tensor, start, ratio=1):
    return tensor[..., start * ratio : (start + SIDE) * ratio]


def mask(height=HEIGHT, width=WIDTH):
    """Of the left half, with a slope in it."""
    out = torch.zeros(1, height, width)
    out[..., : width // 2] = torch.linspace(0.2, 1, width // 2)
    return out


# ControlNets


class OwnMethods(comfy.controlnet.ControlNet):
    """Keeps one of its methods on the instance, calls its class through a super() made in the constructor, and lays a
    mask over its effect, from its own attribute or from one of its keyframes."""

    def __init__(self, effect_mask=None, keyframe_masks=()):
        super().__init__(local.HintNetwork(), compression_ratio=8, load_device=torch.device("cpu"), extra_conds=[])
        self.base = super()
        self.effect_mask, self.fitted = effect_mask, None
        self.keyframes = [types.SimpleNamespace(mask=one) for one in keyframe_masks]
        self.current, self.seen, self.index = None, None, -1
        self.get_control = self.masked_control

    def masked_control(self, x_noisy, t, cond, batched_number, transformer_options):
        if self.seen != float(t[0]):  # once for each noise level
            self.seen = float(t[0])
            if self.keyframes:
                self.index, self.fitted = min(self.index + 1, len(self.keyframes) - 1), None
                self.current = self.keyframes[self.index]
        own = self.effect_mask if self.current is None else self.current.mask
        out = self.base.get_control(x_noisy, t, cond, batched_number, transformer_options)
        for features in out.values():
            for i, feature in enumerate(features):
                if own is not None and feature is not None:
                    if self.fitted is None or self.fitted.shape[-2:] != feature.shape[-2:]:
                        self.fitted = F.interpolate(own[None], feature.shape[-2:], mode="bilinear")
                    features[i] = feature * self.fitted
        return out


def controlled(control, hint):
    control.set_cond_hint(hint, 1.0)
    return tuple(tiny.conditioning(seed, control=control, control_apply_to_uncond=False) for seed in (1, 2))


HINT = torch.rand(1, 3, HEIGHT * 8, WIDTH * 8, generator=torch.Generator().manual_seed(1)) * torch.linspace(1, 0.1, WIDTH * 8)


@pytest.mark.parametrize("masks", ["none", "attribute", "keyframe", "small"])
def test_a_control_class_with_methods_and_masks_of_its_own(masks):
    model, whole = local.build("sd15"), mask(HEIGHT * 8, WIDTH * 8)
    if masks == "small":
        whole = mask(HEIGHT // 2, WIDTH // 2)

    def make(start=None):
        ratio = whole.shape[-1] / WIDTH
        own = whole if start is None else whole[..., int(start * ratio) : int((start + SIDE) * ratio)]
        control = OwnMethods(own if masks in ("attribute", "small") else None, [own] if masks == "keyframe" else ())
        return controlled(control, HINT if start is None else half(HINT, start, 8))

    expected = torch.cat([one_step(model, half(NOISE, start), make(start)) for start in HALVES], -1)
    conds = make()
    control = conds[0][0][1]["control"]
    before = (control.effect_mask, control.cond_hint_original, control.fitted, [one.mask for one in control.keyframes])
    out = one_step(regional(model), NOISE, conds)
    tolerance = 0.05 if masks == "small" else 1e-4  # it is enlarged before it is cut
    assert tiny.relative(out, expected) < tolerance
    assert tiny.relative(one_step(model), expected) > 0.1
    after = (control.effect_mask, control.cond_hint_original, control.fitted, [one.mask for one in control.keyframes])
    assert all(a is b for a, b in zip(before[:3], after[:3])) and all(a is b for a, b in zip(before[3], after[3]))


def test_the_keyframe_goes_on_with_the_steps_of_each_region():
    """Three steps, three masks: every region meets each of them once, wherever it lies."""
    model, masks = local.build("sd15"), [mask() * value for value in (0.0, 1.0, 0.3)]
    sigmas = torch.tensor([3.0, 2.0, 1.0, 0.0])

    def run(model, noise, start=None):
        own = masks if start is None else [half(one, start) for one in masks]
        positive, negative = controlled(OwnMethods(None, own), HINT if start is None else half(HINT, start, 8))
        return tiny.sample(model, torch.zeros_like(noise), sigmas=sigmas, noise_tensor=noise, cfg=3.0, positive=positive, negative=negative)

    expected = torch.cat([run(model, half(NOISE, start), start) for start in HALVES], -1)
    assert tiny.relative(run(regional(model), NOISE), expected) < 1e-4


@pytest.mark.parametrize("kind", ["partial", "object"])
def test_a_stock_control_with_a_callable_put_on_it(kind):
    """Bound to the control, as packs wrap the controls of others."""
    model = local.build("sd15")

    class Wrapped:
        def __init__(self, control):
            self.control = control

        def __call__(self, *args):
            out = comfy.controlnet.ControlNet.get_control(self.control, *args)
            return {name: [2 * feature for feature in features] for name, features in out.items()}

    def make(start=None):
        control = local.controlnet(HINT)
        wrapped = Wrapped(control)
        control.get_control = wrapped if kind == "object" else functools.partial(Wrapped.__call__, wrapped)
        return controlled(control, HINT if start is None else half(HINT, start, 8))

    expected = torch.cat([one_step(model, half(NOISE, start), make(start)) for start in HALVES], -1)
    assert tiny.relative(one_step(regional(model), NOISE, make()), expected) < 1e-4


def test_a_control_that_stands_around_another():
    model = local.build("sd15")

    class Around(comfy.controlnet.ControlBase):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def pre_run(self, *args):
            super().pre_run(*args)
            self.inner.pre_run(*args)

        def get_models(self):
            return self.inner.get_models()

        def get_control(self, *args):
            return self.inner.get_control(*args)

    def make(start=None):
        around = Around(local.controlnet(HINT if start is None else half(HINT, start, 8)))
        return tuple(tiny.conditioning(seed, control=around, control_apply_to_uncond=False) for seed in (1, 2))

    expected = torch.cat([one_step(model, half(NOISE, start), make(start)) for start in HALVES], -1)
    assert tiny.relative(one_step(regional(model), NOISE, make()), expected) < 1e-4


def test_a_chain_of_controls_of_both_kinds():
    model = local.build("sd15")

    def make(start=None):
        cut = (lambda tensor, ratio=1: tensor) if start is None else lambda tensor, ratio=1: half(tensor, start, ratio)
        first = local.controlnet(cut(HINT.flip(-1), 8), 0.5)
        middle = OwnMethods(cut(mask(HEIGHT * 8, WIDTH * 8), 8))
        middle.set_previous_controlnet(first)
        positive, negative = controlled(middle, cut(HINT, 8))
        last = local.controlnet(cut(HINT.flip(-2), 8), 0.7, previous=middle)
        return [[positive[0][0], {**positive[0][1], "control": last}]], negative

    expected = torch.cat([one_step(model, half(NOISE, start), make(start)) for start in HALVES], -1)
    assert tiny.relative(one_step(regional(model), NOISE, make()), expected) < 1e-4


# Attention


def fitted(own, tokens, options):
    height, width = options["original_shape"][-2:]
    rows = round((tokens * height / width) ** 0.5)
    return F.interpolate(own[None], (rows, tokens // rows), mode="bilinear").flatten(2).mT


class Adapter:
    """Later ones are added to it; the settings of each in kwargs."""

    def __init__(self, **kwargs):
        self.kwargs = [kwargs]

    def __call__(self, q, k, v, options):
        out = optimized_attention(q, k, v, options["n_heads"])
        for own in self.kwargs:
            token = own["cond"].to(q)[..., : q.shape[-1]].expand(len(q), -1, -1)
            out = out + optimized_attention(q, token, token, options["n_heads"]) * fitted(own["mask"], q.shape[1], options)
        return out


def adapter(model, own):
    model = model.clone()
    for block in LAYERS:
        model.set_model_attn2_replace(Adapter(cond=5 * tiny.noise((1, 4, 64), 31), mask=own), *block)
    return model


def couple_in_a_default(model, own):
    model, other = model.clone(), tiny.noise((1, 1, 64), 32)

    def patch(n, options, masks=[own]):
        return n + other * fitted(masks[0], n.shape[1], options)

    model.set_model_attn2_output_patch(patch)
    return model


def couple_in_a_partial(model, own):
    def patch(settings, n, options):
        return n + sum(tiny.noise((1, 1, 64), seed) * fitted(one, n.shape[1], options) for seed, one in enumerate(settings["masks"]))

    model = model.clone()
    model.set_model_attn2_output_patch(functools.partial(patch, {"masks": [own, 1 - own]}))
    return model


MASKED = {"adapter": adapter, "default": couple_in_a_default, "partial": couple_in_a_partial}


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", MASKED)
def test_attention_patches_with_a_mask(name, batch, sdxl):
    make, noise = MASKED[name], tiny.noise((batch, 4, HEIGHT, WIDTH), 5)
    for own in (mask(), torch.full((1, HEIGHT, WIDTH), 0.5)):
        expected = torch.cat([one_step(make(sdxl, half(own, start)), half(noise, start)) for start in HALVES], -1)
        assert tiny.relative(one_step(regional(make(sdxl, own)), noise), expected) < 1e-4
        assert tiny.relative(one_step(make(regional(sdxl), own)), expected[:1]) < 1e-4
    assert tiny.relative(one_step(regional(sdxl), noise), expected) > 0.05


class Pair(NamedTuple):
    strength: float
    mask: torch.Tensor


class Slots:
    __slots__ = ("area_mask",)

    def __init__(self, area_mask):
        self.area_mask = area_mask


class Buffered(torch.nn.Module):
    def __init__(self, own):
        super().__init__()
        self.register_buffer("own_mask", own)


# how a patch may keep a mask, and how it gets at it
KEPT = {
    "slots": (Slots, lambda kept: kept.area_mask),
    "named tuples in a list": (lambda own: [Pair(1.0, own)], lambda kept: kept[0].mask),
    "tuples in a list": (lambda own: [(1.0, own)], lambda kept: kept[0][1]),
    "deque": (lambda own: collections.deque([own]), lambda kept: kept[0]),
    "buffer": (Buffered, lambda kept: kept.own_mask),
    "array": (lambda own: {"mask": own.numpy()}, lambda kept: torch.from_numpy(kept["mask"])),
    "of tokens": (lambda own: {"mask": own.flatten(1)}, lambda kept: kept["mask"].reshape(1, HEIGHT, -1)),
    "another name": (lambda own: {"weights": own}, lambda kept: kept["weights"]),
    "true or false": (lambda own: {"mask": own > 0.5}, lambda kept: kept["mask"].float()),
}


@pytest.mark.parametrize("name", KEPT)
def test_a_mask_wherever_it_is_kept(name, sdxl):
    keep, get = KEPT[name]

    def make(own):
        model, other, kept = sdxl.clone(), tiny.noise((1, 1, 64), 32), keep(own)
        model.set_model_attn2_output_patch(lambda n, options: n + other * fitted(get(kept), n.shape[1], options))
        return model

    expected = torch.cat([one_step(make(half(mask(), start).clone()), half(NOISE, start)) for start in HALVES], -1)
    assert tiny.relative(one_step(regional(make(mask()))), expected) < 1e-4
    assert tiny.relative(one_step(regional(sdxl)), expected) > 0.05


def test_a_mask_among_the_options_of_a_call(sdxl):
    def make(own):
        model, other = sdxl.clone(), tiny.noise((1, 1, 64), 32)
        model.model_options["transformer_options"]["area_mask"] = own
        model.set_model_attn2_output_patch(lambda n, options: n + other * fitted(options["area_mask"], n.shape[1], options))
        return model

    expected = torch.cat([one_step(make(half(mask(), start)), half(NOISE, start)) for start in HALVES], -1)
    assert tiny.relative(one_step(regional(make(mask()))), expected) < 1e-4


def test_an_attention_mask_in_a_closure(sdxl):
    def make(mask):
        model, other = sdxl.clone(), tiny.noise((1, 1, 64), 32)
        model.set_model_attn2_output_patch(lambda n, options: n + other * fitted(mask, n.shape[1], options))
        return model

    expected = torch.cat([one_step(make(half(mask(), start)), half(NOISE, start)) for start in HALVES], -1)
    assert tiny.relative(one_step(regional(make(mask()))), expected) < 1e-4


def test_a_mask_of_any_resolution_is_stretched_over_the_canvas(sdxl):
    """Overlapping regions far from the mask's edge see what the whole canvas would."""
    fine = F.interpolate(mask()[None], scale_factor=4, mode="bilinear")[0]
    coarse = one_step(regional(adapter(sdxl, mask())))
    assert tiny.relative(one_step(regional(adapter(sdxl, fine))), coarse) < 0.05
    assert tiny.relative(one_step(regional(adapter(sdxl, fine * 0))), coarse) > 0.05


# Features


class InpaintHead:
    def __init__(self, features, block=0):
        self.features, self.block = features, block

    def __call__(self, h, options):
        return h + self.features.to(h).repeat(len(h) // len(self.features), 1, 1, 1) if options["block"][1] == self.block else h


def inpaint_head(model, features, block=0):
    model = model.clone()
    model.set_model_input_block_patch(InpaintHead(features, block))
    return model


@pytest.mark.parametrize(("cells", "block", "channels"), [(1, 0, 32), (2, 3, 64)])
def test_features_of_the_canvas(cells, block, channels, sdxl):
    features = tiny.noise((1, channels, HEIGHT // cells, WIDTH // cells), 51)

    def part(start):
        return features[..., start // cells : (start + SIDE) // cells]

    expected = torch.cat([one_step(inpaint_head(sdxl, part(start), block), half(NOISE, start)) for start in HALVES], -1)
    assert tiny.relative(one_step(regional(inpaint_head(sdxl, features, block))), expected) < 1e-4
    whole = regional(inpaint_head(sdxl, features, block), region=(HEIGHT, WIDTH))
    assert torch.equal(one_step(whole), one_step(inpaint_head(sdxl, features, block)))


def test_a_concatenated_latent_in_a_wrapper_around_the_network():
    """Relighting packs hand the network further channels from a model function wrapper."""
    model, concatenated = local.build("sd15", 4), tiny.noise((1, 4, HEIGHT, WIDTH), 52)

    def make(latent):
        def wrapper(apply_model, args):
            c = {**args["c"], "c_concat": latent.repeat(len(args["input"]), 1, 1, 1)}
            return apply_model(args["input"], args["timestep"], **c)

        patched = model.clone()
        patched.set_model_unet_function_wrapper(wrapper)
        return patched

    expected = torch.cat([one_step(make(half(concatenated, start)), half(NOISE, start)) for start in HALVES], -1)
    assert tiny.relative(one_step(regional(make(concatenated))), expected) < 1e-4


def test_what_fails_on_a_part_is_named(sdxl):
    flat = InpaintHead(tiny.noise((1, 32, HEIGHT * WIDTH), 51).unflatten(2, (HEIGHT // 4, WIDTH * 4)))

    class FoldedHead(InpaintHead):
        def __call__(self, h, options):
            return h + self.features.flatten(2).unflatten(2, (HEIGHT, WIDTH)) if options["block"][1] == 0 else h

    model = sdxl.clone()
    model.set_model_input_block_patch(FoldedHead(flat.features))
    assert one_step(regional(model, region=(HEIGHT, WIDTH))).isfinite().all()
    with pytest.raises(ValueError, match="model carries FoldedHead.*remove it, or sample without regions"):
        one_step(regional(model))


def test_a_failure_without_patches_stays_as_it_is(sdxl):
    model = sdxl.clone()
    with pytest.raises(RuntimeError):
        one_step(regional(model), conds=([[tiny.noise((1, 8, 63)), {"pooled_output": tiny.noise((1, 32))}]], tiny.conditioning(2)))


# What is kept from call to call


class Reuse:
    """A cache of the TeaCache kind: every second call answers with what the one before has added."""

    def __init__(self):
        self.calls, self.residual = 0, None

    def __call__(self, executor, x, *args, **kwargs):
        self.calls += 1
        if self.calls % 2 == 0:
            return x + self.residual
        out = executor(x, *args, **kwargs)
        self.residual = out - x
        return out


class ReuseForLong(Reuse):
    """Refreshed at every third call."""

    def __call__(self, executor, x, *args, **kwargs):
        self.calls += 1
        if self.calls % 3 != 1:
            return x + self.residual
        out = executor(x, *args, **kwargs)
        self.residual = out - x
        return out


class ReuseOnTheNetwork:
    """Keeps its state on the network that it runs around."""

    def __call__(self, executor, x, *args, **kwargs):
        state = vars(executor.class_obj).setdefault("reuse_state", {"calls": 0, "residual": None})
        state["calls"] += 1
        if state["calls"] % 2 == 0:
            return x + state["residual"]
        out = executor(x, *args, **kwargs)
        state["residual"] = out - x
        return out


def reusing(model, kind=Reuse):
    model, cache = model.clone(), kind()
    vars(model.model.diffusion_model).pop("reuse_state", None)
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "reuse", cache)
    return model


SIGMAS = torch.tensor([4.0, 3.0, 2.0, 1.0, 0.0])


def several_steps(model, noise=NOISE):
    return tiny.sample(model, torch.zeros_like(noise), sigmas=SIGMAS, noise_tensor=noise, cfg=1.0, positive=tiny.conditioning(1, width=SIDE * 8, height=HEIGHT * 8))


@pytest.mark.parametrize("batch", [0, 1])
@pytest.mark.parametrize("kind", [Reuse, ReuseForLong, ReuseOnTheNetwork])
def test_every_region_has_its_own_cache(kind, batch, sdxl):
    expected = torch.cat([several_steps(reusing(sdxl, kind), half(NOISE, start)) for start in HALVES], -1)
    assert tiny.relative(several_steps(regional(reusing(sdxl, kind), regions_per_call=batch)), expected) < 1e-4
    assert tiny.relative(several_steps(regional(sdxl)), expected) > 1e-3


def test_a_dilated_view_has_its_own_cache_too(sdxl):
    """The whole canvas and its dilated views at the same size of region."""
    dilated = DilatedPass((HEIGHT, WIDTH), 2, alpha2=0.0)
    out = several_steps(with_parts(reusing(sdxl), dilated))
    exact = several_steps(with_parts(sdxl, dilated))
    assert tiny.relative(out, exact) < 0.5


def test_a_patch_of_pixelsmith_has_its_own_cache(sdxl):
    """Most lie elsewhere at the next step and are new images; the few that come back go on where they were."""

    def run(model, batch=0):
        return sample(model, tiny.conditioning(1), tiny.conditioning(2), NOISE * 0.5, SIGMAS, 2, 3.0, 9, 12, regions_per_call=batch)

    class Residuals(Reuse):
        def __call__(self, executor, x, *args, **kwargs):
            if self.residual is not None:
                return x + self.residual
            out = executor(x, *args, **kwargs)
            self.residual = out - x
            return out

    model = sdxl.clone()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "reuse", Residuals())
    out = run(model)
    assert 0 < tiny.relative(out, run(sdxl)) < 0.6
    assert tiny.relative(run(model, 1), out) < 1e-4


def test_counters_go_on_and_nothing_is_left_behind(sdxl):
    class Counting(InpaintHead):
        calls = 0

        def __call__(self, h, options):
            self.calls += options["block"][1] == 0
            return super().__call__(h, options)

    features, model = tiny.noise((1, 32, HEIGHT, WIDTH), 51), sdxl.clone()
    counting = Counting(features)
    model.set_model_input_block_patch(counting)
    several_steps(regional(model))
    assert counting.calls == 2 * (len(SIGMAS) - 1)
    assert counting.features is features


def test_results_do_not_hang_on_the_regions_in_a_call(sdxl):
    """A patch that weights the images of a batch one by one, as packs do that keep one thing for each of them."""
    weights = [1.0, 0.2]

    def per_image(n, options):
        rows = len(n) // len(options["cond_or_uncond"])
        return n * torch.tensor([weights[min(i % rows, 1)] for i in range(len(n))])[:, None, None]

    model, noise = sdxl.clone(), tiny.noise((2, 4, HEIGHT, WIDTH), 5)
    model.set_model_attn2_output_patch(per_image)
    together, singly = (one_step(regional(model, regions_per_call=batch), noise) for batch in (0, 1))
    assert tiny.relative(together, singly) < 1e-4
    expected = torch.cat([one_step(model, half(noise, start)) for start in HALVES], -1)
    assert tiny.relative(together, expected) < 1e-4


@pytest.mark.parametrize(("keeps", "rows"), [(False, 4), (True, 2)])
def test_a_wrapper_that_keeps_no_tensors_leaves_the_batches_alone(keeps, rows, sdxl):
    """Such as one that measures time."""
    sizes, kept = [], torch.ones(1)

    def keep(executor, x, *args, **kwargs):
        sizes.append(len(x))
        return executor(x * kept, *args, **kwargs)

    def watch(executor, x, *args, **kwargs):
        sizes.append(len(x))
        return executor(x, *args, **kwargs)

    model = sdxl.clone()
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "test", keep if keeps else watch)
    one_step(regional(model, regions_per_call=2))
    assert set(sizes) == {rows}

"""The attention prior against its definition, written out with stock evaluations and torch's
interpolation, and its company with everything else that hooks a model."""

import comfy.hooks
import comfy.lora
import comfy.samplers
import pytest
import tiny
import torch
import torch.nn.functional as F
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_custom_sampler import Guider_DualCFG
from loupe.engine.attention import output_bytes
from loupe.engine.conditioning import REGION
from loupe.engine.evaluation import engine_of, parts_of, with_parts
from loupe.methods.noise import seeded_noise, stream
from loupe.methods.regions import Region, RegionLayout
from loupe.nodes.attention_prior import AttentionPriorNode
from loupe.patches import attention_prior as attention
from loupe.patches.attention_prior import AttentionPrior
from loupe.patches.regional_denoise import RegionalDenoise

CONDS = tiny.conditioning(1), tiny.conditioning(2)
REFERENCE = tiny.noise((1, 4, 8, 8), 4)
X = tiny.noise((2, 4, 8, 12), 9) * 2
REGIONS = Region(0, 0, 8, 8), Region(0, 4, 8, 8)


def prior(model, reference=REFERENCE, **settings):
    attention = AttentionPrior(reference, **settings)
    attention.check(model)
    return with_parts(model, attention)


def regional(model, **settings):
    return with_parts(model, RegionalDenoise((8, 8), **settings))


def prior_noise(shape, seed, when="fixed"):
    """An image of the reference, the same for every image of the canvas."""
    return seeded_noise((1, *shape[1:]), stream(seed, f"attention prior {when}"))


def cross_attention(model, replace):
    """Clone whose cross-attention outputs are given to replace(layer, n, rows, columns)."""
    model = model.clone()

    def patch(n, extra_options):
        layer = (*extra_options["block"], extra_options["block_index"])
        return replace(layer, n, *extra_options["activations_shape"][-2:])

    model.set_model_attn2_output_patch(patch)
    return model


def written_out(model, x, conds, weight, sigma=2.0, prompts=None, reference=REFERENCE, seed=0):
    """Predictions of both branches: the regions one by one, their positive branch with the small
    image's attention interpolated to the canvas and cropped."""
    height, width = x.shape[-2:]
    reference = model.model.process_latent_in(reference).expand(len(x), -1, -1, -1)
    kept, parts = {}, []

    def keep(layer, n, rows, columns):
        kept[layer] = n[: len(x)].unflatten(1, (rows, columns)).movedim(-1, 1)
        return n

    noised = reference + sigma * prior_noise(reference.shape, seed)
    tiny.evaluate(cross_attention(model, keep), noised, (conds[0], conds[0]), sigma)
    for region, positive in zip(REGIONS, prompts or [conds[0]] * 2):

        def mix(layer, n, rows, columns, region=region):
            cells = region.height // rows
            canvas = F.interpolate(kept[layer], (height // cells, width // cells), mode="bilinear")
            window = canvas[..., region.x // cells : region.x // cells + columns]
            return torch.lerp(n, window.flatten(2).mT.repeat(2, 1, 1), weight)

        part = region.crop(x)
        parts.append((tiny.evaluate(cross_attention(model, mix), part, (positive, positive), sigma)[0], tiny.evaluate(model, part, conds, sigma)[1]))
    return [torch.cat([a[..., :4], (a[..., 4:] + b[..., :4]) / 2, b[..., 4:]], -1) for a, b in zip(*parts)]


def own_prompts(seeds=(5, 6), **keys):
    """A global prompt and one for each region."""
    prompts = [tiny.conditioning(seed, **keys) for seed in seeds]
    masks = []
    for region in REGIONS:
        mask = torch.zeros(1, *X.shape[-2:])
        region.crop(mask).fill_(1)
        masks.append(mask)
    positive = tiny.conditioning(1)
    positive += [[text, {**options, REGION: region, "mask": mask}] for ((text, options),), region, mask in zip(prompts, REGIONS, masks)]
    return positive, prompts


@pytest.mark.numerics
@pytest.mark.parametrize("make", [tiny.sdxl, tiny.sd15], ids=["sdxl", "sd15"])
@pytest.mark.parametrize("weight", [1.0, 0.3])
@pytest.mark.parametrize("size", [(8, 8), (6, 10)])
def test_regions_read_the_interpolated_attention(make, weight, size):
    model, reference = make(), tiny.noise((1, 4, *size), 4)
    fused = tiny.evaluate(prior(regional(model), reference, weight_alone=weight, seed=3), X, CONDS)
    for out, expected in zip(fused, written_out(model, X, CONDS, weight, reference=reference, seed=3)):
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)
    assert tiny.relative(fused[0], tiny.evaluate(regional(model), X, CONDS)[0]) > 1e-3
    assert torch.equal(fused[1], tiny.evaluate(regional(model), X, CONDS)[1])


@pytest.mark.numerics
def test_a_regions_own_prompt_is_mixed_with_the_global_one():
    model = tiny.sdxl()
    positive, prompts = own_prompts()
    fused = tiny.evaluate(prior(regional(model)), X, (positive, CONDS[1]))
    expected = written_out(model, X, CONDS, 0.5, prompts=prompts)
    torch.testing.assert_close(fused[0], expected[0], rtol=1e-4, atol=1e-4)
    without = tiny.evaluate(prior(regional(model), weight=0.0, weight_alone=0.7), X, (positive, CONDS[1]))
    expected = written_out(model, X, CONDS, 0.0, prompts=prompts)
    torch.testing.assert_close(without[0], expected[0], rtol=1e-4, atol=1e-4)


@pytest.mark.numerics
def test_without_regional_denoise_the_canvas_reads_it():
    model = tiny.sdxl()
    whole = tiny.evaluate(prior(model, weight_alone=0.6), X, CONDS)
    one = tiny.evaluate(prior(regional(model, layout=RegionLayout.from_overlap(8, 12, 8, 12)), weight_alone=0.6), X, CONDS)
    assert torch.equal(whole[0], one[0])
    assert tiny.relative(whole[0], tiny.evaluate(model, X, CONDS)[0]) > 1e-3
    # the same image at the same noise reads back what it gives
    x = model.model.process_latent_in(REFERENCE) + 2.0 * prior_noise(REFERENCE.shape, 0)
    own = tiny.evaluate(prior(model), x, CONDS)
    for a, b in zip(own, tiny.evaluate(model, x, CONDS)):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.numerics
@pytest.mark.parametrize("jitter", [False, True])
def test_batches_of_regions_equal_single_ones(jitter):
    model = prior(tiny.sdxl(), tiny.noise((2, 4, 8, 10), 4))
    latent = tiny.noise((2, 4, 12, 20))
    control = tiny.controlnet(torch.rand(1, 3, 96, 160))
    args = {"positive": tiny.conditioning(1, control=control, mask=torch.rand(1, 12, 20)), "negative": tiny.conditioning(2, control=control), "steps": 2}
    one = tiny.sample(regional(model, jitter=jitter, regions_per_call=1), latent, **args)
    assert tiny.relative(tiny.sample(regional(model, jitter=jitter, regions_per_call=5), latent, **args), one) < 1e-4


@pytest.mark.numerics
def test_several_prompts_of_the_whole_image_keep_their_own_attention():
    model = tiny.sdxl()
    both = tiny.conditioning(1, mask=torch.ones(1, 8, 12), mask_strength=0.25) + tiny.conditioning(3, mask=torch.ones(1, 8, 12), mask_strength=0.75)
    fused = tiny.evaluate(prior(regional(model)), X, (both, CONDS[1]))[0]
    first, second = (written_out(model, X, (tiny.conditioning(seed), CONDS[1]), 1.0)[0] for seed in (1, 3))
    torch.testing.assert_close(fused, 0.25 * first + 0.75 * second, rtol=1e-4, atol=1e-4)


@pytest.mark.numerics
@pytest.mark.parametrize("sigma", [10.0, 0.3])
def test_own_prompts_are_mixed_with_the_global_one_that_acts_now(sigma):
    model, (positive, _) = prior(regional(tiny.sdxl())), own_prompts()
    halves = tiny.conditioning(1, start_percent=0.0, end_percent=0.5) + tiny.conditioning(1, start_percent=0.5, end_percent=1.0)
    expected = tiny.evaluate(model, X, (positive, CONDS[1]), sigma)[0]
    assert torch.equal(tiny.evaluate(model, X, (halves + positive[1:], CONDS[1]), sigma)[0], expected)


def test_guiders_that_give_the_positive_prompt_another_place():
    """DualCFG's order is negative, middle, positive; self-attention guidance evaluates the negative alone."""
    model = tiny.sdxl()
    guider = Guider_DualCFG(prior(regional(model)))
    guider.set_conds(tiny.conditioning(1), tiny.conditioning(3), CONDS[1])
    guider.set_cfg(1.0, 1.0)  # the guided prediction is that of the positive prompt
    latent, sigmas = tiny.noise((1, 4, 8, 12)), torch.tensor([2.0, 0.0])
    out = guider.sample(tiny.noise((1, 4, 8, 12), 1), latent, comfy.samplers.sampler_object("euler"), sigmas, disable_pbar=True, seed=0)
    expected = tiny.sample(prior(regional(model)), latent, positive=tiny.conditioning(1), cfg=1.0, sigmas=sigmas, noise_tensor=tiny.noise((1, 4, 8, 12), 1))
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)

    guider = comfy.samplers.CFGGuider(prior(regional(model)))
    guider.set_conds(*CONDS)
    alone = []

    def negative(args):
        alone.extend(comfy.samplers.calc_cond_batch(args["model"], [args["uncond"]], args["input"], args["sigma"], args["model_options"]))
        alone.append(args["uncond_denoised"])
        return args["denoised"]

    guider.model_options = {**guider.model_options, "sampler_post_cfg_function": [negative]}
    guider.set_cfg(2.0)
    guider.sample(tiny.noise((1, 4, 8, 12), 1), latent, comfy.samplers.sampler_object("euler"), sigmas, disable_pbar=True, seed=0)
    torch.testing.assert_close(*alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("off", [{"weight": 0.0, "weight_alone": 0.0}, {"layers": "middle", "finest": 64}])
def test_off_is_stock_to_the_bit(off):
    model, latent = tiny.sdxl(), tiny.noise((1, 4, 8, 16))
    assert torch.equal(tiny.sample(prior(regional(model), **off), latent), tiny.sample(regional(model), latent))


def test_layers_are_chosen():
    model = tiny.sdxl()
    outs = {layers: tiny.evaluate(prior(regional(model), layers=layers), X, CONDS)[0] for layers in ("all", "down", "middle", "up")}
    outs["coarse"] = tiny.evaluate(prior(regional(model), finest=2), X, CONDS)[0]
    plain = tiny.evaluate(regional(model), X, CONDS)[0]
    assert all(tiny.relative(out, plain) > 1e-4 for out in outs.values())
    assert torch.equal(outs["coarse"], outs["all"])  # no layer of this model has one cell to a token
    assert tiny.relative(outs["up"], outs["down"]) > 1e-4


def test_odd_sizes_have_the_same_layers():
    """The tiny network attends at 2 x 2 cells; a small image of 7 x 9 has 4 x 5 tokens there."""
    model, reference = tiny.sdxl(), tiny.noise((1, 4, 7, 9), 4)
    every, coarse, none = (tiny.evaluate(prior(regional(model), reference, finest=finest), X, CONDS)[0] for finest in (1, 2, 3))
    assert torch.equal(every, coarse)
    assert torch.equal(none, tiny.evaluate(regional(model), X, CONDS)[0]) and not torch.equal(every, none)


def test_no_guidance_and_any_sampler():
    latent = tiny.noise((1, 4, 8, 16))
    model = prior(regional(tiny.sdxl()))
    assert torch.equal(*[tiny.sample(model, latent, cfg=1.0, negative=tiny.conditioning(seed)) for seed in (5, 6)])
    for sampler in ("dpmpp_2m", "heun", "dpmpp_sde", "uni_pc"):
        assert tiny.sample(model, latent, sampler).isfinite().all()


def test_a_cached_model_gives_the_same_image_again_and_fresh_noise_another():
    latent = tiny.noise((1, 4, 8, 16))
    model = prior(regional(tiny.sdxl(), jitter=True))
    first = tiny.sample(model, latent)
    assert torch.equal(tiny.sample(model, latent), first)
    assert torch.equal(tiny.sample(prior(model), latent), first)
    assert not torch.equal(tiny.sample(prior(model, seed=1), latent), first)
    fresh = prior(model, noise="fresh")
    assert torch.equal(tiny.sample(fresh, latent), tiny.sample(fresh, latent))
    assert not torch.equal(tiny.sample(fresh, latent), first)


def test_nothing_is_kept_after_a_run():
    model = prior(regional(tiny.sdxl()))
    before = [{**vars(thing)} for thing in (engine_of(model), *parts_of(model).values())]
    tiny.sample(model, tiny.noise((1, 4, 8, 16)))
    assert [vars(thing) for thing in (engine_of(model), *parts_of(model).values())] == before
    assert not any("loupe" in key for key in (*model.model_options, *model.model_options["transformer_options"]))


@pytest.mark.numerics
def test_patches_of_other_packs_act_on_both_passes():
    """An attn2 replacement as IPAdapter installs it, and an output patch, before and after ours."""
    model = tiny.sdxl()

    def attention(q, k, v, extra_options):
        out = comfy.ldm.modules.attention.optimized_attention(q, k, v, extra_options["n_heads"])
        return out + 0.3 * q

    def adapted(model):
        model = model.clone()
        for block in (("input", 3), ("middle", 0), ("output", 0), ("output", 1)):
            model.set_model_attn2_replace(attention, *block)
        model.set_model_attn2_output_patch(lambda n, extra_options: 0.8 * n)
        return model

    expected = written_out(adapted(model), X, CONDS, 1.0)
    for out in (adapted(prior(regional(model))), prior(regional(adapted(model)))):
        for a, b in zip(tiny.evaluate(out, X, CONDS), expected):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.numerics
def test_lora_acts_on_both_passes():
    model = tiny.sdxl()
    key = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_v.weight"
    weight = model.model.diffusion_model.middle_block[1].transformer_blocks[0].attn2.to_v.weight
    lora = {key: ("diff", (torch.randn(weight.shape, generator=torch.Generator().manual_seed(8)),))}

    def with_lora(model):
        model = model.clone()
        assert model.add_patches(lora, 0.7)
        return model

    expected = written_out(with_lora(model), X, CONDS, 1.0)[0]
    torch.testing.assert_close(tiny.evaluate(with_lora(prior(regional(model))), X, CONDS)[0], expected, rtol=1e-4, atol=1e-4)


def test_the_small_image_costs_one_row_at_its_own_size():
    shapes = []

    def watch(executor, model, conds, x, timestep, options):
        shapes.append((tuple(x.shape), len(conds)))
        return executor(model, conds, x, timestep, options)

    model = prior(regional(tiny.sdxl(), regions_per_call=4), tiny.noise((1, 4, 6, 10)))
    model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "other", watch)
    tiny.sample(model, tiny.noise((2, 4, 8, 16)), steps=1)
    assert shapes == [((2, 4, 6, 10), 1), ((6, 4, 8, 8), 2)]


@pytest.mark.parametrize("name, size, settings", [("sdxl", (6, 10), {}), ("sdxl", (8, 8), {"layers": "up"}), ("sd15", (6, 10), {"finest": 2}), ("pixart", (36, 40), {}), ("wan", (6, 10), {}), ("anima", (7, 9), {})])
def test_kept_bytes_are_those_planned(name, size, settings, monkeypatch):
    model, made = getattr(tiny, name)(), []

    class Watched(attention.Attended):
        def __init__(self, *args):
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr(attention, "Attended", Watched)
    latent_format = model.model.latent_format
    shape = latent_format.latent_channels, *([1] if latent_format.latent_dimensions == 3 else []), *size
    tiny.evaluate(with_parts(model, AttentionPrior(tiny.noise((1, *shape)), **settings)), tiny.noise((2, *shape), 1), CONDS, 0.6)
    (attended,) = made
    expected = 2 * output_bytes(model.model, *size, settings.get("layers", "all"), settings.get("finest", 1), element_size=4)
    assert sum(value.nbytes for value in attended.values.values()) == expected > 0


@pytest.mark.parametrize("make", [tiny.sd3, tiny.flux, tiny.zimage])
def test_models_without_cross_attention_are_refused(make):
    with pytest.raises(ValueError, match="model is (SD3|Flux|Lumina2), whose attention to the text cannot be read.*Structure Prior and Region Prompts instead"):
        prior(make(), tiny.noise((1, 16, 8, 8)))


def test_areas_and_missing_global_prompts_are_refused():
    model = prior(regional(tiny.sdxl()))
    area = tiny.conditioning(1, area=(8, 8, 0, 0))
    for conds in ((area, CONDS[1]), (CONDS[0], CONDS[1] + area)):
        with pytest.raises(ValueError, match="positive or negative is limited to an area.*mask"):
            tiny.evaluate(model, X, conds)
    with pytest.raises(ValueError, match="none of the whole image"):
        tiny.evaluate(model, X, (own_prompts()[0][1:], CONDS[1]))


def test_node():
    model = tiny.sdxl()
    out = AttentionPriorNode.execute(regional(model), {"samples": REFERENCE}, 0.5, 1.0, "all", 1, "fixed", 3).result[0]
    assert torch.equal(tiny.evaluate(out, X, CONDS)[0], tiny.evaluate(prior(regional(model), seed=3), X, CONDS)[0])
    with pytest.raises(ValueError, match="reference has 16 channels"):
        AttentionPriorNode.execute(model, {"samples": torch.zeros(1, 16, 8, 8)}, 0.5, 1.0, "all", 1, "fixed", 3)

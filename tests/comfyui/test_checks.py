import inspect

import pytest
import tiny
import torch
from comfy_api.internal import make_locked_method_func
from loupe.engine.latents import as_sampled, same_aspect
from loupe.methods.region_prompts import parse_prompts
from loupe.methods.regions import RegionLayout
from loupe.models.clearsr.loaded import ClearSRControl
from loupe.models.files import BUNDLED
from loupe.models.lsr.loaded import LatentUpscaler
from loupe.models.mini import loaded as mini
from loupe.nodes import NODES
from loupe.nodes.clearsr import ApplyClearSR
from loupe.nodes.demofusion import DemoFusionSampler
from loupe.nodes.estimate import PlanNode
from loupe.nodes.latent_adjustment import LatentAdjustmentNode
from loupe.nodes.mini import LoadMini
from loupe.nodes.pixelsmith import PixelSmithSampler
from loupe.nodes.region_layout import RegionLayoutNode
from loupe.nodes.region_noise import RegionNoise
from loupe.nodes.region_prompts import RegionPrompts
from loupe.nodes.structure_prior import StructurePriorNode
from widgets import defaults


def latent(*shape, **keys):
    return {"samples": tiny.noise(shape or (1, 4, 8, 8)), **keys}


def run(node, **values):
    return node.execute(**defaults(node, **values)).result


def sampled(**values):
    given = {"model": tiny.sdxl(), "positive": tiny.conditioning(1), "negative": tiny.conditioning(2), "reference": latent(), "steps": 1}
    return run(DemoFusionSampler, **{**given, **values})


@pytest.mark.parametrize("values, words", [
    ({"steps": 0}, "steps is 0; expected 1 to 1000."),
    ({"steps": -1}, "steps is -1; expected 1 to 1000."),
    ({"steps": 2.5}, "steps is 2.5; expected int."),
    ({"scale_by": float("inf")}, "scale_by is inf; expected 1.0 to 16.0."),
    ({"scale_by": 1e30}, "scale_by is 1e+30; expected 1.0 to 16.0."),
    ({"cfg": float("nan")}, "cfg is nan; expected 0.0 to 100.0."),
    ({"mode": "nonsense"}, "mode is 'nonsense'; expected one of progressive, direct."),
    ({"region_width": 16}, "region_width is 16 pixels; expected 0 (the model's native side, 1024) or 64 to 65536."),
    ({"region_height": -8}, "region_height is -8; expected 0 to 65536."),
    ({"jitter": None}, "jitter is None; expected bool."),
    ({"model": None}, "model is None; expected MODEL."),
    ({"positive": []}, "positive is empty; expected at least one prompt."),
    ({"negative": [[torch.zeros(1, 8, 64), {}]]}, "negative has no pooled_output"),
    ({"reference": latent(0, 4, 8, 8)}, "reference has the shape (0, 4, 8, 8) and holds nothing"),
    ({"reference": latent(1, 4, 8, 0)}, "reference has the shape (1, 4, 8, 0) and holds nothing"),
    ({"reference": latent(1, 4, 2, 8, 8)}, "reference is a video latent"),
    ({"reference": {"samples": torch.full((1, 4, 8, 8), float("nan"))}}, "reference holds values that are not finite"),
    ({"reference": latent(batch_index=[0, 1])}, "reference has 1 images and the batch_index [0, 1]"),
    ({"reference": latent(batch_index=[-1])}, "reference has 1 images and the batch_index [-1]"),
    ({"reference": latent(noise_mask=torch.full((1, 8, 8), float("nan")))}, "reference has a noise mask"),
    ({"steps": 30, "strength": 0.01}, "steps is 30 and strength 0.01, which are the last of 3000 steps"),
])
def test_a_sampler_refuses_before_it_samples(values, words, monkeypatch):
    monkeypatch.setattr("comfy.sample.sample_custom", lambda *args, **kwargs: pytest.fail("sampled"))
    with pytest.raises(ValueError) as error:
        sampled(**values)
    assert words in str(error.value)


def test_values_by_link_are_checked_as_comfyui_runs_a_node():
    locked = make_locked_method_func(LoadMini, "EXECUTE_NORMALIZED", LoadMini.PREPARE_CLASS_CLONE(None))
    with pytest.raises(ValueError, match="variant is 'nonsense'; expected one of text to image, arbitrary scale"):
        locked(variant="nonsense")


def test_every_node_s_execute_is_checked():
    loaders = {"LoupeLoadLSR", "LoupeLoadClearSR", "LoupeLoadImplicitDecoder"}  # ComfyUI finds their files
    assert {node.define_schema().node_id for node in NODES if not hasattr(node.execute, "__wrapped__")} == loaders


def test_a_model_that_takes_no_summary_needs_none():
    positive = [[text, {}] for text, _ in tiny.conditioning(1)]
    small = {"patch_size": 64, "steps": 1, "guided_steps": 1, "guide": latent(), "seed": 0}
    run(PixelSmithSampler, model=tiny.sd15(), positive=positive, negative=positive, **small)


def test_region_noise_takes_gray_and_alpha():
    model, z = tiny.sdxl(), latent()
    gray = torch.rand(1, 64, 64, 1, generator=torch.Generator().manual_seed(0))
    plain = run(RegionNoise, model=model, samples=z, reference=gray.expand(-1, -1, -1, 3))[0]["samples"]
    for image in (gray, torch.cat([gray.expand(-1, -1, -1, 3), torch.rand(1, 64, 64, 1)], -1)):
        assert torch.equal(run(RegionNoise, model=model, samples=z, reference=image)[0]["samples"], plain)
    assert not torch.equal(plain, z["samples"])
    for image, words in ((gray.expand(-1, -1, -1, 2), "reference has 2 channels"), (gray[0], "reference has the shape (64, 64, 1)"), (gray / 0, "reference holds values")):
        with pytest.raises(ValueError) as error:
            run(RegionNoise, model=model, samples=z, reference=image)
        assert words in str(error.value)


def test_noise_at_edges_is_checked_before_a_image_is_decoded():
    with pytest.raises(ValueError, match="noise_flat is 2.0 and noise_edges 1.0; expected 0 <= noise_flat <= noise_edges"):
        sampled(mode="direct", vae=object(), noise_flat=2.0, noise_edges=1.0)


def test_clearsr_refuses_an_image_smaller_than_a_cell():
    control = ClearSRControl.from_file(str(BUNDLED / "mini_clearsr.safetensors"))
    sockets = {"model": mini.load_model(), "positive": tiny.conditioning(1), "negative": tiny.conditioning(2), "control_net": control, "vae": mini.load_vae()}
    with pytest.raises(ValueError, match=r"image has the shape \(1, 1, 1, 3\).*at least 8 x 8 pixels"):
        run(ApplyClearSR, **sockets, image=torch.zeros(1, 1, 1, 3))
    run(ApplyClearSR, **sockets, image=torch.rand(1, 16, 16, 1))


def test_the_plan_refuses_videos_for_image_models():
    with pytest.raises(ValueError, match="samples is a video latent of shape"):
        run(PlanNode, model=tiny.sdxl(), samples={"samples": torch.zeros(1, 4, 2, 8, 8)})
    assert as_sampled({"samples": torch.zeros(1, 4, 8, 8)}, "samples", tiny.wan()).shape == (1, 16, 1, 8, 8)


def test_region_prompts_refuse_empty_lists():
    with pytest.raises(ValueError, match="conditioning is empty"):
        RegionPrompts.execute(object(), RegionLayout.from_overlap(8, 8, 8, 8), [], "", 75)
    with pytest.raises(ValueError, match="prompts is an empty list, regions has 2 regions"):
        parse_prompts("[]", 2)
    with pytest.raises(ValueError, match="prompts is JSON that is nested too deeply"):
        parse_prompts("[" * 100000, 2)


def test_a_layout_has_regions_of_a_size():
    with pytest.raises(ValueError, match="region_height is 0, the model's native side; .* Connect model, or type a size in pixels."):
        run(RegionLayoutNode, samples=latent(), region_height=0)


def test_same_aspect():
    assert same_aspect((64, 96), (16, 24)) and same_aspect((64, 96), (16, 23)) and not same_aspect((64, 96), (24, 24))


@pytest.mark.parametrize("node, values, words", [
    (RegionNoise, {"noise_flat": 2.0}, "noise_flat is 2.0 and noise_edges 1.2"),
    (RegionNoise, {"noise_flat": -1.0}, "noise_flat is -1.0; expected 0.0 to 10.0."),
    (DemoFusionSampler, {"mode": "direct", "noise_flat": 2.0, "noise_edges": 1.2}, "noise_flat is 2.0 and noise_edges 1.2"),
    (DemoFusionSampler, {"mode": "nonsense"}, "mode is 'nonsense'; expected one of progressive, direct."),
    (LatentAdjustmentNode, {"early_end": 0.9}, "early_end is 0.9 and late_start 0.8"),
    (LatentAdjustmentNode, {"preset": "custom", "alpha": 0.2}, "alpha is 0.2; with target 'sample'"),
    (StructurePriorNode, {"compare": "shrink prediction", "low_band": "butterworth"}, "compare is 'shrink prediction'"),
    (PixelSmithSampler, {"guided_steps": 60}, "guided_steps is 60; it counts steps from the first, so use 1 to 30."),
    (RegionPrompts, {"prompts": '["a", '}, "prompts is not valid JSON"),
    (RegionPrompts, {"prompts": "[]"}, "prompts is an empty list."),
    (RegionPrompts, {"prompts": '{"0": "a"}'}, "prompts names region '0'"),
])
def test_what_widgets_decide_is_refused_before_the_run(node, values, words):
    given = defaults(node)
    named = inspect.getfullargspec(node.validate_inputs).args[1:]

    def verdict(**changed):
        return node.validate_inputs(**{name: {**given, **changed}[name] for name in named})

    assert verdict() is True
    assert words in verdict(**values)
    assert node.validate_inputs() is True  # all by link


@pytest.mark.parametrize("prompts", ["", "a\nb\n\n", '["a", ""]', '{"7": "a"}', "{}"])
def test_prompts_for_any_number_of_regions_pass(prompts):
    assert RegionPrompts.validate_inputs(prompts) is True


def test_the_lsr_names_the_reference():
    upscaler = LatentUpscaler.from_file(str(BUNDLED / "mini_lsr.safetensors"))
    with pytest.raises(ValueError, match="^reference has 16 channels"):
        upscaler.upscale(torch.zeros(1, 16, 8, 8), 16, 16, "reference")


@pytest.mark.parametrize("values, words", [
    ({"mode": "progressive", "noise_edges": 1.2}, "vae is connected, but mode is progressive"),
    ({"mode": "progressive", "noise_edges": 0.0}, None),
    ({"mode": "progressive", "noise_edges": 1.2, "vae": None}, None),
    ({"mode": "direct", "vae": None, "region_width": 128, "region_height": 128}, "There was one region only"),
])
def test_demofusion_says_what_it_left_out(values, words, caplog):
    sampled(**{"vae": object(), "scale_by": 2.0, "region_width": 64, "region_height": 64, **values})
    assert [words in record.message for record in caplog.records if record.name == "loupe"] == [True] * bool(words)

"""Memory, speed, devices, seams and bad input of the regional evaluation."""

import copy

import comfy.model_management
import comfy.patcher_extension
import comfy.supported_models
import comfy.utils
import local
import pytest
import tiny
import torch
from comfy.patcher_extension import WrappersMP
from loupe.engine import Call, conditioning, parts_of, with_parts
from loupe.engine.cache import StepCache
from loupe.engine.views import Axis, Canvas, View
from loupe.methods.regions import BLENDS
from loupe.patches.demofusion import DilatedPass
from loupe.patches.demofusion_sampler import patch_demofusion
from loupe.patches.regional_denoise import RegionalDenoise
from tolerance import close

pytestmark = pytest.mark.numerics

SIGMAS = torch.tensor([3.0, 2.0, 1.0, 0.0])


def regional(model, region=local.REGION, **settings):
    return with_parts(model, RegionalDenoise((region, region), **{"sizes": "unchanged", **settings}))


def sample(model, conds, images=1, family="sd15", **kwargs):
    latent = kwargs.pop("latent", None)
    latent = torch.zeros_like(local.latents(family, images)) if latent is None else latent
    return tiny.sample(model, latent, positive=conds[0], negative=conds[1], **{"sigmas": SIGMAS, **kwargs})


def rows_of(model, limit=None):
    """Clone that notes the rows of every network call, and has memory for `limit` of them."""
    seen, model = [], model.clone()

    def watch(executor, x, *args, **kwargs):
        seen.append(len(x))
        if limit is not None and len(x) > limit:
            raise torch.cuda.OutOfMemoryError("fake")
        return executor(x, *args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "watch", watch)
    return model, seen


@pytest.mark.parametrize("batch", [0, 7])
def test_out_of_memory_halves_the_batch_and_goes_on(batch, caplog):
    model = local.build("sd15")
    conds = local.control_chain("sd15", model)
    model, seen = rows_of(regional(model, regions_per_call=batch, jitter=True), limit=6)
    out = sample(model, conds)
    expected = sample(regional(local.build("sd15"), regions_per_call=1, jitter=True), conds)
    assert tiny.relative(out, expected) < 1e-5
    # only the first evaluation has to find out
    failed = [i for i, rows in enumerate(seen) if rows > 6]
    assert 0 < len(failed) < len(seen) / 3
    assert failed[-1] < len(seen) / 3
    assert "going on with" in caplog.text


def test_out_of_memory_with_one_region_is_comfyui_s_error():
    model, seen = rows_of(regional(local.build("sd15"), regions_per_call=4), limit=1)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        sample(model, local.both())
    assert seen == [8, 4, 2]


def test_other_errors_are_not_tried_again():
    model = regional(local.build("sd15"), regions_per_call=4)
    calls = []

    def broken(executor, *args, **kwargs):
        calls.append(None)
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "broken", broken)
    with pytest.raises(RuntimeError, match="mat1"):
        sample(model, local.both())
    assert len(calls) == 1


def test_the_batch_is_chosen_once_a_run(monkeypatch):
    asked = []
    fits = Call._batch_that_fits
    monkeypatch.setattr(Call, "_batch_that_fits", lambda call, shape: asked.append(shape) or fits(call, shape))
    model = with_parts(regional(local.build("sd15")), DilatedPass((12, 20)))
    for _ in range(2):
        sample(model, local.both())
        assert sorted(asked) == [(1, 4, 12, 20), (1, 4, 16, 16)]
        asked.clear()


def test_reference_latents_count_as_memory(monkeypatch):
    """Flux takes them into the sequence."""
    model = local.build("flux")
    patched, _ = rows_of(regional(model))
    asked = []
    required = model.model.memory_required
    monkeypatch.setattr(model.model, "memory_required", lambda shape, cond_shapes={}: asked.append((list(shape), dict(cond_shapes))) or required(shape, cond_shapes=cond_shapes))
    x = local.latents("flux", 1)
    tiny.evaluate(patched, x, local.references("flux", model), 0.7)
    ours = next(shapes for shape, shapes in asked[1:] if shape == [2, 16, 16, 16])
    assert len(ours["ref_latents"]) == 2


@pytest.mark.parametrize("jitter", [False, True])
def test_a_layout_that_stays_is_cut_once_a_run(jitter, monkeypatch):
    model = local.build("sd15")
    cuts = []
    latent = View.latent
    monkeypatch.setattr(View, "latent", lambda view, tensor: cuts.append(view) or latent(view, tensor))
    patched = regional(model, jitter=jitter)
    regions = parts_of(patched)["regions"].layout_of(Canvas(*local.CANVAS)).count
    sample(patched, local.masks("sd15", model))
    assert len(cuts) == 2 * regions * (3 if jitter else 1)
    # one evaluation keeps no more than the one before and itself
    cuts.clear()
    sample(patched, local.masks("sd15", model))
    assert len(cuts) == 2 * regions * (3 if jitter else 1)


@pytest.mark.parametrize("jitter", [False, True])
def test_hints_are_prepared_once_a_run(jitter, monkeypatch):
    model = local.build("sd15")
    encoded, adapted = local.encoded_control("sd15", model), local.adapter("sd15", model)
    vae, network = encoded[0][0][1]["control"].vae, adapted[0][0][1]["control"].t2i_model
    calls = []
    network.register_forward_hook(lambda *args: calls.append(None))
    sample(regional(model, jitter=jitter, regions_per_call=2), encoded)
    # the canvas, not the regions
    assert vae.calls == [(1, local.CANVAS[0] * 8, local.CANVAS[1] * 8, 3)]
    sample(regional(model, jitter=jitter, regions_per_call=2), adapted)
    assert len(calls) == 4 * (3 if jitter else 1)


def test_small_views_of_an_encoded_hint_are_encoded_once_a_run():
    model = local.build("sd15")
    conds = local.encoded_control("sd15", model)
    sample(with_parts(model, DilatedPass((12, 20))), conds)
    assert conds[0][0][1]["control"].vae.calls.count((4, 96, 160, 3)) == 1


WAITS = ("item", "tolist", "cpu", "numpy", "nonzero", "__float__", "__int__", "__bool__", "__index__")


def waits(model, conds, steps, monkeypatch):
    """How often ComfyUI reads a tensor's values in a run of `steps` steps."""
    count = []
    with monkeypatch.context() as patch:
        for name in WAITS:
            method = getattr(torch.Tensor, name)
            patch.setattr(torch.Tensor, name, lambda tensor, *args, method=method, **kwargs: count.append(method) or method(tensor, *args, **kwargs))
        sample(model, conds, sigmas=torch.linspace(3, 0, steps + 1))
    return len(count)


@pytest.mark.parametrize("jitter", [False, True])
def test_an_evaluation_waits_for_the_device_once(jitter, monkeypatch):
    """However many regions it has."""
    model = local.build("sd15")
    conds = local.masks("sd15", model)
    patched = regional(model, jitter=jitter, regions_per_call=2)
    own = [waits(patched, conds, steps, monkeypatch) - waits(model, conds, steps, monkeypatch) for steps in (2, 6)]
    assert own[1] - own[0] == 4


def test_progress_does_not_go_back(monkeypatch):
    sent = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, preview, node_id=None: sent.append(value / total))
    monkeypatch.setattr(comfy.utils, "PROGRESS_THROTTLE_MIN_INTERVAL", 0)
    tiny.sample(regional(local.build("sd15"), regions_per_call=2), local.latents("sd15", 1), sampler="heun", steps=3)
    assert sent == sorted(sent)
    assert sent[-1] == 1


@pytest.mark.parametrize("kind", ["combined prompts", "chained ControlNets", "several of these"])
def test_work_split_over_devices_is_the_same(kind):
    """ComfyUI's MultiGPU work units, on two names of the CPU."""
    pytest.importorskip("comfy.multigpu", reason="this ComfyUI has no MultiGPU")
    model = local.build("sd15")
    # before the clone, whose controls ComfyUI makes by deepcopy
    expected = sample(regional(model, regions_per_call=2), local.KINDS[kind]("sd15", model))

    other = torch.device("cpu", 1)
    clone = local.build("sd15")
    clone.load_device, clone.is_multigpu_base_clone, clone.clone_base_uuid = other, True, model.clone_base_uuid
    split = model.clone()
    split.set_additional_models("multigpu", [clone])
    devices = set()

    def watch(executor, x, t, c_concat, c_crossattn, control, transformer_options, **kwargs):
        devices.add(transformer_options["multigpu_thread_device"])
        return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)

    split.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "watch", watch)
    out = sample(regional(split, regions_per_call=2), local.KINDS[kind]("sd15", model))
    assert devices == {torch.device("cpu"), other}
    close(out, expected, 1e-5)


class Pointwise(torch.nn.Module):
    """Sees one cell."""

    dtype = torch.float32

    def forward(self, x, timesteps, **kwargs):
        return 0.3 * x.tanh()


def seam(image, layout):
    """Largest jump between neighboring cells at the borders of regions, over that elsewhere."""
    borders = {region.x for region in layout.regions} | {region.x + region.width for region in layout.regions}
    jumps = image.diff(dim=-1).abs()
    at = torch.tensor([column + 1 in borders for column in range(jumps.shape[-1])])
    return float(jumps[..., at].max() / jumps[..., ~at].max().clamp(min=1e-6))


@pytest.mark.parametrize("jitter", [False, True])
@pytest.mark.parametrize("blend", BLENDS)
def test_no_seams_on_a_constant_and_on_a_gradient(blend, jitter):
    model = local.build("sd15")
    model.model.diffusion_model = Pointwise()
    settings = RegionalDenoise((12, 16), 0.4, blend, jitter=jitter)
    layout = settings.layout_of(Canvas(*local.CANVAS))
    constant = torch.full((1, 4, *local.CANVAS), 0.7)
    gradient = torch.linspace(-1, 1, local.CANVAS[1]).expand(1, 4, *local.CANVAS).contiguous()
    for image in (constant, gradient):
        whole, fused = (tiny.evaluate(m, image, local.both(), 1.0)[0] for m in (model, with_parts(model, settings)))
        torch.testing.assert_close(fused, whole, rtol=1e-5, atol=1e-6)
        assert abs(seam(fused, layout) - seam(whole, layout)) < 1e-2 + (seam(fused, layout) if image is constant else 0)


SIZES = [(1, 1), (1, 9), (9, 1), (17, 23), (5, 64)]


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("jitter", [False, True])
def test_any_size_can_be_cut(height, width, jitter):
    model = local.build("sd15")
    x = tiny.noise((1, 4, height, width))
    mask = torch.rand(1, height, width)
    conds = tiny.conditioning(1, mask=mask) + tiny.conditioning(3), tiny.conditioning(2)
    out = tiny.evaluate(regional(model, 8, jitter=jitter), x, conds)
    whole = tiny.evaluate(regional(model, 64, jitter=jitter), x, conds)
    assert torch.equal(whole[0], tiny.evaluate(model, x, conds)[0])
    assert out[0].shape == x.shape
    assert out[0].isfinite().all()


@pytest.mark.parametrize("overlap", [-0.1, 1.0, 1.5])
def test_an_overlap_of_the_whole_region_is_refused_before_sampling(overlap):
    with pytest.raises(ValueError, match=f"overlap is {overlap}"):
        sample(regional(local.build("sd15"), overlap=overlap), local.both())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_broken_latent_is_named(value):
    latent = torch.zeros(1, 4, *local.CANVAS)
    latent[0, 1, 3, 30] = value
    with pytest.raises(ValueError, match="The latent to be sampled, or its noise, holds NaN"):
        sample(regional(local.build("sd15")), local.both(), latent=latent)


@pytest.mark.parametrize(("step", "sigma"), [(1, "3"), (2, "2"), (3, "1")])
def test_a_broken_prediction_is_named_with_its_step(step, sigma):
    model = regional(local.build("sd15"), regions_per_call=2)
    calls = []

    def broken(executor, x, t, *args, **kwargs):
        out = executor(x, t, *args, **kwargs)
        if float(t[0]) == float(sigma):
            calls.append(None)
            out[0, 0, 0, 0] = float("nan")
        return out

    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "broken", broken)
    with pytest.raises(ValueError, match=rf"prediction at step {step} of 3 \(sigma {sigma}\) holds NaN.*--fp32-unet"):
        sample(model, local.both())
    assert len(calls) == 4


def test_no_prompt_and_no_steps_are_comfyui_s_own():
    model = local.build("sd15")
    x = local.latents("sd15", 1)
    for conds in (([], []), (tiny.conditioning(1), [])):
        nothing = tiny.evaluate(regional(model), x, conds)[1]
        assert torch.equal(nothing, tiny.evaluate(model, x, conds)[1])
    latent = tiny.noise((1, 4, *local.CANVAS))
    assert torch.equal(sample(regional(model), local.both(), latent=latent, sigmas=torch.tensor([])), latent)


def test_camera_rays_are_cut_in_pixels():
    """Wan's camera conditioning has the size of the video, not of its latent."""
    rays = torch.rand(1, 6, 2, 8 * 8, 12 * 8)
    x = torch.zeros(1, 16, 2, 8, 12)
    views = [View(Axis(0, 1, 8), Axis(start, 1, 8)) for start in (0, 4)]
    conds = [[{"model_conds": {"camera_conditions": comfy.conds.CONDRegular(rays)}, "uuid": conditioning.uuid.UUID(int=1)}]]
    out = conditioning.conds_for(conds, views, x, local.build("wan").model, StepCache())[0][0]["model_conds"]["camera_conditions"].cond
    assert torch.equal(out, torch.cat([rays[..., :64], rays[..., 32:]]))


def test_vace_and_other_tensors_of_the_canvas_are_cut():
    vace, own = torch.rand(1, 2, 8, 3, 8, 12), torch.rand(1, 5, 8, 12)
    x = torch.zeros(1, 16, 3, 8, 12)
    views = [View(Axis(0, 1, 8), Axis(start, 1, 8)) for start in (0, 4)]
    conds = [[{"model_conds": {"vace_context": comfy.conds.CONDRegular(vace)}, "another_pack_s": own, "uuid": conditioning.uuid.UUID(int=1)}]]
    out = conditioning.conds_for(conds, views, x, None, StepCache())[0][0]
    assert torch.equal(out["model_conds"]["vace_context"].cond, torch.cat([vace[..., :8], vace[..., 4:]]))
    assert torch.equal(out["another_pack_s"], torch.cat([own[..., :8], own[..., 4:]]))


def test_families_that_cannot_be_cut_are_named():
    model = copy.copy(local.build("sd15").model)
    model.model_config = comfy.supported_models.Stable_Cascade_B.__new__(comfy.supported_models.Stable_Cascade_B)
    with pytest.raises(ValueError, match="model is Stable Cascade B, .*Sample it without Loupe's patches"):
        conditioning.check_conditioning(model, {}, Canvas(8, 8))


def test_keyframes_are_refused_before_sampling():
    with pytest.raises(ValueError, match="BaseModel is tied to the whole canvas.*keyframes placed by token"):
        sample(regional(local.build("sd15")), local.both(keyframe_idxs=torch.zeros(1, 3, 4)))


@pytest.mark.parametrize("kind", ["WanUni3CCnetPatch", "AnimaLLLitePatch", "SUPIRPatch"])
def test_patches_with_images_that_cannot_be_cut_are_refused_before_sampling(kind):
    model = regional(local.build("sd15"))
    patch = type(kind, (), {"__call__": lambda self, args: args, "bound": lambda self, args: args})()
    for patched in (patch, patch.bound):
        carrying = model.clone()
        carrying.set_model_patch(patched, "double_block")
        with pytest.raises(ValueError, match="whose image cannot be cut to regions"):
            sample(carrying, local.both())


@pytest.mark.parametrize(("steps", "settings", "says"), [(1, {}, True), (2, {}, False), (1, {"scale": 1}, False)])
def test_a_run_that_the_global_pass_draws_alone_is_told_of(steps, settings, says, caplog):
    model = patch_demofusion(regional(tiny.sdxl()), tiny.noise((1, 4, 8, 8)), **settings)
    tiny.sample(model, torch.zeros(1, 4, 16, 16), steps=steps)
    assert ("DemoFusion drew this image in its global pass alone" in caplog.text) == says

"""Every kind of conditioning, cut to regions: equal to stock ComfyUI on each crop with the conditioning
made for that crop."""

import logging
import uuid

import comfy.cldm.cldm
import comfy.conds
import comfy.controlnet
import comfy.ops
import pytest
import tiny
import torch
from comfy.patcher_extension import WrappersMP
from loupe.engine.cache import StepCache
from loupe.engine.conditioning import conds_for
from loupe.engine.evaluation import with_parts
from loupe.engine.sigmas import Step
from loupe.engine.views import Axis, Canvas, View
from loupe.methods.schedules import Levels
from loupe.patches.demofusion import DilatedPass
from loupe.patches.regional_denoise import RegionalDenoise

pytestmark = pytest.mark.numerics

X = tiny.noise((2, 4, 8, 12), 9) * 2
BOXES = ((0, 0), (0, 4))  # the regions of 8 x 8 in 8 x 12


def crop(tensor, x, ratio=1):
    return tensor[..., x * ratio : (x + 8) * ratio]


def fused(model, conds, **settings):
    return tiny.evaluate(with_parts(model, RegionalDenoise((8, 8), **settings)), X, conds)


def check_crops(model, make):
    """`make(cut)` builds the conditioning pair; cut(tensor, ratio) is the crop, or the whole."""
    out = fused(model, make(lambda tensor, ratio=1: tensor))
    left, right = (tiny.evaluate(model, crop(X, x), make(lambda tensor, ratio=1, x=x: crop(tensor, x, ratio))) for _, x in BOXES)
    for branch, a, b in zip(out, left, right):
        expected = torch.cat([a[..., :4], (a[..., 4:] + b[..., :4]) / 2, b[..., 4:]], -1)
        torch.testing.assert_close(branch, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("images", [1, 2])
def test_inpaint_latents(images):
    image, mask = tiny.noise((images, 4, 8, 12), 1), (tiny.noise((images, 1, 8, 12), 2) > 0).float()

    def make(cut):
        return tuple(tiny.conditioning(seed, concat_latent_image=cut(image), concat_mask=cut(mask)) for seed in (1, 2))

    check_crops(tiny.sdxl(in_channels=9), make)


@pytest.mark.parametrize("images", [1, 2])
def test_masks(images):
    masks = torch.rand(2, images, 8, 12)

    def make(cut):
        return tiny.conditioning(1, mask=cut(masks[0])) + tiny.conditioning(3, mask=cut(masks[1]), mask_strength=0.5), tiny.conditioning(2)

    check_crops(tiny.sdxl(), make)


def test_areas():
    """(height, width, y, x): one in both regions, one in the right region only."""

    def make(cut):
        start, width = {12: (0, 12), 8: (None, 8)}[cut(X).shape[-1]]
        start = next(x for _, x in BOXES if torch.equal(cut(X), crop(X, x))) if start is None else 0
        areas = []
        for seed, (h, w, y, x) in ((3, (5, 4, 1, 3)), (4, (8, 4, 0, 8))):
            left, right = max(x, start), min(x + w, start + width)
            if left < right:
                areas += tiny.conditioning(seed, area=(h, right - left, y, left - start))
        return tiny.conditioning(1) + areas, tiny.conditioning(2)

    check_crops(tiny.sdxl(), make)


@pytest.mark.parametrize("images", [1, 2])
def test_chained_controlnets(images, caplog):
    """One hint at full size, one at half size."""
    hints = torch.rand(images, 3, 64, 96), torch.rand(1, 3, 32, 48)
    nets = tiny.controlnet(hints[0], 1), tiny.controlnet(hints[1], 2)

    def make(cut):
        for net, hint, ratio in zip(nets, hints, (8, 4)):
            net.set_cond_hint(cut(hint, ratio), 0.8)
        nets[1].set_previous_controlnet(nets[0])
        return tiny.conditioning(1, control=nets[1]), tiny.conditioning(2, control=nets[1])

    with caplog.at_level(logging.WARNING):
        check_crops(tiny.sdxl(), make)
    assert "control" not in caplog.text


@pytest.mark.parametrize("build", [tiny.sdxl, tiny.sd15])
def test_control_loras(build):
    """The network is the model's own, with a few weights replaced, for the length of a run."""
    model, hint = build(), torch.rand(1, 3, 64, 96)
    config = model.model.model_config.unet_config
    net = comfy.cldm.cldm.ControlNet(**{key: value for key, value in config.items() if key != "out_channels"}, hint_channels=3, operations=comfy.ops.disable_weight_init)
    weights = {key: value for key, value in tiny.randomize(net, 5).state_dict().items() if key.startswith(("input_hint_block", "zero_convs", "middle_block_out"))}
    control = comfy.controlnet.ControlLora({**weights, "lora_controlnet": torch.tensor([])})

    def make(cut):
        control.set_cond_hint(cut(hint, 8), 0.8)
        return tiny.conditioning(1, control=control), tiny.conditioning(2, control=control)

    check_crops(model, make)
    with_control = fused(model, make(lambda tensor, ratio=1: tensor))
    assert not torch.allclose(with_control[0], fused(model, (tiny.conditioning(1), tiny.conditioning(2)))[0], rtol=1e-2)


def test_controls_move_the_image():
    model, hint = tiny.sdxl(), torch.rand(1, 3, 64, 96)
    control = tiny.controlnet(hint)
    with_control = fused(model, (tiny.conditioning(1, control=control), tiny.conditioning(2)))
    assert not torch.allclose(with_control[0], fused(model, (tiny.conditioning(1), tiny.conditioning(2)))[0], rtol=1e-2)
    assert control.cond_hint_original is hint


def told_sizes(model, *parts):
    """The six size ids of every row that reaches the network, call by call."""
    model.model.embedder = tiny.PlainNumbers()
    calls = []

    def watch(executor, *args, **kwargs):
        calls.append(kwargs["y"][:, -6 * 256 :].unflatten(1, (6, 256))[..., 0].int().tolist())
        return executor(*args, **kwargs)

    model = with_parts(model, *parts)
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "watch", watch)
    tiny.evaluate(model, X, (tiny.conditioning(1), tiny.conditioning(2, width=640, height=512)))
    return calls


def test_sdxl_is_told_the_region_or_the_canvas():
    def rows(*ids):
        return [list(row) for row in ids for _ in range(2)] * 2  # two images, two branches

    regions = (8, 8)
    assert told_sizes(tiny.sdxl(), RegionalDenoise(regions)) == [rows((64, 64, 0, 0, 64, 64), (64, 64, 0, 0, 64, 64))]
    assert told_sizes(tiny.sdxl(), RegionalDenoise(regions, sizes="canvas")) == [rows((64, 96, 0, 0, 64, 96), (64, 96, 0, 32, 64, 96))]
    assert told_sizes(tiny.sdxl(), RegionalDenoise(regions, sizes="canvas", canvas_pixels=(128, 192))) == [rows((128, 192, 0, 0, 128, 192), (128, 192, 0, 32, 128, 192))]
    stock = told_sizes(tiny.sdxl())[0]
    unchanged = told_sizes(tiny.sdxl(), RegionalDenoise(regions, sizes="unchanged"))[0]
    assert {tuple(row) for row in unchanged} == {tuple(row) for row in stock} == {(64, 96, 0, 0, 64, 96), (512, 640, 0, 0, 512, 640)}


def test_crops_are_counted_from_the_jittered_border():
    settings = RegionalDenoise((8, 8), jitter=True, sizes="canvas")
    layout = settings.layout_of(Canvas(8, 12))
    drawn = settings.draw(layout, 1, Step.of(Levels(), [2.0, 0.0], 0))
    told = told_sizes(tiny.sdxl(), settings)[0]
    assert [row[2:4] for row in told[:4:2]] == [[8 * region.y, 8 * region.x] for region in drawn]
    assert drawn[0].y == 1


def test_dilated_views_are_told_the_canvas():
    calls = told_sizes(tiny.sdxl(), RegionalDenoise((8, 8)), DilatedPass((4, 4), 2))
    assert {tuple(row) for row in calls[1]} == {(64, 96, 0, 0, 64, 96)}


def dilated_views(scale, height, width):
    rows, columns = -(-height // scale), -(-width // scale)
    return [View(Axis(a - -height % scale, scale, rows), Axis(b - -width % scale, scale, columns)) for a in range(scale) for b in range(scale)]


def test_dilated_masks_follow_the_dilated_cells():
    mask = torch.arange(5 * 7.0).reshape(1, 5, 7)
    views = dilated_views(2, 5, 7)
    out = conds_for([[{"mask": mask, "model_conds": {}, "uuid": UUID}]], views, torch.zeros(1, 4, 5, 7), None, StepCache())[0][0]["mask"]
    # odd rows and columns of the canvas, whose padding repeats the border
    assert torch.equal(out[3], mask[0, ::2, ::2])
    assert torch.equal(out[0, 1:, 1:], mask[0, 1::2, 1::2])
    assert torch.equal(out[0, 0, 1:], mask[0, 0, 1::2])


def test_dilated_areas_hold_the_cells_they_held():
    for scale in (2, 3):
        for view in dilated_views(scale, 8, 9):
            inside = torch.zeros(8, 9)
            inside[2:7, 1:5] = 1
            area = view.area((5, 4, 2, 1))
            out = torch.zeros(view.y.count, view.x.count)
            out[area[2] : area[2] + area[0], area[3] : area[3] + area[1]] = 1
            assert torch.equal(out, view.latent(inside))


def test_dilated_hints_are_the_whole_image_made_small():
    image = torch.rand(1, 3, 5 * 8, 7 * 8)
    for view in dilated_views(2, 5, 7):
        small = view.pixels(image, 8)
        assert small.shape == (1, 3, 24, 32)
        torch.testing.assert_close(small[..., 4:, 4:], torch.nn.functional.avg_pool2d(image, 2)[..., :, :])


def test_controlnets_run_on_dilated_views():
    model, control = tiny.sdxl(), tiny.controlnet(torch.rand(1, 3, 64, 96))
    patched = with_parts(model, DilatedPass((4, 6)))
    with_control = tiny.evaluate(patched, X, (tiny.conditioning(1, control=control), tiny.conditioning(2, control=control)))
    assert with_control[0].isfinite().all()
    assert not torch.allclose(with_control[0], tiny.evaluate(patched, X, (tiny.conditioning(1), tiny.conditioning(2)))[0], rtol=1e-2)


UUID = uuid.UUID(int=7)
LEFT, RIGHT = (View(Axis(0, 1, 8), Axis(x, 1, 8)) for x in (0, 4))


def stacked(views=(LEFT, RIGHT), batch=1, **cond):
    return conds_for([[{"model_conds": {}, "uuid": UUID, **cond}], None, []], list(views), torch.zeros(batch, 4, 8, 12), None, StepCache())


def test_videos_are_cut_in_space():
    video = tiny.noise((1, 16, 3, 8, 12))
    out = stacked(model_conds={"c_concat": comfy.conds.CONDNoiseShape(video)})[0][0]["model_conds"]["c_concat"].cond
    assert torch.equal(out, torch.cat([video[..., :8], video[..., 4:]]))


def test_reference_latents_are_cut_only_where_they_cover_the_canvas():
    refs = [tiny.noise((1, 4, 8, 12)), tiny.noise((1, 4, 16, 16))]
    out = stacked(model_conds={"ref_latents": comfy.conds.CONDList(refs)})[0][0]["model_conds"]["ref_latents"].cond
    assert torch.equal(out[0], torch.cat([refs[0][..., :8], refs[0][..., 4:]]))
    assert out[1] is refs[1]


def test_rows_are_view_major():
    mask = torch.rand(2, 8, 12)
    out = stacked(batch=2, mask=mask)[0][0]["mask"]
    assert torch.equal(out, torch.cat([mask[..., :8], mask[..., 4:]]))
    assert len(stacked(batch=3, mask=mask[:1])[0][0]["mask"]) == 6


def test_empty_branches_stay_empty_and_nothing_is_changed():
    mask = torch.rand(1, 8, 12)
    cond = {"model_conds": {}, "uuid": UUID, "mask": mask}
    out = conds_for([[cond], None, []], [LEFT], torch.zeros(1, 4, 8, 12), None, StepCache())
    assert out[1:] == [None, []]
    assert cond["mask"] is mask


def test_gligen_boxes_move_with_the_region_and_share_calls_by_box():
    box = (torch.ones(1, 4), 3, 5, 2, 6)
    gligen = ("position", None, [box])
    (left,), (right,) = (stacked([view], gligen=gligen)[0] for view in (LEFT, RIGHT))
    assert [b[1:] for b in left["gligen"][2]] == [(3, 2, 2, 6)]
    assert [b[1:] for b in right["gligen"][2]] == [(3, 5, 2, 2)]


def test_ids_tell_region_batches_apart_and_stay_between_steps():
    ids = [stacked(views)[0][0]["uuid"] for views in ([LEFT], [RIGHT], [LEFT])]
    assert ids[0] == ids[2] != ids[1]
    assert UUID not in ids

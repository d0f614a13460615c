import local
import pytest
import tiny
import torch
from loupe.engine.conditioning import REGION, REGION_CANVAS
from loupe.engine.evaluation import with_parts
from loupe.engine.preview import draw
from loupe.methods.regions import Region, RegionLayout
from loupe.nodes.estimate import PlanNode
from loupe.nodes.region_layout import RegionLayoutNode
from loupe.patches.regional_denoise import RegionalDenoise

import nodes


def run(samples, width=1024, height=1024, overlap=0.5, blend="uniform"):
    return RegionLayoutNode.execute({"samples": samples}, width, height, overlap, blend).args


@pytest.mark.parametrize("shape", [(1, 4, 96, 160), (2, 16, 5, 96, 160)])
def test_layout_of_a_latent(shape):
    layout, preview = run(torch.zeros(shape), 512, 256, 0.25, "gaussian")
    assert layout == RegionLayout(96, 160, 32, 64, 24, 48, "gaussian", 8)
    assert preview.shape[0] == 1 and preview.shape[3] == 3 and preview.shape[1] / preview.shape[2] == 96 / 160


def test_region_larger_than_the_latent():
    assert run(torch.zeros(1, 4, 16, 20))[0].regions == [Region(0, 0, 16, 20)]


def test_preview_is_brighter_where_regions_overlap():
    image = draw(RegionLayout(30, 60, 30, 40, 30, 20))[0]
    zoom = image.shape[0] // 30
    row = image[15 * zoom]
    assert image.min() >= 0 and image.max() <= 1
    assert torch.equal(row[10 * zoom], row[50 * zoom]) and row[30 * zoom].mean() > row[10 * zoom].mean()
    assert row[0].tolist() == pytest.approx([1.0, 0.6, 0.1]) and row[20 * zoom].tolist() == pytest.approx([0.3, 0.6, 1.0])


def test_schema():
    schema = RegionLayoutNode.GET_SCHEMA()
    assert all(socket.tooltip for socket in [*schema.inputs, *schema.outputs])


@pytest.mark.parametrize("region", [64, 32])
def test_an_empty_latent_of_other_cells_than_the_model_s(region):
    """Empty Latent Image has 8 pixels a cell; ComfyUI makes it anew for a model of 16, and so are the regions."""
    model = local.build("flux")
    model.model.latent_format.spacial_downscale_ratio = 16
    (empty,) = nodes.EmptyLatentImage().generate(1024, 512, 1)
    layout = RegionLayoutNode.execute(empty, 8 * region, 8 * region, 0.5, "uniform").args[0]
    out = nodes.common_ksampler(regional(model, layout), 1, 1, 1.0, "euler", "simple", tiny.conditioning(1), tiny.conditioning(2), empty)[0]["samples"]
    assert out.shape[-2:] == (32, 64)
    own = RegionLayout.from_overlap(32, 64, region // 2, region // 2)
    expected = nodes.common_ksampler(regional(model, own), 1, 1, 1.0, "euler", "simple", tiny.conditioning(1), tiny.conditioning(2), empty)[0]["samples"]
    assert torch.equal(out, expected)
    text = PlanNode.execute(regional(model, layout), empty, 10, 1.0, 1, False).args[0]
    assert f"{len(own.regions)} of {8 * region} x {8 * region} pixels" in text


def test_regions_that_fall_between_the_model_s_cells_are_refused():
    model = local.build("flux")
    model.model.latent_format.spacial_downscale_ratio = 16
    (empty,) = nodes.EmptyLatentImage().generate(1024, 512, 1)
    layout = RegionLayoutNode.execute(empty, 504, 504, 0.5, "uniform").args[0]
    with pytest.raises(ValueError, match="regions is a layout of 63 x 63 cells.*Connect the model to Region Layout.*multiples of that"):
        nodes.common_ksampler(regional(model, layout), 1, 1, 1.0, "euler", "simple", tiny.conditioning(1), tiny.conditioning(2), empty)


def test_prompts_of_regions_follow_the_layout_to_other_cells():
    """Prompts are encoded for the cells of the layout; the model's may be larger."""
    model = local.build("flux")
    model.model.latent_format.spacial_downscale_ratio = 16
    (empty,) = nodes.EmptyLatentImage().generate(1024, 512, 1)
    own = RegionLayout.from_overlap(32, 64, 32, 32, 0.0)
    layout = RegionLayoutNode.execute(empty, 512, 512, 0.0, "uniform").args[0]

    def run(regions):
        positive = tiny.conditioning(1)
        for seed, region in enumerate(regions.regions, 5):
            mask = torch.zeros(1, regions.height, regions.width)
            region.crop(mask).fill_(1)
            positive += [[tiny.conditioning(seed)[0][0], {**positive[0][1], REGION: region, REGION_CANVAS: (regions.height, regions.width), "mask": mask}]]
        return nodes.common_ksampler(regional(model, regions), 1, 1, 1.0, "euler", "simple", positive, tiny.conditioning(2), empty)[0]["samples"]

    assert tiny.relative(run(layout), run(own)) < 1e-5


def regional(model, layout):
    return with_parts(model, RegionalDenoise(layout=layout))

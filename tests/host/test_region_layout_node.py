import pytest
import torch
from loupe.methods.regions import Region, RegionLayout
from loupe.nodes.region_layout import RegionLayoutNode, draw


def run(samples, width=128, height=128, overlap=0.5, blend="uniform"):
    return RegionLayoutNode.execute({"samples": samples}, width, height, overlap, blend).args


@pytest.mark.parametrize("shape", [(1, 4, 96, 160), (2, 16, 5, 96, 160)])
def test_layout_of_a_latent(shape):
    layout, preview = run(torch.zeros(shape), 64, 32, 0.25, "gaussian")
    assert layout == RegionLayout(96, 160, 32, 64, 24, 48, "gaussian")
    assert preview.shape[0] == 1 and preview.shape[3] == 3 and preview.shape[1] / preview.shape[2] == 96 / 160


def test_region_larger_than_the_latent():
    assert run(torch.zeros(1, 4, 16, 20))[0].regions == [Region(0, 0, 16, 20)]


def test_preview_is_brighter_where_regions_overlap():
    picture = draw(RegionLayout(30, 60, 30, 40, 30, 20))[0]
    zoom = picture.shape[0] // 30
    row = picture[15 * zoom]
    assert picture.min() >= 0 and picture.max() <= 1
    assert torch.equal(row[10 * zoom], row[50 * zoom]) and row[30 * zoom].mean() > row[10 * zoom].mean()
    assert row[0].tolist() == pytest.approx([1.0, 0.6, 0.1]) and row[20 * zoom].tolist() == pytest.approx([0.3, 0.6, 1.0])


def test_schema():
    schema = RegionLayoutNode.GET_SCHEMA()
    assert all(socket.tooltip for socket in [*schema.inputs, *schema.outputs])

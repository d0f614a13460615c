import random

import pytest
import torch
from loupe.methods.regions import (
    BLENDS,
    Region,
    RegionLayout,
    axis_starts,
    coverage,
    crop_images,
    jitter_range,
    jittered,
    merge,
    shifted,
    shifted_count,
)


def corners(regions):
    return [[r.y, r.y + r.height, r.x, r.x + r.width] for r in regions]


def layout_of(case):
    window, stride = case["window"], case["stride"]
    return RegionLayout(case["H"], case["W"], window, window, stride, stride)


def test_views_of_the_reference(golden):
    _, description = golden("df_views_cosine")
    for case in description["views"]:
        layout = layout_of(case)
        # the papers' view runs past a canvas below its size; here it ends with the canvas
        expected = [[y0, min(y1, case["H"]), x0, min(x1, case["W"])] for y0, y1, x0, x1 in case["no_jitter"]]
        assert corners(layout.regions) == expected
        assert jitter_range(case["window"], case["stride"]) == case["jitter_range"]
        if "jitter_seed" not in case:
            continue
        moved = jittered(layout, case["jitter_range"], random.Random(case["jitter_seed"]))
        assert corners(moved) == case["jitter_python_random"]


def test_draws_of_the_reference(golden):
    class Recorder(random.Random):
        def randint(self, a, b):
            value = super().randint(a, b)
            self.calls.append([a, b, value])
            return value

    _, description = golden("df_views_cosine")
    for case in description["views"]:
        if "jitter_seed" not in case:
            continue
        rng = Recorder(case["jitter_seed"])
        rng.calls = []
        jittered(layout_of(case), case["jitter_range"], rng)
        assert rng.calls == case["randint_calls_lo_hi_value"]


@pytest.mark.parametrize("length,region,stride", [(5, 8, 4), (8, 8, 4), (9, 8, 4), (255, 128, 64), (100, 7, 7), (101, 7, 3)])
def test_starts_cover_the_axis(length, region, stride):
    starts = axis_starts(length, region, stride)
    region = min(region, length)
    assert starts[0] == 0 and starts[-1] + region == length
    assert all(0 < b - a <= stride for a, b in zip(starts, starts[1:]))


@pytest.mark.parametrize("height,width", [(64, 64), (47, 70), (20, 64), (33, 32)])
@pytest.mark.parametrize("overlap", [0.5, 0.25, 0.75])
def test_jitter_always_covers_the_canvas(height, width, overlap):
    layout = RegionLayout.from_overlap(height, width, 32, 32, overlap)
    jitter = (32 - layout.stride_width) // 2
    rng = random.Random(0)
    for _ in range(50):
        count = torch.zeros(height + 2 * jitter, width + 2 * jitter)
        for region in jittered(layout, jitter, rng):
            assert 0 <= region.y <= count.shape[0] - region.height and 0 <= region.x <= count.shape[1] - region.width
            region.crop(count).add_(1)
        assert Region(jitter, jitter, height, width).crop(count).min() >= 1


def test_jitter_beyond_half_the_overlap_is_refused():
    layout = RegionLayout.from_overlap(64, 64, 32, 32, 0.5)
    with pytest.raises(ValueError, match="jitter is 9 .* at most 8"):
        jittered(layout, 9, random.Random(0))
    # an axis that one region spans does not move
    assert jittered(RegionLayout(32, 32, 32, 32, 32, 32), 9, random.Random(0)) == [Region(9, 9, 32, 32)]


@pytest.mark.numerics
@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("size", [(64, 64), (47, 90), (20, 32)])
def test_merge_returns_what_was_cropped(blend, size):
    layout = RegionLayout.from_overlap(*size, 32, 24, 0.5, blend)
    weights = layout.weights()
    assert weights.shape == (layout.region_height, layout.region_width) and weights.min() > 0
    x = torch.randn(2, 4, 3, *size)
    back = merge([region.crop(x) for region in layout.regions], layout.regions, *size, weights)
    torch.testing.assert_close(back, x)


def test_merge_weighs_the_overlap():
    layout = RegionLayout(1, 12, 1, 8, 1, 4, "linear")
    parts = [torch.zeros(1, 8), torch.ones(1, 8)]
    merged = merge(parts, layout.regions, 1, 12, layout.weights())
    assert merged[0].tolist() == pytest.approx([0, 0, 0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1, 1, 1])


def test_linear_blend_sums_to_a_constant_inside():
    layout = RegionLayout(1, 100, 1, 20, 1, 10, "linear")
    total = torch.zeros(1, 100)
    for region in layout.regions:
        region.crop(total).add_(layout.weights())
    torch.testing.assert_close(total[:, 10:-10], torch.ones(1, 80))


def test_region_is_clamped_to_the_canvas():
    layout = RegionLayout.from_overlap(40, 300, 128, 128, 0.5)
    assert (layout.region_height, layout.region_width, layout.stride_height, layout.stride_width) == (40, 128, 20, 64)
    assert RegionLayout.from_overlap(40, 50, 128, 128).regions == [Region(0, 0, 40, 50)]


@pytest.mark.parametrize("region,overlap,stride", [(100, 0.9, 10), (128, 0.5, 64), (10, 0.95, 1), (128, 0, 128)])
def test_stride_from_overlap(region, overlap, stride):
    assert RegionLayout.from_overlap(500, 500, region, region, overlap).stride_width == stride


@pytest.mark.parametrize(
    "args,message",
    [
        ((64, 64, 32, 32, 33, 16), "stride_height is 33"),
        ((64, 64, 32, 32, 16, 0), "stride_width is 0"),
        ((0, 64, 32, 32, 16, 16), "canvas height is 0"),
        ((64, 64, 32, 32, 16, 16, "cubic"), "blend is 'cubic'"),
    ],
)
def test_bad_layouts_are_refused(args, message):
    with pytest.raises(ValueError, match=message):
        RegionLayout(*args)


@pytest.mark.parametrize("height, width", [(10, 15), (80, 120), (33, 50)])
def test_images_of_any_resolution_are_cropped(height, width):
    layout = RegionLayout.from_overlap(10, 15, 4, 6)
    ramp = torch.stack(torch.meshgrid(torch.arange(height) / height, torch.arange(width) / width, indexing="ij"), -1)
    crops = crop_images(ramp[None], layout)
    assert len(crops) == len(layout.regions) and len({crop.shape for crop in crops}) == 1
    for crop, region in zip(crops, layout.regions):
        start = torch.tensor([region.y / 10, region.x / 15])
        end = torch.tensor([(region.y + 4) / 10, (region.x + 6) / 15])
        assert (crop[0, 0, 0] - start).abs().max() < 1 / height
        assert (crop[0, -1, -1] - end).abs().max() < 2 / height
    assert (crops[0][0, 0, 0] == 0).all() and torch.equal(crops[-1][0, -1, -1], ramp[-1, -1])


def test_overlap_counts_common_cells():
    region = Region(2, 3, 4, 5)
    assert region.overlap(region) == 20
    assert region.overlap(Region(4, 0, 10, 4)) == Region(4, 0, 10, 4).overlap(region) == 2
    assert region.overlap(Region(6, 3, 4, 5)) == 0


@pytest.mark.parametrize("multiple", [1, 2, 32])
def test_a_layout_is_rounded_to_a_multiple(multiple):
    layout = RegionLayout(200, 64, 77, 64, 51, 33, "linear", 8).rounded(multiple)
    assert (layout.region_height, layout.region_width) == (77 // multiple * multiple, 64)
    assert (layout.stride_height, layout.stride_width) == (51 // multiple * multiple, 33 // multiple * multiple)
    assert (layout.height, layout.width, layout.blend, layout.pixels_per_cell, layout.patch) == (200, 64, "linear", 8, multiple)


def test_a_layout_smaller_than_a_multiple_is_one():
    layout = RegionLayout(40, 20, 12, 20, 3, 20).rounded(32)
    assert (layout.region_height, layout.region_width, layout.stride_height, layout.stride_width) == (32, 20, 32, 20)


@pytest.mark.parametrize("length", [16, 17, 20, 24, 31, 32, 40, 64, 65])
@pytest.mark.parametrize(("region", "stride"), [(16, 16), (16, 12), (16, 8), (8, 8)])
@pytest.mark.parametrize("multiple", [1, 2])
def test_a_shifted_grid_covers_the_canvas_with_the_same_number_of_regions(length, region, stride, multiple):
    layout = RegionLayout(length, 48, region, region, stride, stride)
    rng, places = random.Random(1), set()
    for _ in range(40):
        regions = shifted(layout, rng, multiple)
        assert len(regions) == shifted_count(layout)
        assert (coverage(regions, length, 48, layout.weights()) > 0).all()
        assert all(0 <= r.y <= length - region and 0 <= r.x <= 48 - region for r in regions)
        assert {(r.height, r.width) for r in regions} == {(region, region)}
        places |= {r.y for r in regions}
    # borders move by at least half a stride, unless the canvas ends before
    assert length < 2 * region or len(places) > stride // (2 * multiple)


def test_a_shifted_grid_costs_no_more_than_one_region_an_axis():
    assert shifted_count(RegionLayout(64, 64, 16, 16, 16, 16)) == 25
    assert shifted_count(RegionLayout(40, 64, 16, 16, 16, 16)) == 3 * 5
    assert shifted_count(RegionLayout(16, 64, 16, 16, 16, 16)) == 5
    assert shifted_count(RegionLayout(512, 512, 128, 128, 128, 128)) == 25


def test_a_shifted_grid_stays_where_one_region_spans_an_axis():
    layout = RegionLayout(16, 64, 16, 16, 16, 16)
    assert {region.y for region in shifted(layout, random.Random(0))} == {0}

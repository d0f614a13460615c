import math

import numpy as np
import pytest
import torch
from loupe.methods.pixelsmith import (
    AVERAGED,
    KEPT,
    TAKEN,
    checkerboard,
    denoise,
    noised,
    phase_mix,
    shares,
)
from loupe.methods.pixelsmith_plan import (
    RING,
    Patch,
    Sweep,
    guided_by_level,
    plan,
    random_regions,
    waves,
)
from loupe.methods.regions import Region
from loupe.methods.schedules import Levels, ddim_sigmas, ddim_timesteps
from tolerance import close

REFERENCE = ["ps_p32_64x80_slider20", "ps_p128_136x152_slider8", "ps_p32_lsrna_72x48", "ps_p32_cond"]


def recorded_sweeps(tensors, info):
    """The reference's patches, one sweep a step, to be run one by one."""
    half = info["patch"] // 2
    sweeps = [[] for _ in info["timesteps"]]
    for sweep, row, column, left, down in tensors["patches"].tolist():
        sweeps[sweep].append(Patch(Region(row - half, column - half, 2 * half, 2 * half), (left + down) % 2))
    return [one_by_one(patches) for patches in sweeps]


def one_by_one(patches):
    return Sweep(patches, [[i] for i in range(len(patches))])


def planned(sweeps, height, width, guided_steps):
    return [Sweep(sweep.patches, waves(sweep.patches, height, width, 0 < i < guided_steps)) for i, sweep in enumerate(sweeps)]


def assert_parity(actual, expected, tolerance):
    assert (actual - expected).abs().max() < tolerance["max_abs_fp32"]
    assert (actual - expected).norm() / expected.norm() < tolerance["rel_l2_fp32"]


@pytest.mark.numerics
@pytest.mark.parametrize("name", REFERENCE)
@pytest.mark.parametrize("execution", ["one by one", "planned"])
def test_end_to_end(golden, sdxl_sigmas, toy_eps, name, execution):
    tensors, info = golden(name)
    config, eps = info["config"], toy_eps(tensors)
    height, width = config["H"], config["W"]
    sweeps = recorded_sweeps(tensors, info)
    if execution == "planned":
        sweeps = planned(sweeps, height, width, config["slider"])
    depth = len(info["timesteps"])
    timesteps = ddim_timesteps(config["steps"], depth)
    assert timesteps == info["timesteps"]
    sigmas = ddim_sigmas(sdxl_sigmas, config["steps"], depth, end_at_zero=True).tolist()
    calls, trace = [], {}

    def predict(images, regions, step):
        out = []
        for image, region in zip(images, regions):
            x_in = image / Levels().deviation(sigmas[step])
            calls.append(x_in)
            out.append(image - sigmas[step] * guided(x_in, timesteps[step], region))
        return out

    def guided(x_in, t, region):
        if "cond" not in info:
            return eps(x_in, t)
        # the reference tells the network the column, less a constant 64, as row and as column
        corner = 8 * (region.x + info["patch"] // 2 - 64)
        m = corner / 1024 * 0.02 + corner / 1024 * 0.05 + 8 * (height + width) / 4096 * 0.01
        channels = torch.tensor([1, -1, 0.5, 0.25])[:, None, None]
        cond, uncond = (eps(x_in, t) + (e + m) * channels for e in (0.1, -0.05))
        return uncond + config["gs"] * (cond - uncond)

    def callback(step, x, denoised):
        trace[f"before_sweep{step + 1}"] = x / Levels().deviation(sigmas[step + 1])

    x = denoise(predict, tensors["guidance"], tensors["noise"].float(), sigmas, sweeps, config["slider"], callback=callback)
    assert len(calls) == info["unet_patches_total"]
    if execution == "one by one" and "unet_in_call40" in tensors:
        assert_parity(calls[40], tensors["unet_in_call40"], info["tolerance"])
    for key in tensors:
        if key.startswith("before_sweep"):
            assert_parity(trace[key], tensors[key], info["tolerance"])
    assert_parity(x, tensors["final"], info["tolerance"])


def predictor(seed=0, channels=4):
    """Denoised predictions of one image at a time that depend on the whole image, its place and the step."""
    weight = torch.randn(channels, channels, 3, 3, generator=torch.Generator().manual_seed(seed)) / 6

    def predict(images, regions, step):
        return [torch.conv2d(p, weight, padding=1).tanh() + 0.1 * p.mean() + region.y / 100 + step / 50 for p, region in zip(images, regions)]

    return predict


@pytest.mark.parametrize("seed", range(24))
def test_planned_equals_one_by_one(sdxl_sigmas, seed):
    rng = np.random.default_rng(seed)
    size = 2 * int(rng.integers(6, 25))
    height, width = (int(rng.integers(size, 5 * size)) for _ in range(2))
    steps = 5
    guided_steps = int(rng.integers(1, steps + 1))
    sweeps = plan(height, width, size, steps, guided_steps, seed, "cover" if seed % 6 == 5 else "random")
    guidance, noise = torch.randn(2, 1, 4, height, width, generator=torch.Generator().manual_seed(seed))
    sigmas = ddim_sigmas(sdxl_sigmas, steps, end_at_zero=True).tolist()

    together = denoise(predictor(), guidance, noise, sigmas, sweeps, guided_steps)
    alone = denoise(predictor(), guidance, noise, sigmas, [one_by_one(sweep.patches) for sweep in sweeps], guided_steps)
    # the images shown to the network are the same to the last bit
    assert torch.equal(together, alone)


@pytest.mark.numerics
def test_a_pair_of_images_is_two_single_ones(sdxl_sigmas):
    guidance, noise = torch.randn(2, 2, 4, 40, 48)
    sigmas = ddim_sigmas(sdxl_sigmas, 4, end_at_zero=True).tolist()
    sweeps = plan(40, 48, 16, 4, 3, 0)

    def predict(images, regions, step):
        return [(image + region.x / 50).tanh() for image, region in zip(images, regions)]

    pair = denoise(predict, guidance, noise, sigmas, sweeps, 3)
    for i in range(2):
        close(denoise(predict, guidance[i : i + 1], noise[i : i + 1], sigmas, sweeps, 3), pair[i : i + 1], 5e-5)


@pytest.mark.numerics
def test_frames_of_a_video_are_denoised_alike(sdxl_sigmas):
    guidance, noise = torch.randn(2, 1, 4, 3, 30, 40)
    sigmas = ddim_sigmas(sdxl_sigmas, 4, end_at_zero=True).tolist()
    sweeps = plan(30, 40, 16, 4, 3, 0)

    def predict(images, regions, step):
        return [(image + region.y / 50).tanh() for image, region in zip(images, regions)]

    video = denoise(predict, guidance, noise, sigmas, sweeps, 3)
    for frame in range(3):
        alone = denoise(predict, guidance[:, :, frame], noise[:, :, frame], sigmas, sweeps, 3)
        close(video[:, :, frame], alone, 5e-5)


@pytest.mark.numerics
def test_flow_is_the_same_method(sdxl_sigmas):
    """A flow state is (1 - s) times the k-diffusion state at sigma = s / (1 - s)."""
    guidance, noise = torch.randn(2, 1, 4, 40, 56)
    sigmas = ddim_sigmas(sdxl_sigmas, 8, end_at_zero=True).tolist()
    flow_sigmas = [sigma / (1 + sigma) for sigma in sigmas]
    sweeps = plan(40, 56, 24, 8, 6, 3)
    predict = predictor()

    def from_unit_variance(flow, levels):
        # one network for both, fed with unit-variance images
        def shown(images, regions, step):
            return predict([image / Levels(flow).deviation(levels[step]) for image in images], regions, step)

        return shown

    expected = denoise(from_unit_variance(False, sigmas), guidance, noise, sigmas, sweeps, 6)
    actual = denoise(from_unit_variance(True, flow_sigmas), guidance, noise, flow_sigmas, sweeps, 6, Levels(flow=True))
    assert (actual - expected).norm() / expected.norm() < 1e-4
    assert torch.equal(noised(guidance, noise, 1.0, Levels(flow=True)), noise)
    assert Levels(flow=True).deviation(1.0) == 1 and Levels(flow=True).deviation(0.5) == math.hypot(0.5, 0.5)


TWICE, FOUR_TIMES = 601 / 999, 401 / 999  # where the authors' 20 and 30 of 50 let go


@pytest.mark.parametrize("shift, steps, twice, four_times", [
    (3.0, 50, 29, 36), (3.0, 20, 12, 15), (3.0, 8, 5, 6), (3.0, 4, 3, 3), (7.5, 50, 39, 44), (7.5, 8, 7, 7), (7.5, 4, 3, 3),
])
def test_guided_until_is_a_level_of_a_flow_model(shift, steps, twice, four_times):
    shares = [1 - i / steps for i in range(steps)]
    timesteps = [Levels(flow=True).timestep(shift * share / (1 + (shift - 1) * share)) for share in shares]
    assert [guided_by_level(timesteps, until) for until in (TWICE, FOUR_TIMES)] == [twice, four_times]


def test_guided_until_counts_the_papers_steps_and_leaves_one_free():
    for until, steps, depth, guided in ((0.6, 50, 50, 20), (0.4, 50, 50, 30), (0.4, 50, 30, 10), (0.6, 50, 30, 1), (0.0, 50, 50, 49), (1.0, 50, 50, 1), (0.0, 1, 1, 1)):
        assert guided_by_level(ddim_timesteps(steps, depth), until) == guided
    for steps, guided in ((8, [4, 5]), (4, [2, 3])):
        trailing = [round(1000 - 1000 * i / steps) - 1 for i in range(steps)]
        assert [guided_by_level(trailing, until) for until in (TWICE, FOUR_TIMES)] == guided


def test_guided_steps_count_the_steps_that_take_from_the_guidance(sdxl_sigmas):
    guidance, noise = torch.randn(2, 1, 4, 32, 48)
    sigmas = ddim_sigmas(sdxl_sigmas, 6, end_at_zero=True).tolist()
    trace = {}
    for guided_steps in (1, 2, 4, 6):
        sweeps = plan(32, 48, 16, 6, 6, 0)
        trace[guided_steps] = []
        denoise(predictor(), guidance, noise, sigmas, sweeps, guided_steps, callback=lambda i, x, denoised: trace[guided_steps].append(x.clone()))
    # a step's guidance is laid over what the step before it left
    assert not torch.equal(trace[1][0], trace[2][0]) and torch.equal(trace[2][0], trace[4][0])
    assert torch.equal(trace[4][2], trace[6][2]) and not torch.equal(trace[4][3], trace[6][3])


@pytest.mark.numerics
def test_phase_mix_keeps_magnitudes_and_halves_the_angle():
    x, guidance = torch.randn(2, 1, 4, 24, 30)
    torch.testing.assert_close(phase_mix(x, 3 * x), x, rtol=1e-4, atol=1e-5)
    own, other, mixed = (torch.fft.rfft2(a, norm="ortho")[..., 1:12, 1:14] for a in (x, guidance, phase_mix(x, guidance)))
    torch.testing.assert_close(mixed.abs(), own.abs(), rtol=1e-3, atol=1e-4)
    # equal angles to both sides, on the nearer side
    left, right = (mixed * own.conj()).angle(), (other * mixed.conj()).angle()
    clear = (own * other.conj()).angle().abs() < 3
    torch.testing.assert_close(left[clear], right[clear], rtol=1e-2, atol=1e-2)
    assert left[clear].abs().max() < math.pi / 2 + 1e-2


def test_checkerboard_and_shares():
    for shift in (0, 1):
        board = checkerboard(6, shift)
        assert all(board[r, c] == ((r + c + shift) % 2 == 0) for r in range(6) for c in range(6))
    todo = np.zeros((40, 40), dtype=np.uint8)
    todo[:3, 5] = 1
    found = shares(todo)
    for r in range(40):
        for c in range(40):
            near = max(max(r - 2, 0), abs(c - 5)) <= RING
            assert found[r, c] == (TAKEN if todo[r, c] else AVERAGED if near else KEPT)


@pytest.mark.parametrize("order", ["random", "cover"])
@pytest.mark.parametrize("height,width,size", [(32, 32, 32), (33, 70, 32), (64, 80, 16), (100, 24, 24)])
def test_plan_covers_the_canvas_and_every_patch_adds_to_it(height, width, size, order):
    for sweep in plan(height, width, size, 6, 3, 7, order):
        left = torch.ones(height, width, dtype=torch.bool)
        for patch in sweep.patches:
            assert patch.region.height == patch.region.width == size
            assert 0 <= patch.region.y <= height - size and 0 <= patch.region.x <= width - size
            assert patch.region.crop(left).any() and patch.shift in (0, 1)
            patch.region.crop(left).fill_(False)
        assert not left.any()
        assert sorted(i for wave in sweep.waves for i in wave) == list(range(len(sweep.patches)))


def test_picks_are_uniform_among_what_is_left():
    counts = torch.zeros(32, 32)
    for seed in range(3000):
        first = next(random_regions(32, 32, 2, torch.Generator().manual_seed(seed)))
        counts[first.y, first.x] += 1
    # the region starts one cell before the pick and is kept inside: the first row and column get two picks
    assert counts[31].sum() == counts[:, 31].sum() == 0
    for half in (counts[:16], counts[:, :16]):
        assert half.sum() / 3000 == pytest.approx(17 / 32, abs=0.03)
    shifts = [patch.shift for patch in plan(64, 64, 4, 1, 1, 0)[0].patches]
    assert np.mean(shifts) == pytest.approx(0.5, abs=0.07)


def test_plan_depends_on_its_seed_only():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = plan(48, 60, 16, 3, 2, 11)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert plan(48, 60, 16, 3, 2, 11) == first != plan(48, 60, 16, 3, 2, 12)


def test_patches_wait_only_for_what_they_read():
    patches = [Patch(Region(0, x, 32, 32), 0) for x in (0, 40, 20)]
    assert waves(patches, 32, 72, mixes=True) == [[0, 1], [2]]
    assert waves(patches, 32, 72, mixes=False) == [[0, 1, 2]]
    assert Sweep(patches, [[0, 1], [2]]).calls(8) == Sweep(patches, [[0, 1, 2]]).calls(2) == 2


@pytest.mark.parametrize("side,share", [(512, 0.30), (1024, 0.15)])
def test_planned_calls(side, share):
    """4096 and 8192 pixels, patches of 1024, 20 of 50 steps guided; fewer steps in the same proportion."""
    sweeps = plan(side, side, 128, 10, 4, 0)
    assert sum(sweep.calls(8) for sweep in sweeps) <= share * sum(len(sweep.patches) for sweep in sweeps)


def test_errors():
    with pytest.raises(ValueError, match="canvas height is 30 .* patch_size 32"):
        plan(30, 64, 32, 4, 2, 0)
    with pytest.raises(ValueError, match="canvas width is 31"):
        plan(64, 31, 32, 4, 2, 0)
    with pytest.raises(ValueError, match="patch_size is 31"):
        plan(64, 64, 31, 4, 2, 0)
    for guided_steps in (0, 5):
        with pytest.raises(ValueError, match=f"guided_steps is {guided_steps}"):
            plan(64, 64, 32, 4, guided_steps, 0)
    with pytest.raises(ValueError, match="order is 'spiral'"):
        plan(64, 64, 32, 4, 2, 0, "spiral")

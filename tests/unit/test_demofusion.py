import random

import pytest
import torch
from loupe.methods.demofusion import (
    blur,
    denoise,
    dilated_input,
    dilated_pad,
    dilated_subsets,
    gaussian_kernel,
    match_statistics,
    renormalize,
    scatter,
    schedule_weights,
    statistics,
)
from loupe.methods.regions import Region, RegionLayout, jittered
from loupe.methods.schedules import ddim_sigmas, ddim_timesteps
from tolerance import close

pytestmark = pytest.mark.numerics

DEMOFUSION = ["df_s32_3x_jitter", "df_s32_rect_pad_30steps", "df_s32_2x_nojitter_imglr", "df_s32_2x_euler"]
LSRNA = ["lsrna_df_s32_2x_jitter", "lsrna_df_s32_pad_nojitter", "lsrna_df_s32_cond"]


def regions_of(views):
    return [[Region(y0, x0, y1 - y0, x1 - x0) for y0, y1, x0, x1 in step.tolist()] for step in views]


def assert_parity(actual, expected, tolerance):
    assert (actual - expected).abs().max() < tolerance["max_abs_fp32"]
    assert (actual - expected).norm() / expected.norm() < tolerance["rel_l2_fp32"]


def test_weights_of_the_reference(golden):
    _, description = golden("df_views_cosine")
    for rows in description["cosine"].values():
        for row in rows:
            assert schedule_weights(row["t"]) == pytest.approx((row["c1_scale3"], row["c2_scale1"], row["c3_scale1"]), rel=1e-4, abs=1e-6)


def test_blur_of_the_reference(golden):
    tensors, description = golden("df_units")
    for case in description["cases"]:
        name, scale, std = case["case"], case["scale"], case["sigma_effective"]
        x = tensors[f"{name}.in"]
        kernel = gaussian_kernel(case["kernel_size"], std)
        close(kernel[:, None] * kernel, tensors[f"{name}.kernel"], 5e-6)
        close(blur(dilated_pad(x, scale), scale, std), tensors[f"{name}.filtered"], 5e-6)
        close(dilated_input(x, scale, std), tensors[f"{name}.renorm"], 5e-6)


def test_statistics_are_per_sample_and_blur_is_per_frame():
    x = torch.randn(2, 4, 3, 20, 18) * torch.tensor([1.0, 5.0])[:, None, None, None, None]
    together = dilated_input(x, 3, 0.7)
    for i in range(2):
        close(together[i : i + 1], dilated_input(x[i : i + 1], 3, 0.7), 1e-5)
    for frame in range(3):
        close(blur(x, 3, 0.7)[:, :, frame], blur(x[:, :, frame], 3, 0.7), 1e-5)
    mean, std = statistics(x)
    torch.testing.assert_close(mean.flatten(), torch.stack([sample.mean() for sample in x]))
    torch.testing.assert_close(std.flatten(), torch.stack([sample.std() for sample in x]))
    target = torch.randn(2, 4, 1, 8, 8)
    for actual, expected in zip(statistics(match_statistics(x, target)), statistics(target)):
        torch.testing.assert_close(actual.flatten(), expected.flatten(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale,height,width", [(1, 7, 5), (2, 31, 34), (3, 31, 34), (4, 40, 42)])
def test_scatter_undoes_the_dilated_subsets(scale, height, width):
    x = torch.randn(2, 4, 3, height, width)
    subsets = dilated_subsets(dilated_pad(x, scale), scale)
    assert len(subsets) == scale**2
    assert torch.equal(scatter(subsets, scale, height, width), x)


def test_dilation_one_shows_the_latent_itself():
    x = torch.randn(1, 4, 9, 9)
    assert torch.equal(dilated_input(x, 1, 0.8), x)


@pytest.mark.parametrize("name", DEMOFUSION)
def test_demofusion_end_to_end(golden, sdxl_sigmas, toy_eps, name):
    tensors, info = golden(name)
    eps = toy_eps(tensors)
    window, stride, jitter = info["window"], info["stride"], info["jitter_range"]
    euler = "sigmas" in info
    steps = info["config"].get("steps", 50)
    timesteps = ddim_timesteps(steps)
    sigmas = info["sigmas"] if euler else ddim_sigmas(sdxl_sigmas, steps).tolist()
    anchor = statistics(tensors["ref"])
    previous = tensors["ref"]
    for phase in info["phases"]:
        key, scale, size = f"p{phase['scale']}", phase["scale"], tuple(phase["hr_hw"])
        guidance = torch.nn.functional.interpolate(previous, size, mode="bicubic")
        if previous is tensors["ref"]:
            close(guidance, tensors[f"{key}.up"], 5e-6)
        layout = RegionLayout(*size, window, window, stride, stride)
        trace = []
        x = denoise(
            lambda x, t, region: eps(x, t),
            guidance,
            tensors[f"{key}.noise"],
            sigmas,
            timesteps,
            layout,
            scale,
            jitter,
            regions_of(tensors[f"{key}.views"]),
            callback=lambda i, x: trace.append(x),
        )
        if f"{key}.step0" in tensors:
            assert_parity(trace[0], tensors[f"{key}.step0"], info["tolerance"])
        previous = renormalize(x, *anchor)
        assert_parity(previous, tensors[f"{key}.out"], info["tolerance"])


@pytest.mark.parametrize("name", LSRNA)
def test_lsrna_demofusion_end_to_end(golden, sdxl_sigmas, toy_eps, name):
    tensors, info = golden(name)
    eps = toy_eps(tensors)
    size, jitter = tuple(info["hr_hw"]), info["jitter_range"]
    channels = torch.tensor([1, -1, 0.5, 0.25])[:, None, None]
    pixels = info["config"]["V"]
    target_h, target_w = (side * pixels for side in size)

    def predict(x, t, region):
        if "cond" not in info:
            return eps(x, t)
        top, left = (pixels * region.y, pixels * region.x) if region else (0, 0)
        m = top / 1024 * 0.02 + left / 1024 * 0.05 + (target_h + target_w) / 4096 * 0.01
        cond, uncond = (eps(x, t) + (e + m) * channels for e in (0.1, -0.05))
        return uncond + info["guidance_scale"] * (cond - uncond)

    timesteps = ddim_timesteps(50, 30)
    assert timesteps == info["timesteps_used"]
    sigmas = ddim_sigmas(sdxl_sigmas, 50, 30).tolist()
    trace = []
    x = denoise(
        predict,
        tensors["guidance"],
        tensors["noise"],
        sigmas,
        timesteps,
        RegionLayout(*size, info["window"], info["window"], info["stride"], info["stride"]),
        info["scale"],
        jitter,
        regions_of(tensors["views"]),
        callback=lambda i, x: trace.append(x / (1 + sigmas[i + 1] ** 2) ** 0.5),
    )
    for key in tensors:
        if key.startswith("step"):
            assert_parity(trace[int(key[4:])], tensors[key], info["tolerance"])
    assert_parity(trace[-1], tensors["before_renorm"], info["tolerance"])
    assert_parity(renormalize(x, *statistics(tensors["ref"])), tensors["final"], info["tolerance"])


def test_views_drawn_from_a_generator_are_the_same_views(sdxl_sigmas):
    layout = RegionLayout.from_overlap(40, 48, 16, 16)
    guidance, noise = torch.randn(2, 1, 4, 40, 48)
    sigmas, timesteps = ddim_sigmas(sdxl_sigmas, 50, 4).tolist(), ddim_timesteps(50, 4)

    def run(views, guidance=guidance, noise=noise):
        return denoise(lambda x, t, region: x.tanh(), guidance, noise, sigmas, timesteps, layout, 2, 2, views)

    rng = random.Random(5)
    drawn = run(random.Random(5))
    assert torch.equal(drawn, run([jittered(layout, 2, rng) for _ in timesteps]))

    pair = run(random.Random(5), torch.cat([guidance, 3 * guidance]), torch.cat([noise, noise]))
    torch.testing.assert_close(pair[:1], drawn, rtol=1e-5, atol=1e-5)

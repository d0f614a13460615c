"""The bundled workflows through the HTTP API, and what users do with them: again, stop, mistakes."""

import json
from pathlib import Path

import numpy as np
import pytest
from loupe.headless.client import WorkflowError, find_node
from PIL import Image

API = Path(__file__).resolve().parents[2] / "workflows" / "api"
BUNDLED = [file for file in sorted(API.glob("*.json")) if "LoupeLoadMini" in file.read_text(encoding="utf-8") and file.stem != "compare"]  # test_compare.py

RESULT = "LSRNA-DemoFusion"


def pixels(client, run, node_id):
    return np.asarray(client.images(run, node_id)[0])


def result(client, run, workflow):
    return pixels(client, run, find_node(workflow, "SaveImage", RESULT))


def sampler_of(workflow):
    return workflow[find_node(workflow, "LoupeDemoFusionSampler")]["inputs"]


@pytest.mark.parametrize("file", BUNDLED, ids=lambda file: file.stem)
def test_bundled_workflow_runs_as_shipped(client, likeness, file):
    """PixelSmith at a third of its steps, which would take longer than all others."""
    workflow = json.loads(file.read_text(encoding="utf-8"))
    for node in workflow.values():
        if node["class_type"] == "LoupePixelSmithSampler":
            node["inputs"].update(preset="custom", steps=node["inputs"]["steps"] // 3)
    run = client.run(workflow)
    saved = {node_id: client.images(run, node_id) for node_id, node in workflow.items() if node["class_type"] == "SaveImage"}
    assert saved
    pictures = sorted((image for pictures in saved.values() for image in pictures), key=lambda image: image.width)
    assert pictures[-1].width > pictures[0].width
    for image in pictures:
        assert np.asarray(image).std() > 10
        assert likeness(image, pictures[0]) > 0.8


def test_again_is_cached_and_equal(client, lsrna_workflow):
    first = client.run(lsrna_workflow)
    again = client.run(lsrna_workflow)
    assert set(again.cached) == set(lsrna_workflow)
    assert (result(client, again, lsrna_workflow) == result(client, first, lsrna_workflow)).all()


def test_a_cached_model_sampled_again_gives_the_same_image(client, lsrna_workflow):
    first = result(client, client.run(lsrna_workflow), lsrna_workflow)
    sampler_of(lsrna_workflow)["seed"] += 1
    other = client.run(lsrna_workflow)
    assert find_node(lsrna_workflow, "LoupeLoadMini") in other.cached
    assert (result(client, other, lsrna_workflow) != first).any()
    sampler_of(lsrna_workflow)["seed"] -= 1
    again = client.run(lsrna_workflow)
    assert find_node(lsrna_workflow, "LoupeDemoFusionSampler") not in again.cached
    assert (result(client, again, lsrna_workflow) == first).all()


def test_interrupted_then_run(client, lsrna_workflow):
    first = result(client, client.run(lsrna_workflow), lsrna_workflow)
    sampler = find_node(lsrna_workflow, "LoupeDemoFusionSampler")
    stopped_workflow = json.loads(json.dumps(lsrna_workflow))
    stopped_workflow[sampler]["inputs"].update(steps=60, strength=0.6)
    seen = []

    def stop_in_the_second_step(kind, data):
        if kind == "progress" and data["node"] == sampler and data["max"] == 60:
            seen.append(data["value"])
            if len(seen) == 1:
                client.interrupt()

    with pytest.raises(WorkflowError) as stopped:
        client.run(stopped_workflow, stop_in_the_second_step)
    assert stopped.value.interrupted
    assert max(seen) < 60
    assert (result(client, client.run(lsrna_workflow), lsrna_workflow) == first).all()


def test_patches_before_a_stock_sampler(client, lsrna_workflow, likeness):
    """Regional Denoise and DemoFusion on the MODEL, in either order, before the stock KSampler."""
    drawn, mini = find_node(lsrna_workflow, "KSampler"), find_node(lsrna_workflow, "LoupeLoadMini")
    low, high = [drawn, 0], [find_node(lsrna_workflow, "LoupeLSRUpscale"), 0]
    regional = {"region_width": 128, "region_height": 0, "overlap": 0.5, "blend": "uniform", "jitter": False, "jitter_seed": 0, "size_conditioning": "native", "regions_per_call": 0}
    fusion = {"reference": low, "guide": high, "skip_exponent": 3.0, "dilation_exponent": 1.0, "blur_exponent": 1.0, "blur_std": 0.8, "dilation": 0, "renormalize": True}
    pictures = []
    for first, second in (("LoupeRegionalDenoise", "LoupeDemoFusion"), ("LoupeDemoFusion", "LoupeRegionalDenoise")):
        settings = {"LoupeRegionalDenoise": regional, "LoupeDemoFusion": fusion}
        workflow = {key: node for key, node in lsrna_workflow.items() if node["class_type"] != "SaveImage"}
        workflow["first"] = {"class_type": first, "inputs": {"model": [mini, 0], **settings[first]}}
        workflow["second"] = {"class_type": second, "inputs": {"model": ["first", 0], **settings[second]}}
        workflow["sampled"] = {"class_type": "KSampler", "inputs": {**lsrna_workflow[drawn]["inputs"], "model": ["second", 0], "latent_image": high, "steps": 8, "denoise": 0.6}}
        workflow["decoded"] = {"class_type": "VAEDecode", "inputs": {"samples": ["sampled", 0], "vae": [mini, 2]}}
        workflow["saved"] = {"class_type": "SaveImage", "inputs": {"images": ["decoded", 0], "filename_prefix": "patches"}}
        workflow["low"] = {"class_type": "SaveImage", "inputs": {"images": [find_node(lsrna_workflow, title="Decode the reference"), 0], "filename_prefix": "low"}}
        run = client.run(workflow)
        pictures.append(client.images(run, "saved")[0])
    assert pictures[0].size == (256, 256)
    assert (np.asarray(pictures[0]) == np.asarray(pictures[1])).all()
    assert likeness(pictures[0], client.images(run, "low")[0]) > 0.8


def test_patches_and_sampler_draw_the_same_image(client, lsrna_workflow):
    """The bundled workflow of patches, at the size and steps of `lsrna_workflow`. Its sampler has the seed of the noise
    that DemoFusion Sampler draws, and the noise at edges is that of the level where so few steps start."""
    from loupe.methods.noise import stream
    from loupe.methods.region_noise import start_factor
    from loupe.methods.schedules import ddim_timesteps, sd_ratio

    patches = json.loads((API / "lsrna_demofusion_patches.json").read_text(encoding="utf-8"))
    patches[find_node(patches, "LoupeLSRUpscale")]["inputs"]["scale_by"] = 2.0
    detail = patches[find_node(patches, title="Draw the detail")]["inputs"]
    detail["steps"] = sampler_of(lsrna_workflow)["steps"]
    assert detail["denoise"] == sampler_of(lsrna_workflow)["strength"]
    assert detail["seed"] == stream(sampler_of(lsrna_workflow)["seed"], "DemoFusion phase 0")
    (start, *_) = ddim_timesteps(10, detail["steps"])
    patches[find_node(patches, "LoupeRegionNoise")]["inputs"]["noise_edges"] *= start_factor(sd_ratio(start))
    sampled = result(client, client.run(lsrna_workflow), lsrna_workflow)
    drawn = result(client, client.run(patches), patches)
    assert np.abs(drawn.astype(int) - sampled).max() <= 1  # of 255


def test_image_of_a_user_as_reference(client, lsrna_workflow, likeness, tmp_path):
    from loupe.tools.demo import use_image
    from loupe.training.mini.render import render
    from loupe.training.mini.scenes import caption, sample_scene

    scene = sample_scene(7_000_003)
    Image.fromarray(render(scene, 450, 1)[75:375]).save(tmp_path / "mine.png")
    lsrna_workflow[find_node(lsrna_workflow, title="Prompt")]["inputs"]["text"] = caption(scene)
    use_image(lsrna_workflow, client, tmp_path / "mine.png")
    image = Image.fromarray(result(client, client.run(lsrna_workflow), lsrna_workflow))
    assert image.size == (2 * 160, 2 * 104)
    assert likeness(image, Image.open(tmp_path / "mine.png")) > 0.8


def test_bad_size_is_refused_before_sampling(client, lsrna_workflow):
    sampler_of(lsrna_workflow)["width"] = 64
    with pytest.raises(WorkflowError, match="DemoFusion Sampler: .*(width|scale_by)") as refused:
        client.run(lsrna_workflow)
    assert not refused.value.interrupted


def test_value_out_of_range_names_node_and_input(client, lsrna_workflow):
    sampler_of(lsrna_workflow)["cfg"] = -1.0
    with pytest.raises(WorkflowError, match="DemoFusion Sampler: .*cfg"):
        client.run(lsrna_workflow)


def test_foreign_file_is_no_lsr(client, lsrna_workflow):
    lsrna_workflow[find_node(lsrna_workflow, "LoupeLoadLSR")]["inputs"]["model_name"] = "mini_unet.safetensors"
    with pytest.raises(WorkflowError, match="Load Latent Upscale Model \\(LSR\\): .*model_name"):
        client.run(lsrna_workflow)

"""C-Upscale's workflow of the mini world."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from loupe.benchmarks.scoring import load_detector
from loupe.headless.client import WorkflowError, find_node
from loupe.methods.regions import RegionLayout
from loupe.models.mini.captions import Sight
from loupe.models.mini.detector import detect
from loupe.models.mini.world import WORDS

WORKFLOW = Path(__file__).resolve().parents[2] / "workflows" / "api" / "cupscale.json"


@pytest.fixture
def workflow():
    return json.loads(WORKFLOW.read_text(encoding="utf-8"))


def picture(client, run, workflow, title):
    return client.images(run, find_node(workflow, "SaveImage", title))[0]


def test_the_workflow_enlarges_its_reference(client, workflow, likeness):
    run = client.run(workflow)
    reference, plain, out = (picture(client, run, workflow, title) for title in ("Reference", "Regions alone", "C-Upscale"))
    assert reference.size == (128, 128) and out.size == plain.size == (256, 256)
    assert likeness(out, reference) > 0.8
    assert np.abs(np.asarray(out, float) - np.asarray(plain, float)).mean() > 1


@torch.no_grad()
def sights_of(image):
    """What the detector of the evaluation, which has no part in the captions, finds in the whole image."""
    width, height = image.size
    found = detect(load_detector(), np.array(image.convert("RGB")), (1,))
    return [Sight(WORDS["colors"][d.color], WORDS["shapes"][d.shape], d.x / width, d.y / height, d.radius / width, d.radius / height) for d in found]


def part_of(sight, region, layout):
    """`sight` as a region of the layout has it, and how much of it is inside."""
    x, y = layout.width / region.width, layout.height / region.height
    part = sight._replace(x=sight.x * x - region.x / region.width, y=sight.y * y - region.y / region.height, wide=sight.wide * x, high=sight.high * y)
    return part, part.share / (4 * part.wide * part.high)


def anew(workflow, tokens):
    """The captioner's id, with a setting that no test has run it with: what comes from the cache says nothing."""
    node = find_node(workflow, "LoupeCaptionRegions")
    workflow[node]["inputs"]["max_tokens"] = tokens
    return node


def test_the_captions_say_what_stands_in_the_regions(client, workflow):
    captioner = anew(workflow, 60)
    run = client.run(workflow)
    captions = json.loads(run.outputs[captioner]["text"][0])
    layout = RegionLayout.from_overlap(32, 32, 16, 16)
    sights = sights_of(picture(client, run, workflow, "Reference"))
    assert len(captions) == 9 and sights
    for caption, region in zip(captions, layout.regions, strict=True):
        *said, ground = caption.split(", ")
        assert ground == "on grass"
        parts = [part_of(sight, region, layout) for sight in sights]
        assert {part.words for part, inside in parts if inside > 0.45} <= set(said)
        assert {" ".join(words.split()[:2]) for words in said} <= {f"{part.color} {part.shape}" for part, inside in parts if inside > 0.15}
    shown = {words for caption in captions for words in caption.split(", ")[:-1]}
    assert {f"{sight.color} {sight.shape}" for sight in sights} == {" ".join(words.split()[:2]) for words in shown}


def test_typed_prompts_need_no_captions(client, workflow):
    captioner = anew(workflow, 61)
    workflow[find_node(workflow, "LoupeRegionPrompts")]["inputs"]["prompts"] = "\n".join(["on grass"] * 9)
    for node in workflow.values():
        if node["class_type"] == "KSamplerAdvanced":
            node["inputs"].update(steps=4, start_at_step=2, noise_seed=7)
    assert captioner not in client.run(workflow).outputs


def test_switched_off_it_is_regional_denoise_to_the_bit(client, workflow):
    def inputs(cls):
        (node,) = (node["inputs"] for node in workflow.values() if node["class_type"] == cls)
        return node

    inputs("LoupeStructurePrior")["weight"] = 0.0
    inputs("LoupeAttentionPrior").update(weight=0.0, weight_global=0.0)
    inputs("LoupeRegionPrompts")["use_captions"] = False
    run = client.run(workflow)
    assert np.array_equal(*(np.asarray(picture(client, run, workflow, title)) for title in ("Regions alone", "C-Upscale")))


def test_a_wrong_number_of_prompts_names_the_node_and_the_entry(client, workflow):
    node = find_node(workflow, "LoupeRegionPrompts")
    workflow[node]["inputs"]["prompts"] = "\n".join(["on grass"] * 9 + ["one too many"])
    with pytest.raises(WorkflowError, match="10 lines, regions has 9 regions; entry 10 is 'one too many'"):
        client.run(workflow)

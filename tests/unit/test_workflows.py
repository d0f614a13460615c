"""What the bundled workflows tell their models."""

import json
from collections import Counter
from pathlib import Path

import pytest
from loupe.headless.client import find_node, node_title
from loupe.tools.folded import fold_of
from loupe.tools.shelf import SHELF, Template
from loupe.tools.templates import of_its_own

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
NEGATIVE = "blurry, ugly, duplicate, poorly drawn, deformed, mosaic"  # of DemoFusion's published example


def on_sdxl(files):
    found = [file for file in sorted(files) if "sd_xl_base" in file.read_text(encoding="utf-8")]
    assert len(found) >= 5
    return found


@pytest.mark.parametrize("file", on_sdxl(WORKFLOWS.glob("api/*.json")), ids=lambda file: file.stem)
def test_sdxl_avoids_what_the_published_example_avoids(file):
    """Where there is guidance."""
    workflow = json.loads(file.read_text(encoding="utf-8"))
    sources = [workflow[node["inputs"]["negative"][0]] for node in workflow.values() if "negative" in node["inputs"]]
    texts = {node["inputs"]["text"] for node in sources if node["class_type"] == "CLIPTextEncode"}
    assert texts == ({NEGATIVE} if any(node["inputs"].get("cfg", 1) != 1 for node in workflow.values()) else set())


def test_the_templates_say_the_same():
    silent = [file.stem for file in on_sdxl(WORKFLOWS.glob("*.json")) if f'"{NEGATIVE}"' not in file.read_text(encoding="utf-8")]
    assert silent == [SHELF["upscale_sdxl_few_steps"].title]


@pytest.mark.parametrize("file", sorted(WORKFLOWS.glob("api/*.json")), ids=lambda file: file.stem)
def test_a_title_names_one_node(file):
    workflow = json.loads(file.read_text(encoding="utf-8"))
    assert [title for title, count in Counter(node_title(workflow, key) for key in workflow).items() if count > 1] == []


@pytest.mark.parametrize("file", sorted(WORKFLOWS.glob("api/*.json")), ids=lambda file: file.stem)
def test_no_region_is_told_what_only_another_image_shows(file):
    """Prompts of regions come from the image, by captions, or are left to the user: none is typed for one seed."""
    workflow = json.loads(file.read_text(encoding="utf-8"))
    for node in workflow.values():
        if node["class_type"] == "LoupeRegionPrompts":
            assert node["inputs"]["prompts"] == ""
            captioner = workflow[node["inputs"]["captions"][0]]["inputs"] if "captions" in node["inputs"] else node["inputs"]
            assert captioner["regions"] == node["inputs"]["regions"]


def test_captions_are_added_to_the_plain_graph():
    plain, captions = (json.loads((WORKFLOWS / "api" / f"upscale_krea2{name}.json").read_text(encoding="utf-8")) for name in ("", "_captions"))
    added = {key: captions.pop(key) for key in set(captions) - set(plain)}
    assert sorted(node["class_type"] for node in added.values()) == ["LoupeCaptionRegions", "LoupeRegionLayout", "LoupeRegionPrompts"]
    del captions[find_node(captions, "LoupeRegionalDenoise")]["inputs"]["regions"]
    sampler = captions[find_node(captions, "SamplerCustom")]["inputs"]
    sampler["positive"] = added[sampler["positive"][0]]["inputs"]["conditioning"]
    assert captions == plain


def test_each_thumbnail_has_a_scene_of_its_own():
    workflow = {"1": {"class_type": "CLIPTextEncode", "inputs": {"text": "red star center, on grass"}}}
    scenes = {of_its_own(workflow, number)["1"]["inputs"]["text"] for number in range(len(SHELF))}
    assert len(scenes) == len(SHELF) and all(" top left, " in scene for scene in scenes)
    assert workflow["1"]["inputs"]["text"] == "red star center, on grass"


def test_two_files_of_one_name_need_names():
    """One would hide the other on the node that both are behind."""
    vae = {"class_type": "VAELoader", "inputs": {"vae_name": "ae.safetensors"}}
    workflow = {
        "1": {**vae, "_meta": {"title": "One"}}, "2": {**vae, "_meta": {"title": "Other"}},
        "3": {"class_type": "LoadImage", "inputs": {"image": "example.png"}, "_meta": {"title": "Load Image"}},
        "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0]}, "_meta": {"title": "Save"}},
    }
    with pytest.raises(ValueError, match="two nodes have vae_name"):
        fold_of(Template("both", ""), workflow, "3", "4")
    found = fold_of(Template("both", "", {"other_vae": ("Other", "vae_name")}), workflow, "3", "4")
    assert found.widgets == {"other_vae": ("Other", "vae_name"), "vae_name": ("One", "vae_name")}

"""What must hold on every supported version of ComfyUI: the nodes are there, described, and LSRNA-DemoFusion runs."""

import re

import numpy as np
import pytest
from loupe.headless.client import Client, find_node

NODES = [
    "LoupeLoadLSR", "LoupeUpscaleThroughPixels", "LoupeLSRUpscale", "LoupeRegionNoise", "LoupeRegionLayout", "LoupeRegionalDenoise",
    "LoupeDemoFusion", "LoupeDemoFusionSampler", "LoupePixelSmithSampler", "LoupeLoadMini",
    "LoupeStructurePrior", "LoupeAttentionPrior", "LoupeRegionCrops", "LoupeCaptionRegions", "LoupeRegionPrompts",
    "LoupePlan", "LoupeLatentAdjustment", "LoupeInjectNoise", "LoupeGuidanceInterval", "LoupeLoadImplicitDecoder", "LoupeImplicitDecode",
    "LoupeEnlargeImage", "LoupeCreativity", "LoupeOptionalControlNet",
]


@pytest.fixture(scope="module")
def info(server):
    return Client(server.url).get_json("/object_info")


def test_pack_loads_without_complaint(server, info):
    starting, ready, _ = server.log_file.read_text(errors="replace", encoding="utf-8").partition("Starting server")
    assert ready
    lines = [line for line in starting.splitlines() if "ComfyUI-Loupe" in line]
    assert lines
    assert [line for line in lines if "FAILED" in line or "Cannot import" in line or "File " in line] == []


def test_every_node_is_there(info):
    assert set(NODES) - set(info) == set()


def test_every_node_is_described(info):
    lacks = []
    for name, node in info.items():
        if name.startswith("Loupe"):
            inputs = {**node["input"].get("required", {}), **node["input"].get("optional", {})}
            lacks += [f"{name}.{key}: tooltip" for key, (_, *options) in inputs.items() if not (options and options[0].get("tooltip"))]
            lacks += [f"{name}: {key}" for key in ("description", "search_aliases") if not node.get(key, True)]
            assert node["category"].startswith("Loupe/")
            assert node["display_name"] != name
    assert lacks == []


def test_help_pages_and_their_images_are_served(server, info):
    client = Client(server.url)
    for name in (name for name in info if name.startswith("Loupe")):
        page = client.get(f"/extensions/ComfyUI-Loupe/docs/{name}.md").decode()
        assert page.startswith(f"# {info[name]['display_name']}\n")
        for image in re.findall(r"\]\((images/[^)]+)\)", page):
            assert client.get(f"/extensions/ComfyUI-Loupe/docs/{image}").startswith(b"\xff\xd8")


def test_translations_are_served(server, info):
    texts = Client(server.url).get_json("/i18n")
    for language in ("zh", "ja", "ko"):
        for name in (name for name in info if name.startswith("Loupe")):
            node = texts[language]["nodeDefs"][name]
            inputs = {**info[name]["input"].get("required", {}), **info[name]["input"].get("optional", {})}
            assert set(node.get("inputs", {})) == set(inputs)
            assert set(node["outputs"]) == {str(i) for i in range(len(info[name]["output"]))}


def test_lsrna_demofusion(client, lsrna_workflow, likeness):
    events = []
    run = client.run(lsrna_workflow, lambda kind, data: events.append((kind, data)))
    images = {title: client.images(run, find_node(lsrna_workflow, "SaveImage", title))[0] for title in ("Reference", "Bicubic latent", "LSR", "LSRNA-DemoFusion")}
    assert images["Reference"].size == (128, 128)
    for title in ("Bicubic latent", "LSR", "LSRNA-DemoFusion"):
        assert images[title].size == (256, 256)
        assert np.asarray(images[title]).std() > 10
        assert likeness(images[title], images["Reference"]) > 0.8, title
    sampler = find_node(lsrna_workflow, "LoupeDemoFusionSampler")
    steps = [data["value"] for kind, data in events if kind == "progress" and data["node"] == sampler and data["max"] == 6]
    assert steps == list(range(1, 7))

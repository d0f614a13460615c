"""The graphs of the templates run in ComfyUI's server from their input to the saved image, on tiny networks with random
weights: whether they fit together, not what they draw."""

import json
import re
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tiny_files
import tiny_graphs
from loupe.dev import NEWEST
from loupe.headless.client import Client
from loupe.tools.graph import is_link
from loupe.tools.server import Server
from loupe.tools.shelf import SHELF
from loupe.tools.templates import is_mini
from PIL import Image

TESTS = Path(__file__).resolve().parents[1]
API = TESTS.parent / "workflows" / "api"
NETWORKS = [TESTS / "comfyui" / "families.py", TESTS / "comfyui" / "tiny.py"]
SIZE = (64, 48)  # of the input image
REGIONAL = {"LoupeRegionalDenoise", "LoupeDemoFusionSampler", "LoupePixelSmithSampler"}


def read(name):
    return json.loads((API / f"{name}.json").read_text(encoding="utf-8"))


def kinds_of(workflow):
    return {node["class_type"] for node in workflow.values()}


def saving(workflow):
    return [key for key, node in workflow.items() if node["class_type"] == "SaveImage"]


GRAPHS = [name for name in SHELF if not is_mini(read(name))]
every = pytest.mark.parametrize("name", GRAPHS)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    base = tmp_path_factory.mktemp("tiny")
    pack = base / "custom_nodes" / "tiny_loaders"
    shutil.copytree(Path(__file__).parent / "tiny_loaders", pack, ignore=shutil.ignore_patterns("__pycache__"))
    for file in NETWORKS:
        shutil.copy(file, pack)
    tiny_files.write(base / "models", [read(name) for name in GRAPHS])
    return base


@pytest.fixture(scope="module")
def client(comfyui, base):
    with Server(comfyui, base) as server:
        yield Client(server.url)


@pytest.fixture(scope="module")
def info(client):
    return client.get_json("/object_info")


@pytest.fixture(scope="module")
def image(client):
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    return client.upload(Image.fromarray(noise).resize(SIZE, Image.Resampling.BICUBIC), "small.png")


@pytest.fixture(scope="module")
def graph(comfyui, info, image):
    """graph(name): that API workflow on tiny networks. Skips what this ComfyUI lacks nodes or networks for."""

    def make(name):
        made = tiny_graphs.tiny(read(name), image)
        lacking = sorted(missing(made, info))
        if lacking:
            assert comfyui.name != NEWEST
            pytest.skip(f"this ComfyUI has no {', '.join(lacking)}")
        return made

    return make


def missing(workflow, info):
    known = info["TinyUNETLoader"]["input"]["required"]["family"][0]
    families = {node["inputs"].get("family", known[0]) for node in workflow.values()}
    return {kind for kind in kinds_of(workflow) if kind not in info and not kind.startswith("Loupe")} | families - set(known)


class Result(NamedTuple):
    """By node that saves: the image, and what Figures says of it. regions: the most of a step that the run told of."""

    saved: dict
    figures: dict
    regions: int


def run(client, workflow):
    told = [1]

    def watch(kind, data):
        if kind == "loupe.progress" and (found := re.search(r"views? .*of (\d+)", data["text"])):
            told.append(int(found[1]))

    done = client.run(tiny_graphs.with_figures(workflow), watch)
    saved = {key: client.images(done, key)[0] for key in saving(workflow)}
    return Result(saved, {key: done.outputs[f"figures of {key}"] for key in saved}, max(told))


def only(images):
    (image,) = images.values()
    return np.asarray(image)


@every
def test_all_but_loaders_and_sizes_are_the_graphs_own(name):
    workflow = read(name)
    made = tiny_graphs.tiny(workflow, "small.png")
    assert set(made) == set(workflow)
    for key, node in workflow.items():
        if tiny_graphs.stands_in(node):
            assert made[key]["class_type"] == f"Tiny{node['class_type']}"
            kept = {name: value for name, value in made[key]["inputs"].items() if name != "family"}
            assert kept == {name: value for name, value in node["inputs"].items() if not tiny_graphs.is_file(name)}
            continue
        assert made[key]["class_type"] == node["class_type"]
        changed = {name for name, value in node["inputs"].items() if made[key]["inputs"][name] != value}
        assert changed <= {"image", "megapixels", "width", "height", *tiny_graphs.REGION, *tiny_graphs.TILES}
        assert all(is_link(made[key]["inputs"][name]) == is_link(value) for name, value in node["inputs"].items())


@every
def test_the_title_says_how_many_times_it_enlarges(name):
    workflow = read(name)
    said = re.search(r"(\d)x", SHELF[name].title)
    if said:
        assert max(tiny_graphs.factor(workflow, key) for key in saving(workflow)) == int(said[1])


@every
def test_the_dial_is_wired_as_its_outputs_say(name):
    workflow = read(name)
    nodes = {node["class_type"]: node["inputs"] for node in workflow.values()}
    (dial,) = [key for key, node in workflow.items() if node["class_type"] == "LoupeCreativity"] or [None]
    if dial is None:
        return
    assert nodes["SamplerCustom"]["sigmas"] == [dial, 0]
    told = {
        "LoupeStructurePrior": {"weight": [dial, 1], "mode": "kappa"},
        "LoupeLatentAdjustment": {"alpha": [dial, 2], "preset": "custom", "beta": 0.0, "early_end": 0.5, "boundaries": "steps"},
    }
    assert {kind: {input: nodes[kind][input] for input in inputs} for kind, inputs in told.items()} == told
    assert nodes["LoupeRegionalDenoise"]["model"] == nodes["LoupeCreativity"]["model"]


@every
def test_the_graph_runs_in_regions_to_an_image_of_the_promised_size(client, graph, name):
    workflow = graph(name)
    result = run(client, workflow)
    assert result.saved
    for key, image in result.saved.items():
        assert image.size == tiny_graphs.promised_size(workflow, key, SIZE)
        assert result.figures[key]["size"] == list(image.size)
        assert result.figures[key]["finite"] == [True]
        assert result.figures[key]["spread"][0] > 0.01
    if REGIONAL & kinds_of(workflow):
        assert result.regions >= 4


@pytest.mark.parametrize("name", ["upscale_krea2", "upscale_qwen_edit"])
def test_one_value_makes_it_4x(client, graph, name):
    workflow = graph(name)
    key, factor = tiny_graphs.enlarging(workflow)
    twice = only(run(client, workflow).saved)
    workflow[key]["inputs"]["scale_by"] = 2 * factor
    result = run(client, workflow)
    assert only(result.saved).shape == (2 * twice.shape[0], 2 * twice.shape[1], 3)
    assert result.regions > 16


@pytest.mark.parametrize("name", ["upscale_zimage", "upscale_flux2_klein", "seedvr2"])
def test_one_region_gives_the_image_of_the_plain_graph(client, graph, name):
    """Of models that are not told an image's size."""
    workflow = graph(name)
    (key,) = [key for key, node in workflow.items() if node["class_type"] == "LoupeRegionalDenoise"]
    workflow[key]["inputs"].update(region_width=1024, region_height=1024)
    whole = run(client, workflow)
    assert whole.regions == 1
    plain = only(run(client, tiny_graphs.without(workflow, key)).saved)
    assert (only(whole.saved) == plain).all()


def test_captions_of_the_regions_reach_the_model(client, graph):
    workflow = graph("upscale_krea2_captions")
    (prompts,) = [node["inputs"] for node in workflow.values() if node["class_type"] == "LoupeRegionPrompts"]
    images = []
    for prompts["use_captions"] in (True, False):
        images.append(only(run(client, workflow).saved))
    assert (images[0] != images[1]).any()

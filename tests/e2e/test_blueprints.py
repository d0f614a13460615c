"""Every blueprint is listed, opens, says what the API workflow that it is made from says, and runs."""

import json
from pathlib import Path

import numpy as np
import pytest
from loupe.headless.client import Client, find_node
from loupe.tools.blueprints import BLUEPRINTS
from loupe.tools.model_files import TRAINED
from page import declared, fits, widgets_of

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "subgraphs").glob("*.json"))
API = ROOT / "workflows" / "api"

every = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


@pytest.fixture(scope="module")
def info(server):
    return Client(server.url).get_json("/object_info")


def read(file):
    return json.loads(file.read_text(encoding="utf-8"))


def parts(file):
    """The node that the page shows, and the subgraph behind it."""
    saved = read(file)
    (node,), (subgraph,) = saved["nodes"], saved["definitions"]["subgraphs"]
    return node, subgraph


def expand(file, info, given, prefix=""):
    """Inside as an API workflow with `prefix` before its ids, what comes in at an input replaced by `given[name]`,
    and {name: link} of the outputs."""
    _, subgraph = parts(file)
    links = {link["id"]: link for link in subgraph["links"]}
    workflow = {}
    for node in subgraph["nodes"]:
        inputs = {name: value for name, value, *_ in widgets_of(node, info[node["type"]])}
        for slot in node["inputs"]:
            link = links.get(slot["link"])
            if link and link["origin_id"] != -10:
                inputs[slot["name"]] = [prefix + str(link["origin_id"]), link["origin_slot"]]
            elif link and (name := subgraph["inputs"][link["origin_slot"]]["name"]) in given:
                inputs[slot["name"]] = given[name]
        workflow[prefix + str(node["id"])] = {"class_type": node["type"], "inputs": inputs, "_meta": {"title": node.get("title", info[node["type"]]["display_name"])}}
    ends = [[prefix + str(links[out["linkIds"][0]]["origin_id"]), links[out["linkIds"][0]]["origin_slot"]] for out in subgraph["outputs"]]
    return workflow, dict(zip((out["name"] for out in subgraph["outputs"]), ends))


def test_each_entry_has_its_file():
    assert [file.stem for file in FILES] == sorted(BLUEPRINTS)


def test_names_hold_what_people_type():
    """The page searches blueprints by their names alone."""
    for name in BLUEPRINTS:
        assert "Loupe" in name and ("Upscale" in name and "Tiles" in name or "Restore" in name)


def test_captions_start_switched_off():
    """So that the blueprint runs without a captioner."""
    assert BLUEPRINTS["Upscale Image in Tiles, C-Upscale (Loupe)"].values == {"caption_regions": False}


def test_optional_sockets_are_no_widgets():
    assert all(slot not in blueprint.widgets for blueprint in BLUEPRINTS.values() for slot in blueprint.optional)


def test_the_server_lists_them(client):
    listed = client.get_json("/global_subgraphs")
    ours = {entry["name"]: key for key, entry in listed.items() if entry["info"]["node_pack"] == "custom_nodes.ComfyUI-Loupe"}
    assert set(ours) == set(BLUEPRINTS)
    for file in FILES:
        assert client.get_json(f"/global_subgraphs/{ours[file.stem]}")["data"] == file.read_text(encoding="utf-8")


@every
def test_it_is_described_once(file):
    node, subgraph = parts(file)
    assert node["type"] == subgraph["id"] and node["title"] == subgraph["name"] == file.stem
    assert subgraph["description"] == subgraph["extra"]["BlueprintDescription"]
    assert subgraph["extra"]["BlueprintSearchAliases"] and subgraph["category"]
    ids = [slot["id"] for slot in subgraph["inputs"] + subgraph["outputs"]]
    assert len(set(ids)) == len(ids)


@every
def test_nodes_and_values_are_comfyui_s(file, info):
    for node in parts(file)[1]["nodes"]:
        definition = info[node["type"]]
        assert {slot["name"]: slot["type"] for slot in node["inputs"]} == {name: kind for name, (kind, _) in declared(definition).items()}
        assert [slot["type"] for slot in node["outputs"]] == definition["output"]
        absent = {*TRAINED, *(model["name"] for model in node["properties"].get("models", []))}
        assert [name for name, value, *rest in widgets_of(node, definition) if not fits(value, *rest) and value not in absent] == []


@every
def test_links_agree_with_their_slots(file):
    _, subgraph = parts(file)
    nodes = {node["id"]: node for node in subgraph["nodes"]}
    ids = [link["id"] for link in subgraph["links"]]
    assert ids == list(range(1, len(ids) + 1)) and subgraph["state"]["lastLinkId"] == len(ids) and subgraph["state"]["lastNodeId"] == max(nodes)
    for link in subgraph["links"]:
        source = subgraph["inputs"][link["origin_slot"]] if link["origin_id"] == -10 else nodes[link["origin_id"]]["outputs"][link["origin_slot"]]
        target = subgraph["outputs"][link["target_slot"]] if link["target_id"] == -20 else nodes[link["target_id"]]["inputs"][link["target_slot"]]
        assert source["type"] == target["type"] == link["type"]
        assert link["id"] in source["linkIds" if link["origin_id"] == -10 else "links"]
        assert link["id"] in ([target["link"]] if "link" in target else target["linkIds"])
    used = [slot["link"] for node in nodes.values() for slot in node["inputs"] if slot["link"] is not None] + [link for out in subgraph["outputs"] for link in out["linkIds"]]
    given = [link for node in nodes.values() for slot in node["outputs"] for link in slot["links"]] + [link for slot in subgraph["inputs"] for link in slot["linkIds"]]
    assert sorted(used) == sorted(given) == ids


@every
def test_the_node_shows_every_input(file):
    """Sockets for what the method needs from outside, widgets for what is linked to a widget inside."""
    node, subgraph = parts(file)
    assert [(slot["name"], slot["type"]) for slot in node["inputs"]] == [(slot["name"], slot["type"]) for slot in subgraph["inputs"]]
    assert [(slot["name"], slot["type"]) for slot in node["outputs"]] == [(slot["name"], slot["type"]) for slot in subgraph["outputs"]]
    inner = {slot["link"]: slot for within in subgraph["nodes"] for slot in within["inputs"]}
    for shown, slot in zip(node["inputs"], subgraph["inputs"]):
        assert slot["linkIds"]
        assert {"widget" in shown} == {"widget" in inner[link] for link in slot["linkIds"]}


@every
def test_it_says_what_its_workflow_says(file, info):
    workflow = read(API / f"{BLUEPRINTS[file.stem].workflow}.json")
    for name, value in BLUEPRINTS[file.stem].values.items():
        title, target = BLUEPRINTS[file.stem].widgets[name]
        workflow[find_node(workflow, title=title)]["inputs"][target] = value
    sources = {name: [find_node(workflow, title=title), output] for name, (title, output) in BLUEPRINTS[file.stem].inputs.items()}
    inside, ends = expand(file, info, sources)
    for key, node in inside.items():
        assert node["class_type"] == workflow[key]["class_type"]
        assert node["inputs"].items() >= workflow[key]["inputs"].items()
        assert all(value[0] in {*inside, *(source for source, _ in sources.values())} for value in workflow[key]["inputs"].values() if isinstance(value, list))
    assert ends == {name: [find_node(workflow, title=title), output] for name, (title, output) in BLUEPRINTS[file.stem].outputs.items()}


@pytest.mark.parametrize("captions", [False, True], ids=["typed", "captions"])
def test_cupscale_runs_on_the_mini_world(client, info, likeness, captions):
    """The blueprint between nodes of the mini world, with its sizes in the widgets that it shows."""
    workflow = read(API / "cupscale.json")
    decoded = find_node(workflow, title="Decode the reference")
    given = {
        "image": [decoded, 0], "model": ["1", 0], "clip": ["1", 1], "vae": ["1", 2], "positive": ["2", 0], "negative": ["3", 0],
        "native_megapixels": 128 * 128 / 1024**2, "region_width": 128, "region_height": 0, "steps": 20, "start_at_step": 14, "cfg": 4.0,
        **({"captioner": ["1", 1], "caption_regions": True} if captions else {}),
    }
    assert set(given) <= {*BLUEPRINTS["Upscale Image in Tiles, C-Upscale (Loupe)"].inputs, *BLUEPRINTS["Upscale Image in Tiles, C-Upscale (Loupe)"].widgets}
    inside, ends = expand(ROOT / "subgraphs" / "Upscale Image in Tiles, C-Upscale (Loupe).json", info, given, "inside ")
    outside = {key: workflow[key] for key in ("1", "2", "3", "4", "5", decoded)}
    saved = {title: {"class_type": "SaveImage", "inputs": {"images": source, "filename_prefix": "blueprint"}} for title, source in (("small", [decoded, 0]), ("large", ends["image"]))}
    run = client.run({**outside, **inside, **saved})
    small, large = client.images(run, "small")[0], client.images(run, "large")[0]
    assert large.size == (2 * small.width, 2 * small.height)
    assert np.asarray(large).std() > 10 and likeness(large, small) > 0.8
    told = run.outputs.get(find_node(inside, "LoupeCaptionRegions"))
    assert [caption.endswith("on grass") for caption in json.loads(told["text"][0])] == [True] * 9 if captions else told is None


def test_clearsr_runs_on_the_mini_world(client, likeness):
    workflow = read(API / "clearsr.json")
    low = find_node(workflow, title="Add noise")
    given = {
        "image": [low, 0], "model": ["1", 0], "vae": ["1", 2], "positive": ["4", 0], "negative": ["4", 0], "clearsr": "mini_clearsr.safetensors",
        "scale_by": 1.5, "region_width": 128, "region_height": 0, "steps": 8, "cfg": 1.0,
    }
    assert set(given) <= {*BLUEPRINTS["Restore Image, ClearSR (Loupe)"].inputs, *BLUEPRINTS["Restore Image, ClearSR (Loupe)"].widgets}
    inside, ends = expand(ROOT / "subgraphs" / "Restore Image, ClearSR (Loupe).json", client.get_json("/object_info"), given, "inside ")
    outside = {key: node for key, node in workflow.items() if int(key) <= int(low) and node["class_type"] != "SaveImage"}
    saved = {title: {"class_type": "SaveImage", "inputs": {"images": source, "filename_prefix": "blueprint"}} for title, source in (("small", [low, 0]), ("large", ends["image"]))}
    run = client.run({**outside, **inside, **saved})
    small, large = client.images(run, "small")[0], client.images(run, "large")[0]
    assert large.size == (1.5 * small.width, 1.5 * small.height)
    assert np.asarray(large).std() > 10 and likeness(large, small) > 0.8


@pytest.mark.parametrize("optional", [{}, {"lsr": ["lsr", 0]}], ids=["nothing else connected", "latent SR model"])
def test_upscale_image_runs_on_the_mini_world(client, info, likeness, optional):
    workflow = read(API / "cupscale.json")
    decoded = find_node(workflow, title="Decode the reference")
    blueprint = BLUEPRINTS["Upscale Image in Tiles (Loupe)"]
    given = {"image": [decoded, 0], "model": ["1", 0], "vae": ["1", 2], "positive": ["2", 0], "negative": ["3", 0], "scale_by": 3.0, "creativity": 0.2, "preset": "fast", "cfg": 4.0, **optional}
    assert set(given) <= {*blueprint.inputs, *blueprint.widgets, *blueprint.optional}
    inside, ends = expand(ROOT / "subgraphs" / "Upscale Image in Tiles (Loupe).json", info, given, "inside ")
    outside = {key: workflow[key] for key in ("1", "2", "3", "4", "5", decoded)}
    outside["lsr"] = {"class_type": "LoupeLoadLSR", "inputs": {"model_name": "mini_lsr.safetensors"}}
    saved = {title: {"class_type": "SaveImage", "inputs": {"images": source, "filename_prefix": "blueprint"}} for title, source in (("small", [decoded, 0]), ("large", ends["image"]))}
    run = client.run({**outside, **inside, **saved})
    small, large = client.images(run, "small")[0], client.images(run, "large")[0]
    assert large.size == (3 * small.width, 3 * small.height)
    assert likeness(large, small) > 0.9

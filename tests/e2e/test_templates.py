"""Every template of the browser opens, holds the values of its API workflow, and names the files it needs."""

import json
from pathlib import Path
from urllib.parse import quote

import pytest
from loupe.dev import NEWEST
from loupe.headless.client import Client
from loupe.tools import pack
from loupe.tools.model_files import MODELS, TRAINED
from loupe.tools.shelf import SHELF
from loupe.tools.templates import is_mini
from page import SCALARS, declared, fits, unfolded, widgets_of
from PIL import Image

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
TEMPLATES = sorted(WORKFLOWS.glob("*.json"))
NOTES = {"Note", "MarkdownNote"}
NEWER = "ComfyUI has to be"

every = pytest.mark.parametrize("file", TEMPLATES, ids=lambda file: file.stem)


@pytest.fixture(scope="module")
def info(server):
    return Client(server.url).get_json("/object_info")


@pytest.fixture
def template(file):
    return json.loads(file.read_text(encoding="utf-8"))


def api(name):
    return json.loads((WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture
def workflow(file):
    """The API workflow that the template is made from."""
    (name,) = [name for name, shown in SHELF.items() if shown.title == file.stem]
    return api(name)


@pytest.fixture
def known(info, template):
    """Skips where this ComfyUI is too old for the template, which then says so; inputs of nodes may be newer still."""
    lacks = lacking(info, template)
    if lacks:
        (note,) = [node["widgets_values"][0] for node in template["nodes"] if node["type"] in NOTES]
        assert NEWER in note or all("." in name for name in lacks)
        pytest.skip(f"needs a newer ComfyUI: {', '.join(lacks)}")


def lacking(info, template):
    """What this ComfyUI has not: nodes, inputs of nodes, kinds of text encoder."""
    nodes = [node for node in nodes_of(template) if not node["type"].startswith("Loupe")]
    inputs = {node["type"]: {slot["name"] for slot in node["inputs"]} - set(declared(info[node["type"]])) for node in nodes if node["type"] in info}
    kinds = {node["widgets_values"][1] for node in nodes if node["type"] == "CLIPLoader"}
    return [
        *sorted({node["type"] for node in nodes} - set(info)),
        *(f"{node}.{name}" for node, names in inputs.items() for name in sorted(names)),
        *sorted(kinds - set(declared(info["CLIPLoader"])["type"][1]["options"])),
    ]


def test_the_shelf_is_what_the_browser_shows():
    titles = sorted(shown.title for shown in SHELF.values())
    assert [file.stem for file in TEMPLATES] == titles == sorted(file.stem for file in WORKFLOWS.glob("*.jpg"))


def test_the_shelf_is_short_and_the_mini_world_last():
    mini = [is_mini(api(name)) for name in SHELF]
    assert len(mini) <= 24 and sum(mini) <= 5
    assert mini == sorted(mini)
    assert mini == [shown.title.endswith("(mini world)") for shown in SHELF.values()]


def test_the_newest_comfyui_lacks_nothing(info, comfyui):
    if comfyui.name == NEWEST:
        assert {file.stem: lacks for file in TEMPLATES if (lacks := lacking(info, json.loads(file.read_text(encoding="utf-8"))))} == {}


def nodes_of(template):
    """All, those behind another too."""
    return [node for node in unfolded(template)[0] if node["type"] not in NOTES]


def optional_values(definition):
    """What the page has in optional widgets that an API workflow leaves out; a list without a default starts at its first."""
    optional = definition["input"].get("optional", {})
    return {name: options["default"] if "default" in options else options["options"][0] for name, (kind, options) in declared(definition).items() if name in optional and kind in ("COMBO", *SCALARS) and not options.get("forceInput")}


@every
@pytest.mark.usefixtures("known")
def test_widget_values_are_the_right_ones(info, template):
    wrong = []
    for node in nodes_of(template):
        assert node["type"] in info
        absent = {*TRAINED, *(model["name"] for model in node["properties"].get("models", []))}
        values = widgets_of(node, info[node["type"]])
        wrong += [f"{node['type']}.{name} = {value!r}" for name, value, *rest in values if not fits(value, *rest) and value not in absent]
    assert wrong == []


@every
@pytest.mark.usefixtures("known")
def test_slots_are_comfyui_s(info, comfyui, template):
    """Older versions of a node may have fewer outputs."""
    for node in nodes_of(template):
        definition = info[node["type"]]
        inputs = declared(definition)
        assert {slot["name"] for slot in node["inputs"]} == set(inputs)
        for slot in node["inputs"]:
            assert slot["type"] == inputs[slot["name"]][0]
        outputs = [slot["type"] for slot in node["outputs"]]
        assert (outputs if comfyui.name == NEWEST else outputs[: len(definition["output"])]) == definition["output"]


@every
def test_links_agree_with_their_slots(template):
    nodes = {node["id"]: node for node in template["nodes"]}
    links = {link[0]: link for link in template["links"]}
    assert len(links) == len(template["links"])
    for number, source, output, target, place, kind in links.values():
        assert number in nodes[source]["outputs"][output]["links"]
        assert nodes[target]["inputs"][place]["link"] == number
        assert nodes[source]["outputs"][output]["type"] == nodes[target]["inputs"][place]["type"] == kind
    used = [slot["link"] for node in nodes.values() for slot in node["inputs"] if slot["link"] is not None]
    given = [link for node in nodes.values() for slot in node["outputs"] for link in slot["links"]]
    assert sorted(used) == sorted(given) == sorted(links)
    assert template["last_node_id"] == max(nodes) and template["last_link_id"] == max(links)


@every
@pytest.mark.usefixtures("known")
def test_says_what_its_api_workflow_says(info, template, workflow):
    meant = {key: {**node, "inputs": {**optional_values(info[node["class_type"]]), **node["inputs"]}} for key, node in workflow.items()}
    said, (_, sources) = {}, unfolded(template)
    for node in nodes_of(template):
        inputs = {name: value for name, value, *_ in widgets_of(node, info[node["type"]])}
        for place, slot in enumerate(node["inputs"]):
            if (source := sources.get((node["id"], place))) is not None:
                inputs[slot["name"]] = [str(source[0]), source[1]]
        title = node.get("title", info[node["type"]]["display_name"])
        said[str(node["id"])] = {"inputs": inputs, "class_type": node["type"], "_meta": {"title": title}}
    compared = [said.pop(key)["inputs"] for key, node in list(said.items()) if node["class_type"] == "ImageCompare"]
    assert said == meant
    loads, saves = ([key for key, node in meant.items() if node["class_type"] == kind] for kind in ("LoadImage", "SaveImage"))
    assert compared == [{"image_a": [load, 0], "image_b": meant[saves[0]]["inputs"]["images"]} for load in loads]


@every
def test_a_template_for_an_image_is_one_node_beside_it(template, workflow):
    """Which shows the words, files and numbers that a user changes."""
    if not any(node["class_type"] == "LoadImage" for node in workflow.values()):
        assert "definitions" not in template
        return
    assert [node["type"] for node in template["nodes"] if "-" not in node["type"]] == ["LoadImage", "SaveImage", "ImageCompare", "MarkdownNote"]
    (fold,) = template["definitions"]["subgraphs"]
    (node,) = [node for node in template["nodes"] if node["type"] == fold["id"]]
    shown = [slot["name"] for slot in node["inputs"] if "widget" in slot]
    assert {"seed"} < set(shown)
    behind = {link["id"]: link for link in fold["links"]}
    targets = [next(inner for inner in fold["nodes"] if inner["id"] == behind[slot["linkIds"][0]]["target_id"]) for slot in fold["inputs"]]
    files = {value for inner in fold["nodes"] for value in inner["widgets_values_named"].values() if value in (*MODELS, *TRAINED)}
    values = {value for inner in targets for value in inner["widgets_values_named"].values()}
    assert files <= values


@every
def test_it_tells_where_it_was_made(template):
    """As ComfyUI's own templates do: an id of its own, the page's version, each node's pack and its version."""
    ids = [json.loads(file.read_text(encoding="utf-8"))["id"] for file in TEMPLATES]
    assert len(set(ids)) == len(ids) and template["id"] in ids
    assert template["extra"]["frontendVersion"]
    for node in nodes_of(template):
        made = node["properties"]["cnr_id"], node["properties"]["ver"]
        assert made == (("loupe", pack.declared("version")) if node["type"].startswith("Loupe") else ("comfy-core", NEWEST))


@every
def test_the_title_warns_of_a_file_that_none_can_download(file, template):
    trained = [value for node in nodes_of(template) for value in node["widgets_values"] if value in TRAINED]
    assert ("needs a file you train" in file.stem) == bool(trained)


@every
def test_the_note_says_how_long_it_takes_where_that_is_known(template, workflow):
    (note,) = [node["widgets_values"][0] for node in template["nodes"] if node["type"] in NOTES]
    assert ("seconds on one core" in note) == is_mini(workflow)


@every
def test_files_to_download_or_train_are_named(template):
    for node in nodes_of(template):
        files = [value for value in node["widgets_values"] if isinstance(value, str) and value.endswith((".safetensors", ".pth", ".ckpt"))]
        named = {model["name"]: model for model in node["properties"].get("models", [])}
        (note,) = [other["widgets_values"][0] for other in template["nodes"] if other["type"] in NOTES]
        assert [name for name in files if name in TRAINED and not (name in note and TRAINED[name] in note)] == []
        missing = [name for name in files if name not in named and name not in TRAINED and not (WORKFLOWS.parent / "models" / "mini" / name).exists()]
        assert missing == []
        for model in named.values():
            assert model["name"] in files
            assert model["url"].startswith("https://") and model["url"].endswith(model["name"])
            assert model["directory"]
            assert model["url"] in note


@every
def test_nothing_overlaps(template):
    boxes = [(node["pos"][0], node["pos"][1] - 30, node["pos"][0] + node["size"][0], node["pos"][1] + node["size"][1]) for node in template["nodes"]]
    groups = [(x, y, x + width, y + height) for x, y, width, height in (group["bounding"] for group in template["groups"])]
    for some in (boxes, groups):
        for number, a in enumerate(some):
            for b in some[:number]:
                assert a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] or b[1] >= a[3]
    homes = [sum(g[0] <= b[0] and g[1] <= b[1] and g[2] >= b[2] and g[3] >= b[3] for g in groups) for b in boxes]
    noted = [node["type"] in NOTES for node in template["nodes"]]
    assert sum(noted) == 1
    assert [home == (0 if note or not groups else 1) for home, note in zip(homes, noted)] == [True] * len(homes)


@every
def test_browser_gets_template_and_thumbnail(client, file, tmp_path):
    (folder,) = [name for name, stems in client.get_json("/workflow_templates").items() if file.stem in stems]
    at = f"/api/workflow_templates/{folder}/{quote(file.stem)}"
    assert client.get(f"{at}.json") == file.read_bytes()
    (tmp_path / "thumbnail.jpg").write_bytes(client.get(f"{at}.jpg"))
    with Image.open(tmp_path / "thumbnail.jpg") as image:
        assert image.format == "JPEG" and 200 <= image.width <= 400

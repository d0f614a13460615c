"""The graphs, the numbers and the page of a report, without a server."""

import json

import pytest
from loupe.headless.client import find_node
from loupe.headless.jobs import UsageError
from loupe.headless.report import (
    checks,
    choice,
    command,
    facts,
    graphs,
    images,
    schedule,
)
from loupe.headless.report.page import page
from PIL import Image

TEMPLATES = choice.templates()
DEFINITION = {  # as /object_info has it
    "input": {
        "required": {
            "upscaled_image": ["IMAGE", {}], "model": ["MODEL"], "denoise": ["FLOAT", {"default": 0.2}], "mode_type": [["Linear", "Chess"], {}],
            "seam_fix_mode": ["COMBO", {"options": ["None", "Band Pass"]}], "tile_padding": ["INT", {"default": 32, "min": 0, "max": 64}],
        },
        "optional": {"custom_sampler": ["SAMPLER"]},
    }
}


def classes(graph):
    return [node["class_type"] for node in graph.values()]


def assert_whole(graph):
    """Every link leads to a node, and every node to the result."""
    assert all(source in graph for node in graph.values() for source in graphs.sources(node))
    assert graphs.kept(graph, graphs.RESULT) == graph


def test_every_graph_with_one_dial_is_a_template():
    assert next(iter(TEMPLATES)) == choice.FIRST
    assert {name for name in TEMPLATES if name.startswith("upscale_")} == set(TEMPLATES)
    assert len(TEMPLATES) >= 10


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_template_takes_an_image_from_outside(name):
    graph = graphs.loupe(TEMPLATES[name])
    assert_whole(graph)
    assert classes(graph).count("LoadImage") == 1 and "SaveImage" not in classes(graph) and "KSampler" not in classes(graph)
    assert graph[find_node(graph, graphs.ENLARGE)]["inputs"]["image"] == [graphs.FRESH, 0]
    assert [node_id for node_id, node in graph.items() if graphs.IMAGE in graphs.sources(node)] == [graphs.FRESH]
    unchanged = set(TEMPLATES[name]) & set(graph)
    assert all(graph[node_id]["class_type"] == TEMPLATES[name][node_id]["class_type"] for node_id in unchanged)


@pytest.mark.parametrize("name", TEMPLATES)
def test_core_has_no_node_of_loupe_on_model_and_prompts(name):
    graph = graphs.loupe(TEMPLATES[name])
    before = json.dumps(graph)
    core = graphs.core(graph, 8, 0.4)
    assert json.dumps(graph) == before
    assert_whole(core)
    ours = {node["class_type"] for node in core.values() if node["class_type"].startswith("Loupe")}
    assert ours <= {graphs.ENLARGE, "LoupeOptionalControlNet", "LoupeLoadMini"}
    sampler, its = (one[find_node(one, graphs.SAMPLER)]["inputs"] for one in (graph, core))
    creativity = graph[find_node(graph, graphs.CREATIVITY)]["inputs"]
    assert its["model"] == creativity["model"]
    assert core[its["sigmas"][0]] == {"class_type": "BasicScheduler", "inputs": {"model": creativity["model"], "scheduler": creativity["scheduler"], "steps": 8, "denoise": 0.4}}
    assert {key: its[key] for key in ("latent_image", "cfg", "noise_seed", "sampler")} == {key: sampler[key] for key in ("latent_image", "cfg", "noise_seed", "sampler")}


def test_core_has_the_prompt_of_the_whole_image():
    graph = graphs.core(graphs.loupe(TEMPLATES["upscale_krea2_captions"]), 8, 0.4)
    positive = graph[find_node(graph, graphs.SAMPLER)]["inputs"]["positive"]
    assert graph[positive[0]]["class_type"] == "CLIPTextEncode"


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_tiled_upscaler_has_its_defaults(name):
    graph = graphs.loupe(TEMPLATES[name])
    tiled = graphs.tiled(graph, DEFINITION, 12, (1024, 768))
    assert_whole(tiled)
    sampling, inputs = graph[find_node(graph, graphs.SAMPLER)]["inputs"], tiled[graphs.TILED]["inputs"]
    assert (inputs["steps"], inputs["denoise"], inputs["tile_width"], inputs["tile_height"]) == (12, 0.35, 1024, 768)
    assert (inputs["mode_type"], inputs["seam_fix_mode"], inputs["tile_padding"]) == ("Linear", "None", 32)
    assert inputs["upscaled_image"] == [find_node(graph, graphs.ENLARGE), graphs.LARGE] and inputs["cfg"] == sampling["cfg"]
    assert inputs["sampler_name"] == graph[find_node(graph, "KSamplerSelect")]["inputs"]["sampler_name"]
    assert not {graphs.SAMPLER, "BasicScheduler", "LoupeRegionalDenoise"} & set(classes(tiled))


def test_a_run_changes_seed_image_and_number_only():
    graph = graphs.loupe(TEMPLATES["upscale_sdxl"])
    one, other = (graphs.fresh(graph, "a.png", seed, seed) for seed in (3, 4))
    changed = {(node_id, name) for node_id, node in one.items() for name, value in node["inputs"].items() if other[node_id]["inputs"][name] != value}
    assert changed == {(graphs.FRESH, "length"), (find_node(graph, graphs.SAMPLER), "noise_seed")}
    assert one[graphs.IMAGE]["inputs"]["image"] == "a.png"
    tiled = graphs.fresh(graphs.tiled(graph, DEFINITION, 1, (64, 64)), "a.png", 5, 1)
    assert tiled[graphs.TILED]["inputs"]["seed"] == 5


def test_noise_levels_in_words():
    assert schedule.noise_levels("tensor([1.4614e+01, 0.5000,\n        0.0000])") == [14.614, 0.5, 0.0]
    assert schedule.noise_levels("tensor([])") == []


def test_denoise_starts_at_the_same_noise():
    assert schedule.nearest_denoise(0.52, {0.3: 0.4, 0.35: 0.5, 0.4: 0.6}) == 0.35
    assert schedule.nearest_denoise(0.5, {0.4: 0.5, 0.35: 0.5, 0.3: 0.0}) == 0.35


def fitted(start, target, time):
    """The (steps, seconds) that fitting tries for a run that takes `time(steps)`."""
    measured, steps = [], start
    while steps is not None:
        measured.append((steps, time(steps)))
        steps = schedule.next_steps(measured, target)
    return measured


@pytest.mark.parametrize(
    "time, target, tried",
    [
        (lambda steps: 2 * steps, 40, [20]),
        (lambda steps: steps, 40, [20, 40]),
        (lambda steps: 10 + steps, 60, [20, 40, 50]),
        (lambda steps: 100, 10, [20, 2]),
        (lambda steps: 50 + steps, 10, [20, 3, 1]),
    ],
)
def test_steps_come_near_equal_time(time, target, tried):
    assert [steps for steps, _ in fitted(20, target, time)] == tried


INFO = {
    "CheckpointLoaderSimple": {"input": {"required": {"ckpt_name": [["a.safetensors", "b.safetensors"], {}]}}},
    "Draw": {"input": {"required": {"steps": ["INT", {"min": 1, "max": 100}], "name": ["COMBO", {"options": ["euler"]}], "model": ["MODEL"]}, "optional": {"cfg": ["FLOAT", {"max": 9.0}]}}},
}


def test_values_that_the_server_does_not_take():
    graph = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "c.safetensors"}, "_meta": {"title": "Load Checkpoint"}},
        "2": {"class_type": "Draw", "inputs": {"steps": 0, "cfg": 12.0, "name": "euler", "model": ["1", 0]}},
    }
    with pytest.raises(UsageError) as told:
        checks.check(graph, INFO)
    lines = str(told.value).splitlines()
    assert lines[0] == "Load Checkpoint.ckpt_name is 'c.safetensors', which the server does not list. It lists: a.safetensors, b.safetensors. Choose with --set \"Load Checkpoint.ckpt_name=…\""
    assert lines[1].startswith("Draw.steps is 0; expected 1 to 100") and lines[2].startswith("Draw.cfg is 12.0; expected")
    graph["2"]["class_type"] = "Nowhere"
    with pytest.raises(UsageError, match="the server has no node Nowhere"):
        checks.check(graph, INFO)


def test_a_long_list_begins_with_what_is_alike():
    told = checks.listed([f"{number}.safetensors" for number in range(100)] + ["Juggernaut_XL.safetensors"], "juggernautXL.safetensors")
    assert told.startswith("Juggernaut_XL.safetensors, ") and told.endswith(" and 71 more")
    assert checks.listed([], "x").startswith("none; put the file")


def info_with(files):
    """/object_info of a server that has every node, and of the files of models these."""
    info = {}
    for node in (node for workflow in TEMPLATES.values() for node in graphs.loupe(workflow).values()):
        inputs = info.setdefault(node["class_type"], {"input": {"required": {}}})["input"]["required"]
        for name, value in node["inputs"].items():
            inputs[name] = [files, {}] if facts.model_files({name: value}) else ["ANY", {}]
    return info


def chosen(*arguments, files):
    return choice.chosen(command.parse(["--image", "a.png", *arguments]), info_with(files))


def test_the_template_whose_files_are_there_is_taken():
    klein = facts.model_files(facts.settings(TEMPLATES["upscale_flux2_klein"]))
    assert chosen(files=klein)[0] == "upscale_flux2_klein"
    name, graph = chosen("--set", "Enlarge Image.scale_by=4", files=[*klein, "sd_xl_base_1.0.safetensors"])
    assert name == choice.FIRST and graph[find_node(graph, graphs.ENLARGE)]["inputs"]["scale_by"] == 4
    with pytest.raises(UsageError, match="--checkpoint NAME for SDXL(.|\n)*upscale_flux2_klein: Load CLIP.clip_name is 'qwen_3_4b.safetensors'\n"):
        chosen(files=[file for file in klein if "qwen" not in file])


def test_a_checkpoint_means_sdxl():
    name, graph = chosen("--checkpoint", "mine.safetensors", files=["mine.safetensors"])
    assert name == "upscale_sdxl" and facts.model_files(facts.settings(graph)) == ["mine.safetensors"]


def test_an_image_is_shrunk_and_loses_its_metadata(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned
    Image.new("RGBA", (300, 200)).save(tmp_path / "a.png", exif=exif)
    image, size = images.read(tmp_path / "a.png", 150)
    assert (image.size, size, image.mode) == ((100, 150), (200, 300), "RGB") and not image.info
    Image.new("RGB", (32, 100)).save(tmp_path / "b.png")
    with pytest.raises(UsageError, match="has 32 x 100 pixels; expected at least 64"):
        images.read(tmp_path / "b.png", 150)


def test_the_crop_is_where_most_is_to_see():
    image = Image.new("RGB", (1600, 900), "white")
    for x in range(1300, 1500, 4):
        image.paste("black", (x, 700, x + 2, 880))
    left, top, right, bottom = images.busiest(image)
    assert (right - left, bottom - top) == (512, 512) and left <= 1300 and right >= 1500 and bottom == 900
    assert images.busiest(Image.new("RGB", (100, 80))) == (0, 0, 100, 80)


def test_what_is_told_names_no_folder():
    graph = {"1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "of jane\\x/a.safetensors"}, "_meta": {"title": "Load"}}, graphs.IMAGE: {"class_type": "LoadImage", "inputs": {"image": "x"}}}
    told = facts.settings(graph)
    assert told == {"Load.ckpt_name": "a.safetensors"} and facts.model_files(told) == ["a.safetensors"]
    assert facts.without_paths("No such file: '/home/jane/models/a.pt' or C:\\Users\\jane\\b.pt at 1/2") == "No such file: '…/a.pt' or …/b.pt at 1/2"


WAY = {"name": "Loupe", "steps": 8, "denoise": 0.4, "seconds": 12.34, "runs": [12.34], "rows": 1440, "row": (1024, 1024), "counted": "counted by Loupe", "memory": 3 * 2**30, "error": None}
REPORT = {
    "format": command.FORMAT, "workflow": "upscale_sdxl", "model files": ["<a>.safetensors"], "image": {"given": (64, 64), "used": (64, 64), "result": (128, 128)},
    "ways": [WAY, {**WAY, "name": "ComfyUI, whole canvas", "seconds": None, "runs": [], "rows": None, "row": None, "memory": None, "error": "Draw: <script>"}],
    "left out": {"Ultimate SD Upscale": "there is none"}, "software": {"Loupe": "0.1.0"}, "device": {"name": "GPU & more", "memory": 8 * 2**30, "in use before": 0},
    "packs": ["ComfyUI-Loupe"], "settings": {"What the image shows.text": "\"><img src=x onerror=alert(1)>"},
}


def test_the_page_holds_all_and_asks_for_nothing():
    shown = [("Lanczos", Image.new("RGB", (128, 128))), ("Loupe", Image.new("RGB", (128, 128)))]
    html = page(REPORT, shown, (0, 0, 64, 64))
    assert html.count("data:image/jpeg;base64,") == 4 and "http" not in html.replace("http-equiv", "") and "<script" not in html and "<img src=x" not in html
    for part in ("&lt;a&gt;.safetensors", "GPU &amp; more", "&lt;script&gt;", "1,440 (counted by Loupe)", "3.00 GiB", "not sampled", "No tiled upscaler at equal time: there is none."):
        assert part in html
    tiled = {**WAY, "name": "Ultimate SD Upscale", "seconds": 12.0, "steps": 9}
    html = page({**REPORT, "ways": [WAY, tiled], "left out": {}}, shown, (0, 0, 64, 64))
    assert "Near equal time: Loupe 12.3 s, Ultimate SD Upscale 12.0 s in 9 steps." in html


def test_a_report_is_there_whole_or_not_at_all(tmp_path):
    with command.new_folder(tmp_path / "out") as part:
        (part / "report.html").touch()
        assert not (tmp_path / "out").exists()
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["report.html"]
    with pytest.raises(KeyboardInterrupt), command.new_folder(tmp_path / "broken") as part:
        (part / "report.html").touch()
        raise KeyboardInterrupt
    with pytest.raises(UsageError, match="exists already"), command.new_folder(tmp_path / "out"):
        pass
    with pytest.raises(UsageError, match="Name a folder in one that you may write to"), command.new_folder(tmp_path / "no" / "out"):
        pass
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_options_that_are_too_small(capsys):
    for option in (("--runs", "1"), ("--longest", "8")):
        with pytest.raises(SystemExit):
            command.parse(["--image", "a.png", *option])
        assert f"{option[0]} is {option[1]}; expected" in capsys.readouterr().err

"""What the server tells the page: curves, layouts, prompts, and the progress of a run in words."""

import json
import re
from pathlib import Path

import pytest
from loupe.headless.client import Refused, find_node, node_title
from loupe.tools import demo

ROOT = Path(__file__).resolve().parents[2]


def ask(client, path, **values):
    return client.get_json(f"/loupe/{path}", values=json.dumps(values))


def post(client, **values):
    return json.loads(client.post_json("/loupe/prompts", values))


def test_curves_take_defaults_for_what_is_not_given(client):
    plot = ask(client, "curves/LoupePixelSmithSampler", guided_steps=3, steps=5, strength=0.83, scheduler="ddim (paper)")
    assert plot["timesteps"] == [665, 499, 333, 167, 1]
    assert plot["curves"]["cells from the guide"] == [0.5, 0.5, 0, 0, 0]
    assert len(plot["default"]["timesteps"]) == 8
    plain = ask(client, "curves/LoupeStructurePrior")
    assert plain["curves"] == plain["default"]["curves"]
    assert plain["widgets"] == ["weight", "schedule", "mode", "clamp", "compare"]


@pytest.mark.parametrize("values, reason", [
    ({"steps": "x"}, "steps is 'x'; expected int."),
    ({"steps": True}, "steps is True; expected int."),
    ({"steps": 10**9}, "expected 1 to 1000"),
    ({"scheduler": "none"}, "scheduler is 'none'; expected one of"),
    ({"skip_exponent": float("nan")}, "expected 0.0 to 100.0"),
])
def test_curves_refuse_what_a_widget_cannot_hold(client, values, reason):
    assert reason in ask(client, "curves/LoupeDemoFusionSampler", **values)["error"]


def test_curves_are_at_the_levels_of_a_run(client):
    def answer(path, **values):
        return json.loads(client.post_json(f"/loupe/curves/{path}", values))

    run = {"timesteps": [999.0, 900.5, 700.25, 0.0], "table": None}
    plot = answer("LoupePixelSmithSampler", run=run)
    assert plot["timesteps"] == plot["default"]["timesteps"] == run["timesteps"][:-1]
    assert plot["of_run"] and plot["schedule"]
    assert not answer("LoupePixelSmithSampler")["of_run"]
    assert answer("LoupeStructurePrior", run=run)["schedule"] == []
    assert "timesteps is None" in answer("LoupeStructurePrior", run={})["error"]


def test_unknown_nodes_have_no_curve(client):
    assert "KSampler has no plot" in ask(client, "curves/KSampler")["error"]


def test_regions_are_the_nodes(client):
    layout = ask(client, "regions", height=20, width=33, region_width=128, region_height=128, overlap=0.5, blend="uniform")
    assert (layout["canvas"], layout["region"], layout["overlap"]) == ([160, 264], [128, 128], [64, 64])
    assert layout["regions"] == [[y, x, 128, 128] for y in (0, 32) for x in (0, 64, 128, 136)]
    assert (layout["rows"], layout["columns"]) == (2, 4)


def test_regions_are_those_of_a_model_s_latents(client):
    of_16 = ask(client, "regions", height=80, width=100, grid=[16, 1, 1024])
    assert (of_16["canvas"], of_16["region"], of_16["regions"][-1]) == ([1280, 1600], [1024, 1024], [256, 576, 1024, 1024])
    pixels = ask(client, "regions", height=200, width=200, region_width=72, region_height=128, overlap=0.5, grid=[1, 16, 1024])
    assert (pixels["canvas"], pixels["region"], pixels["overlap"]) == ([200, 200], [128, 64], [64, 32])
    assert "region_height is 0, the model's native side" in ask(client, "regions", height=80, width=100)["error"]
    for grid in (7, [8, 1, 1024, 1], [0], ["x"], [8, None]):
        assert "error" in ask(client, "regions", height=80, width=100, grid=grid)


def test_endless_layouts_are_only_counted(client):
    layout = ask(client, "regions", height=8192, width=8192, region_width=64, region_height=64, overlap=0.95)
    assert (layout["rows"] * layout["columns"], layout["regions"]) == (8185**2, [])
    assert "height is None" in ask(client, "regions", width=4)["error"]


def test_prompts_keep_their_form(client):
    assert post(client, text="", count=3, number=2, prompt=" a\nb ") == {"text": "\na b\n", "prompts": ["", "a b", ""]}
    assert post(client, text="a\nb", count=2)["prompts"] == ["a", "b"]
    assert "prompts has 1 lines" in post(client, text="a", count=2)["error"]
    assert "values is []" in json.loads(client.post_json("/loupe/prompts", []))["error"]


def test_the_demo_names_the_words_that_its_world_does_not_know(client, capsys):
    demo.warn_of_words(client, "a red car center, on snow")
    out, err = capsys.readouterr()
    assert not out and err.startswith("demo: The mini world does not know car, snow ") and "grounds: grass" in err
    for prompt in ("", "red star top left, on grass"):
        demo.warn_of_words(client, prompt)
    assert capsys.readouterr().err == ""
    assert "prompt is None" in json.loads(client.post_json("/loupe/words", {}))["error"]


def test_a_run_is_told_in_words(client, lsrna_workflow):
    sampler = lsrna_workflow[find_node(lsrna_workflow, "LoupeDemoFusionSampler")]["inputs"]
    sampler.update(seed=77, regions_per_call=1, steps=6, strength=0.6)
    node = find_node(lsrna_workflow, "LoupeDemoFusionSampler")
    told = []
    client.run(lsrna_workflow, watch=lambda kind, data: told.append(data) if kind == "loupe.progress" else None)
    told = [data for data in told if data["node"] == node]
    words = re.compile(r"step (\d+) of 6 · view (\d+) of 13(?: · [\d.]+ views/s · \d+:\d\d left)?$")
    first, *rest, last = told
    assert first["text"] == "step 1 of 6 · view 1 of 13"
    assert last["text"].startswith("78 views in ") and last["regions"] == []
    steps = [int(words.match(data["text"])[1]) for data in rest]
    assert steps == sorted(steps) and set(steps) <= set(range(1, 7))
    assert any("left" in data["text"] for data in rest)
    for data in told[:-1]:
        assert data["canvas"] == [32, 32]
        part = int(words.match(data["text"])[2])
        assert len(data["regions"]) == (part <= 9)  # the four dilated copies lie nowhere in particular
        for y, x, height, width in data["regions"]:
            assert (height, width) == (16, 16) and -2 <= y <= 18 and -2 <= x <= 18


def test_what_widgets_decide_is_refused_at_its_node(client):
    workflow = json.loads((ROOT / "workflows" / "api" / "lsrna_demofusion_patches.json").read_text(encoding="utf-8"))
    noise = find_node(workflow, "LoupeRegionNoise")
    workflow[noise]["inputs"].update(noise_flat=2.0, noise_edges=1.2)
    with pytest.raises(Refused, match=f"{re.escape(node_title(workflow, noise))}: Custom validation failed for node: noise_flat - noise_flat is 2.0 and noise_edges 1.2"):
        client.run(workflow)

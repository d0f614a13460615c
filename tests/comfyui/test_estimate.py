import json
import re
from pathlib import Path

import comfy.sample
import folder_paths
import pytest
import tiny
import torch
from comfy.patcher_extension import WrappersMP
from loupe.engine.attention import output_bytes
from loupe.engine.estimate import layout, measure, plan, works
from loupe.engine.evaluation import parts_of, with_parts
from loupe.engine.views import Canvas
from loupe.engine.work import rows
from loupe.nodes.demofusion import DemoFusionSampler
from loupe.nodes.estimate import PlanNode
from loupe.patches.attention_prior import AttentionPrior
from loupe.patches.demofusion_sampler import patch_demofusion
from loupe.patches.regional_denoise import RegionalDenoise

ROOT = Path(__file__).resolve().parents[2]
SHAPE = torch.Size((2, 4, 16, 20))


@pytest.fixture(scope="module")
def sdxl():
    return tiny.sdxl()


def regional(model, **settings):
    return with_parts(model, RegionalDenoise((8, 8), **settings))


PATCHES = {
    "none": lambda model: model,
    "regions": regional,
    "moving regions": lambda model: regional(model, jitter=True),
    "DemoFusion": lambda model, **settings: patch_demofusion(regional(model, **settings), tiny.noise((1, 4, 8, 10))),
    "dilation only": lambda model: patch_demofusion(model, tiny.noise((1, 4, 8, 10))),
    "one region": lambda model: patch_demofusion(with_parts(model, RegionalDenoise()), tiny.noise((1, 4, 16, 20))),
    "attention prior": lambda model, **settings: with_parts(regional(model, **settings), AttentionPrior(tiny.noise((1, 4, 6, 10)))),
    "idle attention prior": lambda model: with_parts(regional(model), AttentionPrior(tiny.noise((1, 4, 6, 10)), 0.0, 0.0)),
}


@pytest.mark.parametrize("name", PATCHES)
@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_the_plan_counts_what_the_run_does(name, cfg, sdxl):
    model, seen = PATCHES[name](sdxl), []

    def watch(executor, x, *args, **kwargs):
        seen.append((*x.shape[-2:], len(x)))
        return executor(x, *args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "watch", watch)
    tiny.sample(model, torch.zeros(SHAPE), steps=2, cfg=cfg)
    found = works(model, *SHAPE[-2:], 2)
    assert rows(found, 1 if cfg == 1.0 else 2, SHAPE[0]) == sum(rows for *_, rows in seen)
    assert {(work.height, work.width) for work in found} == {tuple(size) for *size, _ in seen}


def test_memory(sdxl, monkeypatch):
    model = PATCHES["attention prior"](sdxl)
    found = works(model, *SHAPE[-2:], 3)
    kept = output_bytes(sdxl.model, 6, 10, element_size=4)
    assert [work.kept for work in found] == [0, kept]
    planned = plan(PATCHES["attention prior"](sdxl, regions_per_call=3), SHAPE, found, 2)
    one = model.model.memory_required([4, 4, 8, 8])
    assert planned.network == int(3 * one)
    assert planned.weights == sdxl.model_size()
    assert planned.canvas == 2 * 4 * 16 * 20 * 4 * 7 + 2 * kept
    for free, at_once in ((0, 1), (4.5 * one, 3), (1e12, 12)):
        monkeypatch.setattr(model, "get_free_memory", lambda device, free=free: free + model.model_size() - model.loaded_size())
        assert plan(model, SHAPE, works(model, *SHAPE[-2:], 3), 2).at_once == at_once


def test_values_are_kept_as_the_network_computes_them():
    model = tiny.sdxl()
    model.model.diffusion_model.dtype, model.model.manual_cast_dtype = torch.float8_e4m3fn, torch.bfloat16
    found = works(PATCHES["attention prior"](model), 16, 20, 5)
    assert found[-1].kept == output_bytes(model.model, 6, 10, element_size=2)


def test_time_is_measured_on_the_bare_network(sdxl):
    model, calls = PATCHES["DemoFusion"](sdxl, regions_per_call=3), []

    def watch(executor, x, *args, **kwargs):
        calls.append(tuple(x.shape))
        return executor(x, *args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "watch", watch)
    planned = plan(model, SHAPE, works(model, *SHAPE[-2:], 100), 2)
    seconds = measure(model, planned, tiny.conditioning(1))
    # two branches of three regions of two images, of both kinds
    assert set(calls) == {(12, 4, 8, 8), (12, 4, 8, 10)}
    assert seconds > 0.01
    assert "regions" in parts_of(model)


def node(model, **inputs):
    return PlanNode.execute(model, **{"samples": {"samples": torch.zeros(SHAPE)}, "steps": 10, "cfg": 4.0, "evaluations_per_step": 2, "measure_time": False, **inputs})


def test_the_node_says_it_in_words_and_shows_the_regions(sdxl, tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))
    out = node(PATCHES["DemoFusion"](sdxl))
    text, image = out.result
    assert "Canvas: 20 x 16 latent cells, 160 x 128 pixels, 2 images" in text
    assert "Regions: 12 of 64 x 64 pixels, every 32 x 32" in text
    assert "regions: 960 rows of 64 x 64 pixels\n" in text
    assert "dilated views: 320 rows of 80 x 64 pixels\n" in text
    assert "Network rows: 1,280 with 2 guidance branches (equal to 1,360 regions)\n" in text
    assert "Time" not in text
    assert image.shape[0] == 1
    assert image.shape[-1] == 3
    assert out.ui["text"] == (text,)
    assert len(out.ui["images"]) == 1
    assert re.search(r"attention prior: 20 rows of 80 x 48 pixels, keeps 0.00 GiB during each evaluation", node(PATCHES["attention prior"](sdxl), evaluations_per_step=1).result[0])
    timed = node(regional(sdxl), measure_time=True, positive=tiny.conditioning(1)).result[0]
    assert re.search(r"Time: about \d+ (s|min)$", timed)
    assert "Regions: 1 of 160 x 128 pixels" in node(sdxl).result[0]


def test_it_tells_what_the_samplers_presets_cost(sdxl):
    """At 4096 x 4096, as the sampler's own run would count."""
    text = node(sdxl, samples={"samples": torch.zeros(1, 4, 512, 512)}).result[0]
    (line,) = [line for line in text.splitlines() if line.startswith("Presets of DemoFusion Sampler")]
    told = {name.strip(): int(rows.replace(",", "")) for name, rows in re.findall(r"([\w ]+?) ([\d,]+)(?=,| rows)", line.split(": ")[1])}
    assert told["LSRNA paper"] == 3900 and told["DemoFusion paper"] == 50 * 2 * (9 + 4 + 25 + 9 + 49 + 16)
    assert told["fast"] < told["balanced"] < told["LSRNA paper"]
    assert re.search(r"Presets of PixelSmith Sampler at this size: balanced [\d,]+, fast [\d,]+, ", text)
    small = node(sdxl, samples={"samples": torch.zeros(1, 4, 64, 64)}).result[0]
    assert "Presets" not in small


def test_measuring_needs_a_prompt(sdxl):
    with pytest.raises(ValueError, match="measure_time is on, but positive is not connected"):
        node(regional(sdxl), measure_time=True)


def test_the_layout_is_that_of_the_run(sdxl):
    assert layout(regional(sdxl), 16, 20) == RegionalDenoise((8, 8)).layout_of(Canvas(16, 20))
    assert len(layout(sdxl, 16, 20).regions) == 1


def test_the_pages_tell_what_the_template_costs(sdxl, monkeypatch):
    """Network rows of the SDXL template of LSRNA-DemoFusion, counted on the models that its sampler really runs."""
    workflow = json.loads((ROOT / "workflows" / "api" / "lsrna_demofusion_sdxl.json").read_text(encoding="utf-8"))
    settings = {node["class_type"]: {key: value for key, value in node["inputs"].items() if not isinstance(value, list)} for node in workflow.values()}
    native, drawn = (settings[name] for name in ("EmptyLatentImage", "KSampler"))
    reference = torch.zeros(1, 4, native["height"] // 8, native["width"] // 8)
    phases = []

    def count(model, noise, cfg, sampler, sigmas, positive, negative, latent, **kwargs):
        phases.append(rows(works(model, *latent.shape[-2:], len(sigmas) - 1), 1 if cfg == 1 else 2))
        return latent

    monkeypatch.setattr(comfy.sample, "sample_custom", count)
    for factor in (2.0, 4.0):
        DemoFusionSampler.execute(sdxl, tiny.conditioning(1), tiny.conditioning(2), {"samples": reference}, **{**settings["LoupeDemoFusionSampler"], "scale_by": factor})
    twice, four = phases
    once = rows(works(sdxl, *reference.shape[-2:], drawn["steps"]), 1 if drawn["cfg"] == 1 else 2)
    read = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "js/docs/LoupeDemoFusionSampler.md", "workflows/Upscale 2x with LSRNA-DemoFusion (SDXL).json")}
    readme, page, template = read.values()
    assert settings["LoupeDemoFusionSampler"]["scale_by"] == 2 and native["width"] == native["height"] == 1024
    assert f"{twice:,} network rows at 2048² and {four:,} at 4096² with guidance; the 1024² image takes {once}" in readme
    assert f"{twice:,} network rows for 2048 x 2048 and {four:,} for 4096 x 4096" in page and f"{once} for the reference" in page
    assert f"{twice:,} network rows" in template and f"{four:,} with scale_by 4" in template


def test_every_cost_is_in_network_rows():
    pages = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("js/docs/*.md"), *ROOT.glob("workflows/*.json"), *ROOT.glob("subgraphs/*.json")]
    wrong = re.compile(r"network evaluations|\| evaluations \||\d evaluations", re.IGNORECASE)
    assert [file.name for file in pages if wrong.search(file.read_text(encoding="utf-8"))] == []

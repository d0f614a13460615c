"""What the pack needs of ComfyUI's internals is looked for when it loads, and costs no more than the nodes that need it."""

import asyncio
import functools
import importlib.util
import inspect
import logging
import sys
from pathlib import Path

import comfy.controlnet
import comfy.ldm.modules.attention
import comfy.ldm.wan.model
import comfy.model_patcher
import comfy.patcher_extension
import comfy.samplers
import latent_preview
import pytest
from loupe.browser import self_check
from loupe.browser.self_check import CLEARSR, NEEDS, PATCHING, SHOWING, Need, usable
from loupe.nodes import FAILED, NODES

ROOT = Path(__file__).resolve().parents[2]


def ids(nodes):
    return {node.define_schema().node_id for node in nodes}


def lines(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_this_comfyui_has_all(caplog):
    assert not FAILED
    assert [str(need) for need in NEEDS if not need.is_met()] == []
    assert usable(NODES, FAILED) == NODES and not lines(caplog)


def test_needs_name_nodes_of_the_pack():
    assert set().union(*(need.nodes for need in NEEDS)) <= ids(NODES)
    assert all(need.nodes or need.option for need in NEEDS)


def without(monkeypatch, owner, name):
    monkeypatch.delattr(owner, name)


def other(function):
    """Stands where `function` stands, as a later ComfyUI may write it."""

    def put(monkeypatch, owner, name):
        function.__module__ = owner.__name__ if inspect.ismodule(owner) else owner.__module__
        monkeypatch.setattr(owner, name, function)

    return put


@pytest.mark.parametrize(
    "change, owner, name, lost, said",
    [
        (without, comfy.patcher_extension.WrappersMP, "CALC_COND_BATCH", PATCHING, "comfy.patcher_extension.WrappersMP.CALC_COND_BATCH"),
        (without, comfy.samplers, "_calc_cond_batch_outer", PATCHING, "that knows CALC_COND_BATCH"),
        (other(lambda self, model_wrap, noise, sigmas, extra_args: None), comfy.samplers.KSAMPLER, "sample", PATCHING, "KSAMPLER.sample(self, model_wrap, sigmas, extra_args"),
        (other(lambda self: None), comfy.controlnet.ControlBase, "__init__", SHOWING | CLEARSR, "cond_hint_original"),
        (without, comfy.controlnet.ControlBase, "copy_to", CLEARSR, "ControlNet.copy_to(self, c)"),
        (without, comfy.samplers.KSamplerX0Inpaint, "__init__", {"LoupePixelSmithSampler"}, "KSamplerX0Inpaint.__init__(self, model, sigmas)"),
        (without, comfy.model_patcher.ModelPatcher, "set_model_attn2_patch", {"LoupeApplyClearSR"}, "set_model_attn2_patch(self, patch)"),
        (without, latent_preview, "prepare_callback", {"LoupeDemoFusionSampler", "LoupePixelSmithSampler"}, "latent_preview.prepare_callback(model, steps)"),
        (other(lambda self, x: None), comfy.ldm.wan.model.WanAttentionBlock, "forward", set(), "Regional Attention Prior on Wan"),
    ],
)
def test_what_is_missing_costs_its_nodes_alone(monkeypatch, caplog, change, owner, name, lost, said):
    change(monkeypatch, owner, name)
    assert ids(NODES) - ids(usable(NODES, {})) == lost
    (line,) = lines(caplog)
    assert line.startswith("Loupe does without ") and said in line and line.endswith(self_check.REMEDY)
    names = {schema.display_name for schema in (node.define_schema() for node in NODES) if schema.node_id in lost}
    assert all(name in line for name in names)


def test_what_another_pack_puts_in_the_place_of_a_function_is_taken(monkeypatch):
    def foreign(*args, **kwargs):
        return None

    wrapped = functools.wraps(comfy.samplers.KSAMPLER.sample)(lambda *args, **kwargs: None)
    monkeypatch.setattr(comfy.samplers, "_calc_cond_batch_outer", foreign)
    monkeypatch.setattr(comfy.samplers.KSAMPLER, "sample", wrapped)
    assert usable(NODES, {}) == NODES


def test_a_module_that_does_not_import_is_missing():
    assert not Need("comfy.no_such_module:Thing").is_met()
    assert not Need("comfy.samplers:No.such").is_met()


@pytest.fixture
def again():
    """The pack once more, as a package of another name of which nothing is imported yet."""
    name = "loupe_again"
    spec = importlib.util.spec_from_file_location(name, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
    yield sys.modules[name]
    for module in [module for module in sys.modules if module.split(".")[0] == name]:
        del sys.modules[module]


def test_a_file_of_nodes_that_cannot_be_imported_costs_its_own(again, monkeypatch, caplog):
    monkeypatch.delattr(comfy.ldm.modules.attention, "BasicTransformerBlock")
    extension = asyncio.run(again.comfy_entrypoint())
    nodes = asyncio.run(extension.get_node_list())
    assert ids(NODES) - ids(nodes) == CLEARSR | {"LoupeAttentionPrior"}
    left_out, without_hook = lines(caplog)
    assert left_out.startswith("Loupe leaves out the nodes of nodes/clearsr.py: cannot import name 'BasicTransformerBlock'")
    assert without_hook.startswith("Loupe does without ") and "BasicTransformerBlock.forward that knows attn2_output_patch" in without_hook


def test_a_server_without_the_browser_s_routes_keeps_its_nodes(again, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "loupe_again.browser.routes", None)
    extension = asyncio.run(again.comfy_entrypoint())
    asyncio.run(extension.on_load())
    assert ids(asyncio.run(extension.get_node_list())) == ids(NODES)
    (line,) = lines(caplog)
    assert line.startswith("Loupe's plots and maps in the browser are off: ")


def test_files_that_fail_for_one_reason_share_a_line(caplog):
    error = ImportError("cannot import name 'X' from 'comfy'")
    usable([], {"nodes/a.py": error, "nodes/b.py": ImportError(str(error)), "nodes/c.py": AttributeError("no Y")})
    assert lines(caplog) == [
        f"Loupe leaves out the nodes of nodes/a.py, nodes/b.py: {error}. {self_check.REMEDY}",
        f"Loupe leaves out the nodes of nodes/c.py: no Y. {self_check.REMEDY}",
    ]

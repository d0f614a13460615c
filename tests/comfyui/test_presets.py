"""Presets of the samplers: what they decide, and what they refuse."""

import pytest
from loupe.benchmarks.settings import all_settings
from loupe.nodes import presets
from loupe.nodes.checks import check_input
from loupe.nodes.demofusion import DemoFusionSampler
from loupe.nodes.pixelsmith import PixelSmithSampler

NODES = [(DemoFusionSampler, presets.DEMOFUSION), (PixelSmithSampler, presets.PIXELSMITH)]


@pytest.mark.parametrize(("node", "table"), NODES)
def test_presets_set_widgets_of_the_node_to_values_in_their_range(node, table):
    widgets = {declared.id: declared for declared in node.define_schema().inputs}
    names = {frozenset(preset) for preset in table.values()}
    assert len(names) == 1  # each decides the same widgets
    for preset in table.values():
        for name, value in preset.items():
            check_input(widgets[name], value)
    assert widgets["preset"].default == "balanced" and widgets["preset"].options[-1] == presets.CUSTOM
    # a new node shows what runs
    assert {name: widgets[name].default for name in names.pop()} == table["balanced"]
    assert widgets["preset"].as_dict()["presets"] == table


@pytest.mark.parametrize(("node", "table"), NODES)
def test_a_preset_decides_and_custom_does_not(node, table):
    balanced, fast = dict(table["balanced"]), dict(table["fast"])
    assert presets.decided(table, "fast", balanced) == fast  # named in a graph that has the values of another
    assert presets.decided(table, presets.CUSTOM, {**balanced, "steps": 11}) == {**balanced, "steps": 11}


def test_what_a_graph_leaves_out_is_the_presets():
    table = presets.DEMOFUSION
    left_out = {name: value for name, value in table["balanced"].items() if name != "jitter_until"}
    for preset in table:
        assert presets.decided(table, preset, {**left_out, "jitter_until": None}) == table[preset]
    assert presets.decided(table, presets.CUSTOM, {**left_out, "steps": 11, "jitter_until": None}) == {**table["balanced"], "steps": 11}


@pytest.mark.parametrize(("node", "table"), NODES)
def test_a_value_that_the_preset_would_not_use_is_refused(node, table):
    changed = {**table["balanced"], "steps": 11}
    with pytest.raises(ValueError, match="steps is 11, but preset is 'balanced', which sets it to 8. Set preset to 'custom'"):
        presets.decided(table, "balanced", changed)
    verdict = node.validate_inputs(preset="balanced", **changed, **({"noise_flat": 0.0} if "noise_edges" in changed else {"guided_steps": 0}))
    assert "steps is 11" in verdict


def test_what_is_measured_is_what_the_presets_set():
    for node, table, of in (("DemoFusion", presets.DEMOFUSION, {"balanced": "balanced", "fast": "fast"}), ("PixelSmith", presets.PIXELSMITH, {"balanced": "balanced", "fast": "fast", "paper": "PixelSmith paper"})):
        for measured, preset in of.items():
            setting = vars(all_settings()[f"{node}, {measured}"])
            shared = setting.keys() & table[preset].keys() - {"jitter"}
            assert len(shared) >= 4 and {name: setting[name] for name in shared} == {name: table[preset][name] for name in shared}
    lsrna, measured = presets.DEMOFUSION["LSRNA paper"], all_settings()["LSRNA-DemoFusion, paper"]
    assert (lsrna["steps"], lsrna["strength"], lsrna["overlap"], lsrna["blend"], lsrna["jitter_until"], lsrna["noise_edges"]) == (measured.steps, measured.strength, measured.overlap, measured.blend, measured.jitter, measured.edge_noise)

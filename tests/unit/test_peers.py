"""The graphs of `bench peers`, and which setting of a family its page compares."""

from types import SimpleNamespace

import pytest
from loupe.benchmarks.cache import key_of
from loupe.benchmarks.graph import Graph, defaults
from loupe.benchmarks.peer_list import LOUPE, REFERENCE, families, in_few_steps, ways
from loupe.benchmarks.peer_ways import Lanczos, Stage, TiledDiffusion
from loupe.benchmarks.peers_page import within_the_time

VARIANTS = ("text to image", "flow", "flow in few steps")


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_way_is_a_graph_from_what_starts_the_count_to_what_ends_it(variant):
    found = ways(variant)
    assert REFERENCE in found
    assert len({key_of(way) for way in found.values()}) == len(found)
    for way in found.values():
        stage = Stage(variant, 4.0, "normal", 2, "scene.png", "red star", 0)
        numbers, _ = stage.finish(way.draw(stage))
        links = [(name, value[0]) for name, node in stage.nodes.items() for value in node["inputs"].values() if isinstance(value, list)]
        assert all(int(source) < int(name) for name, source in links)
        loaded = next(name for name, node in stage.nodes.items() if node["class_type"] == "LoupeLoadMini")
        assert {stage.nodes[name]["class_type"] for name, source in links if source == loaded} == {"CLIPTextEncode", "LoupeBenchmarkStart"}
        assert stage.nodes[numbers.id]["class_type"] == "LoupeBenchmarkStop"


def test_families_of_loupe_are_in_the_list():
    names = families("text to image")
    assert all(any(name.startswith(first) for name in names) for first in LOUPE)


def test_few_steps_are_for_ways_that_have_a_number_of_their_own():
    assert in_few_steps(TiledDiffusion("MultiDiffusion", 0.35)).steps == 8
    assert in_few_steps(Lanczos()) == Lanczos()


def test_a_graph_takes_the_defaults_of_its_nodes_and_names_those_that_are_missing():
    known = {"Blur": {"input": {"required": {"image": ["IMAGE"], "radius": ["INT", {"default": 3}], "kind": [["box", "gaussian"]], "mode": ["COMBO", {"options": ["a", "b"]}]}}}}
    graph = Graph()
    graph.add("Sharpen", image=graph.add("Blur", image=["0", 0], radius=5))
    assert defaults(known["Blur"]) == {"radius": 3, "kind": "box", "mode": "a"}
    assert graph.missing(known) == ["Sharpen"]
    known["Sharpen"] = {"input": {}}
    assert graph.completed(known)["1"]["inputs"] == {"image": ["0", 0], "radius": 5, "kind": "box", "mode": "a"}
    assert graph.nodes["2"]["inputs"] == {"image": ["1", 0]}


def test_the_setting_that_takes_as_long_as_the_reference_is_compared():
    fast, slow, same, longer = (SimpleNamespace(name=name, time=time) for name, time in (("a, fast", 0.3), ("a .2", 0.9), ("a .35", 0.8), ("a .45", 1.4)))
    assert within_the_time([fast, slow, same, longer]) is same
    assert within_the_time([fast, slow, longer]) is slow
    assert within_the_time([longer]) is None

"""A blueprint opens as one node whose widgets are those inside."""

import json
from pathlib import Path

import pytest

SUBGRAPHS = Path(__file__).resolve().parents[2] / "subgraphs"

SHOWN = """async () => {
  const [node] = app.graph.nodes;
  const { output } = await app.graphToPrompt();
  return { title: node.title, widgets: Object.fromEntries(node.widgets.map((w) => [w.name, w.value])), outputs: node.outputs.map((o) => o.name), output };
}"""


def inside(subgraph, prompt, name):
    """What is sent for the widgets behind the input `name` of a subgraph."""
    number = next(i for i, slot in enumerate(subgraph["inputs"]) if slot["name"] == name)
    nodes = {node["id"]: node for node in subgraph["nodes"]}
    sent = {key.rsplit(":", 1)[-1]: node["inputs"] for key, node in prompt.items()}
    targets = [(link["target_id"], link["target_slot"]) for link in subgraph["links"] if (link["origin_id"], link["origin_slot"]) == (-10, number)]
    return [sent[str(key)][nodes[key]["inputs"][slot]["name"]] for key, slot in targets]


@pytest.mark.parametrize("file", sorted(SUBGRAPHS.glob("*.json")), ids=lambda file: file.stem)
def test_blueprint_opens_as_one_node(page, file):
    saved = json.loads(file.read_text(encoding="utf-8"))
    (node,), (subgraph,) = saved["nodes"], saved["definitions"]["subgraphs"]
    page.load(saved)
    found = page.js(SHOWN)
    assert found["title"] == file.stem
    assert found["outputs"] == [slot["name"] for slot in node["outputs"]]
    assert list(found["widgets"]) == [slot["name"] for slot in node["inputs"] if "widget" in slot]
    assert len(found["output"]) == len(subgraph["nodes"])
    for name, value in found["widgets"].items():
        assert inside(subgraph, found["output"], name) == [value]
    number = page.js("() => app.graph.nodes[0].id")
    for name, value in (("seed", 5), ("cfg", 3.5)):
        if name in found["widgets"]:
            page.set(number, name, value)
            assert inside(subgraph, page.js(SHOWN)["output"], name) == [value]
    assert page.errors == []

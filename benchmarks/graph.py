"""API graphs built in code."""

from __future__ import annotations

from collections.abc import Mapping


class Node:
    """`node[i]` is a link to its output i; the node itself, as an input, one to output 0."""

    def __init__(self, node_id: str):
        self.id = node_id

    def __getitem__(self, output: int) -> list:
        return [self.id, output]


class Graph:
    """`nodes` is the API workflow."""

    def __init__(self):
        self.nodes: dict[str, dict] = {}

    def add(self, kind: str, **inputs: object) -> Node:
        node = Node(str(len(self.nodes) + 1))
        self.nodes[node.id] = {"class_type": kind, "inputs": {name: value[0] if isinstance(value, Node) else value for name, value in inputs.items()}}
        return node

    def missing(self, known: Mapping[str, dict]) -> list[str]:
        """Its kinds of nodes that `known` (as /object_info) lacks."""
        return sorted({node["class_type"] for node in self.nodes.values()} - set(known))

    def completed(self, known: Mapping[str, dict]) -> dict[str, dict]:
        """The workflow with the nodes' own defaults for what was not given."""
        return {name: {**node, "inputs": {**defaults(known[node["class_type"]]), **node["inputs"]}} for name, node in self.nodes.items()}


def defaults(info: Mapping) -> dict[str, object]:
    """Of a node's required inputs, as the page fills its widgets."""
    found = {}
    for name, (kind, *rest) in info["input"].get("required", {}).items():
        options = rest[0] if rest else {}
        if "default" in options:
            found[name] = options["default"]
        elif choices := kind if isinstance(kind, list) else options.get("options"):
            found[name] = choices[0]
    return found

"""Reads what the page saves: a node's widget values stand by position, in the order of its inputs."""

import math

SCALARS = {"INT": [int], "FLOAT": [int, float], "STRING": [str], "BOOLEAN": [bool]}


def declared(definition):
    """{name: (type, options)} of a node's inputs, in order."""
    inputs = {**definition["input"].get("required", {}), **definition["input"].get("optional", {})}
    typed = {name: (kind, options[0] if options else {}) for name, (kind, *options) in inputs.items() if kind != "IMAGECOMPARE"}
    return {name: ("COMBO", {**options, "options": kind}) if isinstance(kind, list) else (kind, options) for name, (kind, options) in typed.items()}


def widgets_of(node, definition):
    """[(name, value, type, options)] by position, without what only the page has."""
    values, found = list(node["widgets_values"]), []
    for name, (kind, options) in declared(definition).items():
        if kind in ("COMBO", *SCALARS) and not options.get("forceInput"):
            found.append((name, values.pop(0), kind, options))
            if kind == "INT" and options.get("control_after_generate", name in ("seed", "noise_seed")):
                assert values.pop(0) in ("fixed", "increment", "decrement", "randomize")
            if options.get("image_upload"):
                assert values.pop(0) == "image"
    assert values == [], f"{node['type']} has values left over"
    assert node["widgets_values"] == list(node["widgets_values_named"].values())
    assert {name: value for name, value, *_ in found}.items() <= node["widgets_values_named"].items()
    return found


def unfolded(saved):
    """(nodes, {(node, input): (node, output)}) of a saved workflow with what is behind its nodes in their place."""
    folds = {subgraph["id"]: subgraph for subgraph in saved.get("definitions", {}).get("subgraphs", [])}
    nodes, sources = [], {}
    for _, source, output, target, place, _ in saved["links"]:
        sources[target, place] = source, output
    for node in saved["nodes"]:
        if node["type"] not in folds:
            nodes.append(node)
            continue
        fold = folds[node["type"]]
        nodes += fold["nodes"]
        for link in fold["links"]:
            at = link["target_id"], link["target_slot"]
            if link["origin_id"] != -10:
                sources[at] = link["origin_id"], link["origin_slot"]
            elif (outer := sources.get((node["id"], link["origin_slot"]))) is not None:
                sources[at] = outer
        ends = {place: sources.pop((-20, place)) for place in range(len(fold["outputs"]))}
        sources = {at: ends[source[1]] if source[0] == node["id"] else source for at, source in sources.items() if at[0] != node["id"]}
    assert len({node["id"] for node in nodes}) == len(nodes)
    return nodes, sources


def fits(value, kind, options):
    if kind == "COMBO":
        return value in options["options"] or "image_upload" in options
    return type(value) in SCALARS[kind] and (kind in ("STRING", "BOOLEAN") or options.get("min", -math.inf) <= value <= options.get("max", math.inf))

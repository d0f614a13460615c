"""Reads what the page saves: a node's widget values stand by position, in the order of its inputs."""

import math

SCALARS = {"INT": [int], "FLOAT": [int, float], "STRING": [str], "BOOLEAN": [bool]}


def declared(definition):
    """{name: (type, options)} of a node's inputs, in order."""
    inputs = {**definition["input"].get("required", {}), **definition["input"].get("optional", {})}
    typed = {name: (kind, options[0] if options else {}) for name, (kind, *options) in inputs.items()}
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
    return found


def fits(value, kind, options):
    if kind == "COMBO":
        return value in options["options"] or "image_upload" in options
    return type(value) in SCALARS[kind] and (kind in ("STRING", "BOOLEAN") or options.get("min", -math.inf) <= value <= options.get("max", math.inf))

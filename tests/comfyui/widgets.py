"""Inputs of a node as a new one in the browser has them."""


def defaults(node, **values):
    """`values` over the defaults of the widgets. A sampler's are the last preset's, the paper's, as custom ones."""
    inputs = {one.id: one for one in node.define_schema().inputs}
    found = {name: one.default for name, one in inputs.items() if getattr(one, "default", None) is not None}
    presets = getattr(inputs.get("preset"), "extra_dict", {}).get("presets")
    if presets:
        found |= {**[*presets.values()][-1], "preset": "custom"}
    return found | values

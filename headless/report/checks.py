"""What the server lacks for a graph, found before anything is run."""

from difflib import SequenceMatcher

from ..client import node_title
from ..jobs import UsageError

SHOWN = 30
OWN = {"LoadImage": "image"}  # what is uploaded is not in the list yet


def specification(definition, name):
    """(type, options) of an input by /object_info."""
    given = definition["input"]
    kind, *options = {**given.get("optional", {}), **given.get("required", {})}.get(name, [None])
    options = options[0] if options and isinstance(options[0], dict) else {}
    return ("COMBO", {**options, "options": kind}) if isinstance(kind, list) else (kind, options)


def listed(choices, value):
    """The choices in words, those like `value` first where not all are shown."""
    if len(choices) > SHOWN:
        choices = sorted(choices, key=lambda choice: -SequenceMatcher(None, str(choice).lower(), str(value).lower()).ratio())
    words = ", ".join(map(str, choices[:SHOWN]))
    return words + (f" and {len(choices) - SHOWN} more" if len(choices) > SHOWN else "") if choices else "none; put the file into its folder below models"


def problems(graph, info):
    """A line for each value that the server would not take."""
    found = []
    for node_id, node in graph.items():
        for name, value in node["inputs"].items():
            if isinstance(value, list) or OWN.get(node["class_type"]) == name:
                continue
            kind, options = specification(info[node["class_type"]], name)
            place = f"{node_title(graph, node_id)}.{name}"
            choices = options.get("options")
            if kind == "COMBO" and isinstance(choices, list) and not any(isinstance(choice, dict) for choice in choices) and value not in choices:
                found.append(f"{place} is '{value}', which the server does not list. It lists: {listed(choices, value)}. Choose with --set \"{place}=…\"")
            if kind in ("INT", "FLOAT") and not options.get("min", value) <= value <= options.get("max", value):
                found.append(f"{place} is {value}; expected {options.get('min')} to {options.get('max')}. Change it with --set \"{place}=…\"")
    return found


def missing_nodes(graph, info):
    return sorted({node["class_type"] for node in graph.values()} - set(info))


def check(graph, info):
    """Raises UsageError."""
    missing = missing_nodes(graph, info)
    if missing:
        raise UsageError(f"the server has no node {', '.join(missing)}. Install or update what it comes from, or choose another --workflow")
    wrong = problems(graph, info)
    if wrong:
        raise UsageError("\n".join(wrong))

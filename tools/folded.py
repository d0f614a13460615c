"""A template with the image, one node for all that is done to it, and the result beside the image."""

from ..headless.client import node_title
from .graph import GAP, IMAGE, TITLE, is_link, make_links, make_nodes, saved
from .model_files import files_of
from .notes import make_note
from .subgraph import Fold, make_node, make_subgraph

NOTE = 300  # its height


def make_folded(title, template, workflow, info, frontend):
    """As the page saves it: the image and a note, one node with the rest behind it, the result, and both to compare."""
    (load,) = [key for key, node in workflow.items() if node["class_type"] == "LoadImage"]
    (save,) = [key for key, node in workflow.items() if node["class_type"] == "SaveImage"]
    fold = fold_of(template, workflow, load, save)
    subgraph = make_subgraph(title, fold, workflow, info)
    number, compare = (str(max(map(int, workflow)) + more) for more in (1, 2))
    shown = {
        load: workflow[load],
        save: {**workflow[save], "inputs": {**workflow[save]["inputs"], "images": [number, 0]}},
        compare: {"class_type": "ImageCompare", "_meta": {"title": info["ImageCompare"]["display_name"]}, "inputs": {"image_a": [load, 0], "image_b": [number, 0]}},
    }
    nodes = make_nodes({key: without_links(node) for key, node in shown.items()}, info, dict.fromkeys(shown, (0, TITLE)))
    nodes[number] = make_node(title, fold, subgraph, int(number))
    links = make_links({**shown, number: {"inputs": {"image": [load, 0]}}}, nodes)
    x = 0
    for order, key in enumerate((load, number, save, compare)):
        nodes[key].update(order=order, pos=[x, TITLE])
        x += nodes[key]["size"][0] + GAP
    note = make_note(workflow, template.note, int(compare) + 1, len(nodes), (0, 2 * TITLE + IMAGE[1] + GAP, IMAGE[0], NOTE))
    return saved(f"template {title}", [nodes[load], nodes[number], nodes[save], nodes[compare], note], links, [], frontend, [subgraph])


def without_links(node):
    return {**node, "inputs": {name: value for name, value in node["inputs"].items() if not is_link(value)}}


def fold_of(template, workflow, load, save):
    """What is between the image and the result, with the template's widgets and then those that name a file."""
    named = set(template.widgets.values())
    widgets = dict(template.widgets)
    for key, node in workflow.items():
        for name in files_of(node):
            if (node_title(workflow, key), name) not in named:
                if name in widgets:
                    raise ValueError(f"two nodes have {name}: give each a name of its own in the widgets of {template.title!r}")
                widgets[name] = (node_title(workflow, key), name)
    source, output = workflow[save]["inputs"]["images"]
    return Fold("", template.note, [], {"image": (node_title(workflow, load), 0)}, widgets, {"image": (node_title(workflow, source), output)})

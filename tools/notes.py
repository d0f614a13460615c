"""The note of a template: what it does, and the files that it needs."""

from .model_files import MODELS, files_of

NOTE, LINE = 110, 24  # height without files, and of each of them


def links_to(files):
    """The lines of a note about the files to download: folder and address of each."""
    lines = [f"- `models/{MODELS[name].folder}`: [{name}]({MODELS[name].url})" for name in files]
    return "\n".join(["", "", "**Files to download**", *lines]) if files else ""


def height_of_note(workflow):
    files = downloads(workflow)
    return NOTE + (LINE * (len(files) + 2) if files else 0)


def make_note(workflow, text, number, order, rectangle):
    x, y, width, height = rectangle
    return {
        "id": number, "type": "MarkdownNote", "pos": [x, y], "size": [width, height], "flags": {}, "order": order, "mode": 0,
        "inputs": [], "outputs": [], "title": "About", "properties": {}, "widgets_values": [text + links_to(downloads(workflow))], "color": "#432", "bgcolor": "#653",
    }


def downloads(workflow):
    """Names of the files to download, each once."""
    return list(dict.fromkeys(file for node in workflow.values() for file in files_of(node, MODELS).values()))

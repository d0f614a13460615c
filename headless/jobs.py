"""What a run is asked to do: the workflow with its settings, and a job for every image."""

import hashlib
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

from .client import node_title

IMAGE = "{image}"  # stands for the image of a job in an input of the workflow
FORMATS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


class UsageError(Exception):
    """Something in the command that has to be changed before anything can start."""


def read_workflow(file):
    try:
        workflow = json.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{file} is not JSON: {error}") from error
    if isinstance(workflow, dict) and "nodes" in workflow:
        raise UsageError(f"{file} was saved from the browser. Export it in API format (File > Export (API)).")
    if not workflow or not isinstance(workflow, dict) or not all(isinstance(node, dict) and {"class_type", "inputs"} <= set(node) for node in workflow.values()):
        raise UsageError(f"{file} is not a workflow in API format: it must map node ids to class_type and inputs")
    return workflow


def find_input(workflow, target):
    """(node id, input name) of NODE.INPUT, where NODE is an id or a title and may hold dots itself."""
    dots = [match.start() for match in re.finditer(r"\.", target)]
    for dot in dots:
        name, key = target[:dot], target[dot + 1 :]
        found = [name] if name in workflow else [node_id for node_id in workflow if node_title(workflow, node_id) == name]
        if len(found) > 1:
            raise UsageError(f"--set {target}: {len(found)} nodes are called '{name}'. Name one by its id: {', '.join(found)}")
        if found:
            inputs = workflow[found[0]]["inputs"]
            if key not in inputs:
                raise UsageError(f"--set {target}: '{name}' has no input '{key}' in this workflow. It has: {', '.join(inputs) or 'none'}")
            return found[0], key
    raise UsageError(f"--set {target}: no such node. Write NODE.INPUT=VALUE with an id or a title: {', '.join(f'{key} ({node_title(workflow, key)})' for key in workflow)}")


def parse_value(target, text, now):
    """The text as the type of the value that the workflow has now."""
    if isinstance(now, list):
        raise UsageError(f"--set {target}: this input is a link from node {now[0]}. Set an input of that node.")
    if isinstance(now, str):
        return text
    try:
        value = json.loads(text.lower() if isinstance(now, bool) else text)
    except ValueError:
        value = text
    if isinstance(now, bool) and not isinstance(value, bool):
        raise UsageError(f"--set {target}: '{text}' is not true or false")
    if isinstance(now, (int, float)) and (not isinstance(value, (int, float)) or isinstance(value, bool) != isinstance(now, bool) or not math.isfinite(value)):
        raise UsageError(f"--set {target}: '{text}' is not a number")
    return value


def set_inputs(workflow, settings):
    """Write every NODE.INPUT=VALUE into the workflow."""
    for setting in settings:
        target, equals, text = setting.partition("=")
        if not equals:
            raise UsageError(f"--set {setting}: write NODE.INPUT=VALUE")
        node_id, name = find_input(workflow, target)
        workflow[node_id]["inputs"][name] = text if text == IMAGE else parse_value(target, text, workflow[node_id]["inputs"][name])


def takes_image(workflow):
    return any(value == IMAGE for node in workflow.values() for value in node["inputs"].values())


def place_image(workflow):
    """Mark the input of the one Load Image node, unless a setting has marked one."""
    if takes_image(workflow):
        return
    loaders = [node_id for node_id, node in workflow.items() if node["class_type"] == "LoadImage"]
    if len(loaders) != 1:
        named = ", ".join(f"{node_id} ({node_title(workflow, node_id)})" for node_id in loaders)
        raise UsageError(f"the workflow has {f'several Load Image nodes: {named}' if loaders else 'no Load Image node'}. Say which input takes the image: --set NODE.INPUT={IMAGE}")
    workflow[loaders[0]]["inputs"]["image"] = IMAGE


def find_images(folder):
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"--input {folder}: no such folder")
    images = sorted(file for file in folder.iterdir() if file.suffix.lower() in FORMATS and not file.name.startswith("."))
    if not images:
        raise UsageError(f"--input {folder}: no images ({', '.join(sorted(FORMATS))}) in this folder")
    names = {}
    for file in images:
        other = names.setdefault(file.stem.casefold(), file)
        if other is not file:
            raise UsageError(f"--input {folder}: {other.name} and {file.name} would get the same results. Rename one.")
    return images


@dataclass
class Job:
    """One run of the workflow. `image` is None where it takes none."""

    name: str
    workflow: dict
    image: Path | None = None
    losses: int = 0

    def __post_init__(self):
        self.label = self.image.name if self.image else self.name
        data = self.image.read_bytes() if self.image else b""
        self.fingerprint = hashlib.sha256(json.dumps(self.workflow, sort_keys=True).encode() + b"\0" + data).hexdigest()


def plan(options):
    """The jobs that the command asks for. Raises UsageError."""
    workflow = read_workflow(options.workflow)
    set_inputs(workflow, options.set)
    if options.input is None:
        if takes_image(workflow):
            raise UsageError(f"--set NODE.INPUT={IMAGE} needs --input DIR")
        return [Job(Path(options.workflow).stem, workflow)]
    images = find_images(options.input)
    if Path(options.output).resolve() == Path(options.input).resolve():
        raise UsageError("--output is the folder of --input: results would be taken for images. Give another one.")
    place_image(workflow)
    try:
        return [Job(file.stem, workflow, file) for file in images]
    except OSError as error:
        raise UsageError(f"--input {error.filename}: {error.strerror}") from error

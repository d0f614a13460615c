"""Which bundled template a report is about."""

from pathlib import Path

from ..jobs import UsageError, read_workflow, set_inputs
from . import checks, graphs

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows" / "api"
FIRST = "upscale_sdxl"
MINI = "LoupeLoadMini"


def templates():
    """The bundled graphs that a report can be about, by name."""
    found = {file.stem: read_workflow(file) for file in sorted(WORKFLOWS.glob("*.json"))}
    return {name: found[name] for name in sorted(found, key=lambda name: name != FIRST) if graphs.is_template(found[name])}


def with_checkpoint(name, workflow, checkpoint):
    """Set the checkpoint that the template loads."""
    loaders = [node["inputs"] for node in workflow.values() if "ckpt_name" in node["inputs"]]
    if len(loaders) != 1:
        raise UsageError(f"--checkpoint {checkpoint}: the workflow {name} does not load one checkpoint. Name its files with --set, or leave out --workflow")
    loaders[0]["ckpt_name"] = checkpoint


def chosen(options, info):
    """(name, graph of Loupe) that the command asks for, else of the first template that the server has all files of."""
    found = templates()
    if options.workflow is not None and options.workflow not in found:
        raise UsageError(f"--workflow {options.workflow}: expected one of {', '.join(found)}")
    name = options.workflow or (FIRST if options.checkpoint else complete(found, info))
    workflow = found[name]
    if options.checkpoint:
        with_checkpoint(name, workflow, options.checkpoint)
    set_inputs(workflow, options.set)
    graph = graphs.loupe(workflow)
    checks.check(graph, info)
    return name, graph


def complete(found, info):
    lacks = {}
    for name, workflow in found.items():
        if any(node["class_type"] == MINI for node in workflow.values()):
            continue
        graph = graphs.loupe(workflow)
        missing = checks.missing_nodes(graph, info)
        lacks[name] = [f"no node {', '.join(missing)}"] if missing else [line.partition(", which")[0] for line in checks.problems(graph, info)]
        if not lacks[name]:
            return name
    told = "\n".join(f"  {name}: {'; '.join(lines)}" for name, lines in lacks.items())
    raise UsageError(f"no bundled workflow has all of its files on the server. Say which model you have: --checkpoint NAME for SDXL, or --workflow NAME with --set for its files.\n{told}")

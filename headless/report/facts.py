"""What the page says about the software and the device: nothing that names a person or a folder."""

import re
from pathlib import Path

from ..client import node_title

PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"
MODELS = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".gguf", ".bin")


def loupe_version():
    found = re.search(r'^version = "(.+)"$', PROJECT.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else "unknown"


def frontend_version(system):
    installed = [one["installed"] for one in system.get("comfy_package_versions", []) if one["name"] == "comfyui-frontend-package"]
    return next(filter(None, installed), None) or system.get("required_frontend_version") or "unknown"


def software(stats):
    """Versions by name. stats: of /system_stats."""
    system = stats["system"]
    return {
        "Loupe": loupe_version(),
        "ComfyUI": system.get("comfyui_version", "unknown"),
        "frontend": frontend_version(system),
        "Python": system["python_version"].split()[0],
        "torch": system.get("pytorch_version", "unknown"),
        "system": system["os"],
    }


def device(stats):
    first = stats["devices"][0]
    return {"name": first["name"], "memory": first["vram_total"], "in use before": first["vram_total"] - first["vram_free"]}


def packs(graphs, info):
    """The packs that nodes of the graphs come from."""
    modules = {info[node["class_type"]].get("python_module", "") for graph in graphs for node in graph.values()}
    return sorted(module.removeprefix("custom_nodes.") for module in modules if module.startswith("custom_nodes."))


def without_folder(value):
    """A model's file without its folders; any other value as it is."""
    is_file = isinstance(value, str) and value.lower().endswith(MODELS)
    return value.replace("\\", "/").rpartition("/")[2] if is_file else value


def settings(graph):
    """{title.input: value} of the graph."""
    return {
        f"{node_title(graph, node_id)}.{name}": without_folder(value)
        for node_id, node in graph.items() if not node_id.startswith("report ")
        for name, value in node["inputs"].items() if not isinstance(value, list)
    }


def model_files(told):
    """The files of models among `settings`."""
    return [value for value in told.values() if isinstance(value, str) and value.lower().endswith(MODELS)]


def without_paths(text):
    """An error of the server without folders, which may name a person."""
    return re.sub(r"(?:[A-Za-z]:)?(?:[\\/][^\\/\s:'\",;]+)+[\\/]([^\\/\s:'\",;]+)", r"…/\1", text)

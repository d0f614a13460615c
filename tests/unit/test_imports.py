"""Holds the pack to the import table of docs/architecture.md."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = {"nodes", "host", "methods", "models", "training", "tools", "benchmarks"}
HOST_API = {"comfy_api", "folder_paths", "node_helpers", "latent_preview"}

# room -> rooms of the pack, packages from outside
ALLOWED = {
    "__init__.py": ({"nodes"}, {"comfy_api", "typing_extensions"}),
    "nodes": ({"host", "methods", "models"}, HOST_API | {"comfy", "torch", "server", "aiohttp"}),
    "host": ({"methods", "models"}, {"comfy", "comfy_execution", "comfy_extras", "latent_preview", "torch", "transformers", "PIL"}),
    "methods": (set(), {"torch", "numpy", "cv2", "pywt"}),
    "models": ({"methods"}, {"comfy", "torch", "numpy", "cv2", "einops", "safetensors", "spandrel"}),
    "training": ({"models", "methods"}, {"comfy", "folder_paths", "torch", "numpy", "cv2", "safetensors", "tqdm", "PIL"}),
    "tools": (set(), None),
}


def imports(path):
    """(line, room or None, package or None) of everything that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module] if node.module != "loupe" else [f"loupe.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parent = path.parent.relative_to(ROOT).parts[: len(path.parent.relative_to(ROOT).parts) - node.level + 1]
            targets = [node.module] if node.module else [alias.name for alias in node.names]
            names = [".".join(("loupe", *parent, target)) for target in targets]
        else:
            continue
        for name in names:
            first, *rest = name.split(".")
            yield node.lineno, *((rest[0], None) if first == "loupe" and rest else (None, first))


@pytest.mark.parametrize("room", ALLOWED)
def test_rooms_import_only_what_they_may(room):
    rooms, packages = ALLOWED[room]
    files = [ROOT / room] if room.endswith(".py") else sorted((ROOT / room).rglob("*.py"))
    wrong = []
    for path in filter(Path.exists, files):
        for line, target, package in imports(path):
            if target in ROOMS and target != room and target not in rooms:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports the room {target}")
            if package in ROOMS:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {package} as a top-level package")
            elif package and packages is not None and package not in packages and package not in sys.stdlib_module_names:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {package}")
    assert not wrong, "\n".join(wrong)


def test_the_check_sees_every_form(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    folder = tmp_path / "models" / "lsr"
    folder.mkdir(parents=True)
    file = folder / "network.py"
    file.write_text(
        "import comfy.utils\nfrom torch import nn\nfrom ...host.latents import scaled\nfrom ... import nodes\n"
        "from .checkpoint import load\nfrom . import checkpoint\nfrom loupe import host\nimport loupe.methods.regions\n"
    )
    assert list(imports(file)) == [
        (1, None, "comfy"),
        (2, None, "torch"),
        (3, "host", None),
        (4, "nodes", None),
        (5, "models", None),
        (6, "models", None),
        (7, "host", None),
        (8, "methods", None),
    ]

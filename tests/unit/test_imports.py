"""Holds the pack to the floors of docs/architecture.md: no arrow runs up, and no circle is left."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = {"browser", "nodes", "patches", "engine", "models", "methods", "training", "headless", "tools", "benchmarks"}
TORCH = {"torch", "numpy", "cv2", "pywt"}

# room -> rooms of the pack, packages from outside
ALLOWED = {
    "__init__.py": ({"browser"}, {"comfy_api", "typing_extensions"}),
    "browser": ({"nodes", "patches", "engine", "models", "methods"}, TORCH | {"comfy", "comfy_api", "server", "aiohttp"}),
    "nodes": ({"patches", "engine", "models", "methods"}, TORCH | {"comfy", "comfy_api", "folder_paths", "node_helpers"}),
    "patches": ({"engine", "models", "methods"}, TORCH | {"comfy", "latent_preview"}),
    "training": ({"models", "methods"}, TORCH | {"comfy", "folder_paths", "safetensors", "tqdm", "PIL"}),
    "engine": ({"methods"}, TORCH | {"comfy", "comfy_execution", "comfy_extras"}),
    "models": ({"methods"}, TORCH | {"comfy", "einops", "safetensors", "spandrel", "transformers", "PIL"}),
    "methods": (set(), TORCH),
    "tools": ({"headless"}, None),
}


def imports(path):
    """(line, module of the pack or None, package from outside or None) of everything that a file imports."""
    package = path.parent.relative_to(ROOT).parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [f"{node.module}.{alias.name}" if node.module.split(".")[0] == "loupe" else node.module for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ("loupe", *package[: len(package) - node.level + 1], *([node.module] if node.module else []))
            names = [".".join((*base, alias.name)) for alias in node.names]
        else:
            continue
        for name in dict.fromkeys(names):
            first, *rest = name.split(".")
            yield node.lineno, *((_module(rest), None) if first == "loupe" and rest else (None, first))


def _module(parts):
    """The longest part of a dotted name that is a file or a folder of the pack."""
    while len(parts) > 1 and not (ROOT.joinpath(*parts).is_dir() or ROOT.joinpath(*parts).with_suffix(".py").is_file()):
        parts = parts[:-1]
    return ".".join(parts)


def files_of(room):
    return [ROOT / room] if room.endswith(".py") else sorted((ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("room", ALLOWED)
def test_rooms_import_only_what_they_may(room):
    rooms, packages = ALLOWED[room]
    wrong = []
    for path in filter(Path.exists, files_of(room)):
        for line, module, package in imports(path):
            target = module and module.split(".")[0]
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
    (folder / "file.py").touch()
    file = folder / "network.py"
    file.write_text(
        "import comfy.utils\nfrom torch import nn\nfrom ...engine.latents import scaled\nfrom ... import nodes\n"
        "from .file import load\nfrom . import file\nfrom loupe import engine\nimport loupe.methods.regions\n"
    )
    assert list(imports(file)) == [
        (1, None, "comfy"),
        (2, None, "torch"),
        (3, "engine", None),
        (4, "nodes", None),
        (5, "models.lsr.file", None),
        (6, "models.lsr.file", None),
        (7, "engine", None),
        (8, "methods", None),
    ]

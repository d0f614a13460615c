"""pyproject.toml as ComfyUI reads it."""

import ast
import importlib.metadata
import re
import sys
from pathlib import Path

import comfy
from comfy_config.config_parser import extract_node_configuration
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


def test_comfyui_reads_what_the_registry_needs():
    config = extract_node_configuration(str(ROOT))
    project, comfy = config.project, config.tool_comfy
    assert project.name == "loupe" and re.fullmatch(r"\d+\.\d+\.\d+", project.version)
    assert f"## {project.version}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert (ROOT / project.license.file).is_file()
    assert project.dependencies == (ROOT / "requirements.txt").read_text(encoding="utf-8").split()
    assert project.supported_os == ["OS Independent"] and "GPU :: NVIDIA CUDA" in project.supported_accelerators
    assert project.supported_comfyui_version == ">=0.16.0"
    assert comfy.publisher_id and comfy.display_name == "Loupe"
    assert project.urls.repository.startswith("https://")
    assert all(address.startswith(f"{project.urls.repository}/") for address in (project.urls.documentation, project.urls.issues, comfy.icon))
    assert comfy.web is None  # __init__.py names it; both would load the page extension twice


SHIPPED = ("browser", "nodes", "patches", "engine", "models", "methods")


def normalized(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def imported_packages():
    """First names of what the nodes import from outside, at the top of a file."""
    found = set()
    for path in (path for room in SHIPPED for path in (ROOT / room).rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names)


def test_what_comfyui_may_lack_is_required():
    comfyui = Path(next(iter(comfy.__path__))).parent
    certain = (comfyui / "requirements.txt").read_text(encoding="utf-8").split("#non essential")[0]
    own = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    required = {normalized(found[0]) for line in (certain + "\n" + own).splitlines() if (found := re.match(r"[\w.-]+", line))}
    providers = importlib.metadata.packages_distributions()
    missing = {
        name for name in imported_packages()
        if not (comfyui / name).is_dir() and not (comfyui / f"{name}.py").is_file() and not {normalized(of) for of in providers.get(name, [])} & required
    }
    assert missing == set()


def test_icon_and_banner_have_the_registry_s_shapes():
    icon, banner = Image.open(ROOT / "assets" / "icon.png"), Image.open(ROOT / "assets" / "banner.png")
    assert icon.width == icon.height <= 400
    assert banner.width * 9 == banner.height * 21

"""pyproject.toml as ComfyUI reads it."""

import re
from pathlib import Path

from comfy_config.config_parser import extract_node_configuration
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


def test_comfyui_reads_what_the_registry_needs():
    config = extract_node_configuration(str(ROOT))
    project, comfy = config.project, config.tool_comfy
    assert project.name == "loupe" and re.fullmatch(r"\d+\.\d+\.\d+", project.version)
    assert f"## {project.version}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert (ROOT / project.license.file).is_file()
    assert project.dependencies == (ROOT / "requirements.txt").read_text().split()
    assert project.supported_os == ["OS Independent"] and "GPU :: NVIDIA CUDA" in project.supported_accelerators
    assert project.supported_comfyui_version == ">=0.16.0"
    assert comfy.publisher_id and comfy.display_name == "Loupe"
    assert comfy.web is None  # __init__.py names it; both would load the page extension twice


def test_icon_and_banner_have_the_registry_s_shapes():
    icon, banner = Image.open(ROOT / "assets" / "icon.png"), Image.open(ROOT / "assets" / "banner.png")
    assert icon.width == icon.height <= 400
    assert banner.width * 9 == banner.height * 21

"""What Loupe knows of models it knows by their classes: a file that appears tomorrow, of a class that is known, works."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ("browser", "engine", "headless", "js", "methods", "models", "nodes", "patches")
CODE = [file for folder in SHIPPED for pattern in ("*.py", "*.js") for file in sorted((ROOT / folder).rglob(pattern))]
OWN = {file.name for file in (ROOT / "models" / "mini").glob("*.safetensors")}


@pytest.mark.parametrize("file", CODE, ids=lambda file: str(file.relative_to(ROOT)))
def test_code_names_no_file_of_a_model(file):
    named = set(re.findall(r"[\w.-]*\w\.(?:safetensors|sft|ckpt|pth?|gguf)\b", file.read_text(encoding="utf-8")))
    assert named <= OWN

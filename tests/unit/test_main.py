"""The pack as a command, in a folder of ComfyUI that has it installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif("LOUPE_COMFYUI" not in os.environ, reason="needs LOUPE_COMFYUI")


@pytest.fixture
def installed(tmp_path):
    """call(*arguments): runs the installed pack from a folder that is ComfyUI's, file by file, but for custom_nodes."""
    for path in Path(os.environ["LOUPE_COMFYUI"]).resolve().iterdir():
        if path.name != "custom_nodes":
            (tmp_path / path.name).symlink_to(path, path.is_dir())
    (tmp_path / "custom_nodes").mkdir()
    (tmp_path / "custom_nodes" / "ComfyUI-Loupe").symlink_to(ROOT, True)

    def call(*arguments):
        return subprocess.run([sys.executable, "-m", "custom_nodes.ComfyUI-Loupe", *arguments], cwd=tmp_path, capture_output=True, text=True)

    return call


def test_commands_are_listed(installed):
    for arguments in ((), ("paint",)):
        finished = installed(*arguments)
        assert finished.returncode == 2 and all(f"ComfyUI-Loupe {name}" in finished.stderr for name in ("run", "report", "train"))


def test_training_commands_start_in_comfyui(installed):
    finished = installed("train")
    assert finished.returncode == 2 and "mini-unet" in finished.stderr
    finished = installed("train", "lsr", "--help")
    assert finished.returncode == 0 and "--vae" in finished.stdout, finished.stderr


def test_a_run_asks_a_server_and_starts_none(installed, tmp_path):
    workflow = tmp_path / "workflow.json"
    workflow.write_text(json.dumps({"1": {"class_type": "SaveImage", "inputs": {}}}), encoding="utf-8")
    command = ("run", str(workflow), "--output", str(tmp_path / "results"))
    finished = installed(*command, "--server", "http://127.0.0.1:9")
    assert finished.returncode == 2 and "http://127.0.0.1:9: no ComfyUI answers there" in finished.stderr
    finished = installed(*command, "--ray")
    assert finished.returncode == 2 and "python dev.py run --ray" in finished.stderr
    assert "http://127.0.0.1:8188" in installed("run", "--help").stdout


def test_a_report_asks_a_server_and_starts_none(installed, tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    finished = installed("report", "--image", "a.png", "--server", "http://127.0.0.1:9")
    assert finished.returncode == 2 and "http://127.0.0.1:9: no ComfyUI answers there" in finished.stderr
    assert "http://127.0.0.1:8188" in installed("report", "--help").stdout

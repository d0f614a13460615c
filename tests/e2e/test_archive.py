"""The registry's archive: what it holds, what a scan says of it, and that it runs in a clean ComfyUI."""

import json
import os
import shutil
import subprocess
import zipfile

import numpy as np
import pytest
from clean_python import clean_python
from loupe.headless.client import Client, find_node
from loupe.tools import blueprints, pack, scan
from loupe.tools.server import PACK, Server
from loupe.tools.shelf import SHELF

pytestmark = pytest.mark.skipif(not (shutil.which("git") and (PACK / ".git").exists()), reason="the archive is made from what git tracks")

KEPT = {"__init__.py", "__main__.py", "pyproject.toml", "requirements.txt", "LICENSE", "README.md", "CHANGELOG.md"}
ROOMS = {"browser", "docs", "engine", "headless", "js", "locales", "methods", "models", "nodes", "patches", "subgraphs", "training", "workflows"}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return pack.build(tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="module")
def installed(archive, tmp_path_factory):
    folder = tmp_path_factory.mktemp("installed")
    zipfile.ZipFile(archive).extractall(folder)
    return folder


@pytest.fixture(scope="module")
def python(comfyui, installed, tmp_path_factory):
    """The Python of a user who has installed the requirements of ComfyUI and of the archive."""
    return clean_python(tmp_path_factory.mktemp("python"), comfyui / "requirements.txt", installed / "requirements.txt")


@pytest.fixture(scope="module")
def clean_server(comfyui, installed, python, tmp_path_factory):
    with Server(comfyui, tmp_path_factory.mktemp("clean"), pack=installed, python=python) as server:
        yield server


def test_it_holds_what_runs(archive):
    names = zipfile.ZipFile(archive).namelist()
    assert KEPT <= set(names)
    assert {name.split("/")[0] for name in names} <= KEPT | ROOMS
    assert not [name for name in names if "/." in name or name.endswith((".pyc", ".csv", ".ckpt"))]
    assert {f"models/mini/mini_{part}.safetensors" for part in ("unet", "text", "vae", "lsr", "decoder", "arbitrary", "clearsr")} <= set(names)
    assert {f"workflows/{shown.title}.{kind}" for shown in SHELF.values() for kind in ("json", "jpg")} <= set(names)
    assert {f"subgraphs/{title}.json" for title in blueprints.BLUEPRINTS} <= set(names)
    assert archive.stat().st_size < 50e6
    assert sum(file.file_size for file in zipfile.ZipFile(archive).infolist() if file.filename.startswith("docs/")) < 3e6


def test_it_is_the_same_again(archive, tmp_path):
    assert pack.build(tmp_path).read_bytes() == archive.read_bytes()


def test_a_scan_finds_nothing_in_it(archive):
    file = zipfile.ZipFile(archive)
    assert [found for name in file.namelist() for found in scan.findings(name, file.read(name))] == []


def test_the_registry_s_own_command_finds_nothing_in_it(installed, tmp_path):
    comfy = os.environ.get("LOUPE_REGISTRY", "")
    if not os.path.exists(comfy):
        pytest.skip("comfy-cli is set up by `python dev.py test`")
    home = {**os.environ, "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    done = subprocess.run([comfy, "--skip-prompt", "--no-enable-telemetry", "node", "validate"], cwd=installed, env=home, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0 and "checks passed" in done.stdout + done.stderr, done.stdout + done.stderr


def test_its_nodes_are_those_of_the_checkout(clean_server, server):
    clean, checkout = ({name for name in Client(one.url).get_json("/object_info") if name.startswith("Loupe")} for one in (clean_server, server))
    assert clean == checkout and len(clean) > 20


def test_its_first_template_runs(clean_server, server, installed):
    """The first that needs no file: the demo's."""
    workflow = json.loads((installed / "workflows" / "api" / f"{next(name for name, shown in SHELF.items() if 'mini world' in shown.title)}.json").read_text(encoding="utf-8"))
    result = find_node(workflow, "SaveImage", "Upscaled image")
    images = [np.asarray(client.images(client.run(workflow), result)[0], int) for client in map(Client, (clean_server.url, server.url))]
    assert images[0].shape == (256, 256, 3) and np.abs(images[0] - images[1]).max() <= 1  # of 255


def test_its_command_line_trains_in_one_process(comfyui, python, clean_server):
    """As in a folder of ComfyUI, which is not written to: its files, and the pack that the server has."""
    code = "import sys; sys.path[:0] = sys.argv[1:3]; sys.argv[1:3] = []; from importlib import import_module as get; sys.exit(get('custom_nodes.ComfyUI-Loupe.__main__').main(sys.argv[1:]))"
    helped = subprocess.run([python, "-c", code, clean_server.base, comfyui, "train", "lsr", "--help"], cwd=clean_server.base, capture_output=True, text=True)
    assert helped.returncode == 0 and "--steps" in helped.stdout and "--ranks" not in helped.stdout, helped.stderr

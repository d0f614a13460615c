"""dev.py run on two servers and on a Ray cluster."""

import importlib.util
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from loupe.headless.client import Client
from loupe.tools import run
from loupe.tools.server import PACK, Server
from PIL import Image

WORKFLOW = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "x.png"}},
    "2": {"class_type": "LoupeLoadMini", "inputs": {}},
    "3": {"class_type": "VAEEncode", "inputs": {"pixels": ["1", 0], "vae": ["2", 2]}},
    "4": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["2", 1], "text": ""}, "_meta": {"title": "Prompt"}},
    "5": {"class_type": "KSampler", "inputs": {"model": ["2", 0], "positive": ["4", 0], "negative": ["4", 0], "latent_image": ["3", 0], "seed": 1, "steps": 1, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 0.5}, "_meta": {"title": "Draw"}},
    "6": {"class_type": "VAEDecode", "inputs": {"samples": ["5", 0], "vae": ["2", 2]}},
    "7": {"class_type": "SaveImage", "inputs": {"images": ["6", 0], "filename_prefix": "drawn"}, "_meta": {"title": "Drawn"}},
    "8": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "given"}, "_meta": {"title": "Given"}},
}


@pytest.fixture(scope="module")
def second_server(comfyui, tmp_path_factory):
    with Server(comfyui, tmp_path_factory.mktemp("second")) as server:
        yield server


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(5):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (64, 64 + 8 * i, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    (folder / "broken.png").write_text("no image", encoding="utf-8")
    (tmp_path / "workflow.json").write_text(json.dumps(WORKFLOW), encoding="utf-8")
    return folder


def command(comfyui, images, *more):
    return [sys.executable, PACK / "dev.py", "inside", comfyui, "run", images.parent / "workflow.json", "--input", images, "--output", images.parent / "out", *more]


def lines(output):
    return {line["image"]: line for line in map(json.loads, output.splitlines())}


def busy(client, deadline=180):
    end = time.monotonic() + deadline
    while not client.get_json("/queue")["queue_running"]:
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs signals")
def test_run_on_two_servers_one_is_killed(comfyui, server, second_server, images):
    both = ["--server", server.url, second_server.url, "--set", "Draw.steps=60", "--set", "Prompt.text=red star"]
    with subprocess.Popen(command(comfyui, images, *both), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        busy(Client(second_server.url))
        second_server.process.kill()
        output, errors = running.communicate(timeout=300)
    assert running.returncode == 1, errors
    report = lines(output)
    assert sorted(report) == ["0.png", "1.png", "2.png", "3.png", "4.png", "broken.png"]
    assert report["broken.png"]["result"] == "failed" and "LoadImage" in report["broken.png"]["error"]
    assert {report[f"{i}.png"]["result"] for i in range(5)} == {"done"}
    assert f"{second_server.url} gets no more images" in errors
    out = images.parent / "out"
    written = {file: file.stat().st_mtime_ns for file in out.glob("*.png")}
    assert sorted(file.name for file in written) == sorted(f"{i}_{title}.png" for i in range(5) for title in ("Drawn", "Given"))
    for i in range(5):
        assert (np.asarray(Image.open(out / f"{i}_Given.png")) == np.asarray(Image.open(images / f"{i}.png"))).all()
        assert Image.open(out / f"{i}_Drawn.png").size == (64 + 8 * i, 64)

    (images / "broken.png").unlink()
    again = subprocess.run(command(comfyui, images, *both), capture_output=True, text=True, timeout=180)
    assert again.returncode == 0, again.stderr  # nothing is left to do, so the lost server is not asked
    assert {line["result"] for line in lines(again.stdout).values()} == {"skipped"}
    assert {file: file.stat().st_mtime_ns for file in out.glob("*.png")} == written


def test_interrupted_run_leaves_nothing_on_the_server(comfyui, server, images):
    client = Client(server.url)
    with subprocess.Popen(command(comfyui, images, "--server", server.url, "--set", "Draw.steps=5000"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        busy(client)
        running.terminate()
        running.communicate(timeout=120)
    assert running.returncode == 130
    end = time.monotonic() + 60
    while any(client.get_json("/queue").values()):
        assert time.monotonic() < end
        time.sleep(0.1)
    assert list((images.parent / "out").rglob("*.*")) == [images.parent / "out" / ".done"]


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
def test_run_on_ray(comfyui, images):
    finished = subprocess.run(command(comfyui, images, "--ray", "local"), capture_output=True, text=True, timeout=300)
    assert finished.returncode == 1, finished.stderr
    report = lines(finished.stdout)
    assert "LoadImage" in report.pop("broken.png")["error"]
    assert {line["result"] for line in report.values()} == {"done"} and len(report) == 5


def test_mistakes_are_said_before_anything_starts(comfyui, server, images, capsys):
    for change, message in (
        (["--server", "http://127.0.0.1:9"], "no ComfyUI answers there"),
        (["--server", server.url, "--set", "5.stepz=3"], "has no input 'stepz'"),
    ):
        assert run.main(comfyui, None, list(map(str, command(comfyui, images, *change)[5:]))) == 2
        assert message in capsys.readouterr().err
    foreign = {**WORKFLOW, "9": {"class_type": "NoSuchNode", "inputs": {}}}
    (images.parent / "workflow.json").write_text(json.dumps(foreign), encoding="utf-8")
    assert run.main(comfyui, None, list(map(str, command(comfyui, images, "--server", server.url)[5:]))) == 2
    assert "has no node NoSuchNode" in capsys.readouterr().err


def test_a_refused_workflow_fails_every_image_with_the_reason(comfyui, server, images, capsys):
    arguments = list(map(str, command(comfyui, images, "--server", server.url, "--set", "Draw.sampler_name=no such sampler")[5:]))
    assert run.main(comfyui, None, arguments) == 1
    report = lines(capsys.readouterr().out)
    assert len(report) == 6
    assert all("Draw: Value not in list" in line["error"] for line in report.values())

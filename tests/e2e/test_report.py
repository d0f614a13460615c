"""A whole report on a running server, with the mini world."""

import json
import signal
import subprocess
import sys
import time

import pytest
from loupe.headless.client import Client, Refused, ServerLost, WorkflowError
from loupe.headless.report import command, measure
from loupe.tools.server import PACK
from PIL import Image, ImageDraw

WAYS = ["Loupe", "ComfyUI, whole canvas"]
TILED = "Ultimate SD Upscale"


@pytest.fixture
def image(tmp_path):
    """An image whose name and metadata must not come into the page."""
    file = tmp_path / "jane.png"
    drawn = Image.new("RGB", (150, 128), "#7ec850")
    ImageDraw.Draw(drawn).ellipse((20, 20, 60, 60), "red")
    exif = Image.Exif()
    exif[0x010E] = "at home of jane"
    drawn.save(file, exif=exif)
    return file


@pytest.fixture
def report(server, image, tmp_path):
    """report(*arguments): (exit code, folder of the report)."""

    def call(*arguments):
        folder = tmp_path / "out"
        given = ["--image", str(image), "--server", server.url, "--output", str(folder), "--longest", "128", *arguments]
        return command.main(given), folder

    return call


def test_a_report_of_the_mini_world(report, server, tmp_path):
    code, folder = report("--workflow", "upscale_flow", "--set", "What the image shows.text=red star <b>on</b> grass", "--set", "Regional Denoise.region_width=128", "--set", "Regional Denoise.region_height=128")
    assert code == 0
    assert sorted(file.name for file in folder.iterdir()) == ["report.html", "report.json"]
    assert not list(tmp_path.glob(".*"))
    text, html = ((folder / f"report.{kind}").read_text(encoding="utf-8") for kind in ("json", "html"))
    told = json.loads(text)
    assert told["image"] == {"given": [150, 128], "used": [128, 109], "result": [256, 216]}
    ways = {way["name"]: way for way in told["ways"]}
    info = Client(server.url).get_json("/object_info")
    assert list(ways) == WAYS + [TILED] * ("UltimateSDUpscaleNoUpscale" in info)
    loupe, core = (ways[name] for name in WAYS)
    assert loupe["steps"] == core["steps"] == 8 and loupe["denoise"] == core["denoise"]
    assert core["rows"] == 8 and core["row"] == [256, 216]
    assert loupe["rows"] % 8 == 0 and loupe["rows"] > 8 and loupe["row"] == [128, 128]
    assert all(way["seconds"] > 0 and way["memory"] > 0 and way["error"] is None for way in ways.values())
    assert html.count("data:image/jpeg;base64,") == 2 * (1 + len(ways))
    assert "red star &lt;b&gt;on&lt;/b&gt; grass" in html and "<b>" not in html
    for private in (str(tmp_path), str(server.base), "jane", server.url, "example.png"):
        assert private not in html and private not in text
    if TILED not in ways:
        assert list(told["left out"]) == [TILED] and "install the pack" in html


def test_guided_rows_count_both_branches(report):
    code, folder = report("--workflow", "upscale_flow", "--set", "Draw.cfg=2", "--set", "Creativity.preset=fast")
    ways = {way["name"]: way for way in json.loads((folder / "report.json").read_text(encoding="utf-8"))["ways"]}
    assert code == 0 and ways[WAYS[1]]["rows"] == 2 * 4


@pytest.mark.parametrize("kind", (WorkflowError, ServerLost))
def test_a_way_that_fails_is_a_result(report, monkeypatch, kind):
    def fails(client, graph):
        if any(node["class_type"] == "BasicScheduler" for node in graph.values()):
            raise kind("Draw: Allocation on device in /home/jane/comfy/sd.py")
        return measure.measure(client, graph)

    monkeypatch.setattr("loupe.headless.report.ways.measure", fails)
    code, folder = report("--workflow", "upscale_flow", "--set", "Creativity.preset=fast")
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert code == 1 and "ComfyUI, whole canvas failed: Draw: Allocation on device in …/sd.py" in html


@pytest.mark.parametrize("kind", (Refused, ServerLost))
def test_without_a_run_of_loupe_there_is_no_report(report, monkeypatch, capsys, kind):
    def fails(client, graph):
        raise kind("gone")

    monkeypatch.setattr("loupe.headless.report.ways.measure", fails)
    code, folder = report("--workflow", "upscale_flow")
    assert code == 1 and "nothing was written: gone" in capsys.readouterr().err
    assert not folder.exists() and not list(folder.parent.glob(".*"))


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_ctrl_c_ends_it_on_the_server_too(comfyui, server, image):
    client, folder = Client(server.url), image.parent / "out"
    command = [sys.executable, PACK / "dev.py", "inside", comfyui, "report", "--image", image, "--server", server.url, "--output", folder]
    command += ["--workflow", "upscale_flow", "--set", "Creativity.preset=thorough", "--runs", "1000"]
    heed = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed) as running:
        while "run 1 of 1000" not in running.stderr.readline():
            assert running.poll() is None
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=300)
    assert running.returncode == 130 and not folder.exists() and not list(folder.parent.glob(".*"))
    end = time.monotonic() + 60
    while any(client.get_json("/queue").values()):
        assert time.monotonic() < end
        time.sleep(0.1)


def test_mistakes_are_said_before_anything_runs(report, server, image, capsys):
    client = Client(server.url)
    before = client.get_json("/history")
    for arguments, message in (
        (["--workflow", "upscale_all"], "--workflow upscale_all: expected one of upscale_sdxl, "),
        (["--checkpoint", "none.safetensors"], "Load Checkpoint.ckpt_name is 'none.safetensors', which the server does not list. It lists: "),
        (["--checkpoint", "none.safetensors", "--workflow", "upscale_zimage"], "does not load one checkpoint"),
        (["--workflow", "upscale_zimage"], "Load Diffusion Model.unet_name is "),
        (["--workflow", "upscale_flow", "--set", "Enlarge Image.scale_by=99"], "Enlarge Image.scale_by is 99; expected 1.0 to 16.0"),
        (["--workflow", "upscale_flow", "--set", "Sampler.sampler_name=eule"], "Sampler.sampler_name is 'eule', which the server does not list"),
        ([], "--checkpoint NAME for SDXL"),
        (["--image", "gone.png"], "--image gone.png: no such file"),
        (["--image", __file__], "this is no image that can be read"),
        (["--output", str(image.parent)], "exists already"),
        (["--server", "http://127.0.0.1:9"], "no ComfyUI answers there"),
    ):
        code, folder = report(*arguments)
        assert code == 2 and message in capsys.readouterr().err
        assert not folder.exists() and not list(image.parent.glob(".*"))
    assert client.get_json("/history") == before

"""A ComfyUI server with the pack, for the length of a `with` block."""

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import torch

PACK = Path(__file__).resolve().parent.parent
NOT_SHIPPED = shutil.ignore_patterns(".*", "__pycache__", "output", "runs")
START_SECONDS = 300
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback never goes through a proxy


class ServerError(Exception):
    pass


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def install_pack(base, pack=PACK):
    """Copy the pack to where a user's ComfyUI has it, replacing an older copy."""
    target = base / "custom_nodes" / "ComfyUI-Loupe"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(pack, target, ignore=NOT_SHIPPED)


class Server:
    """ComfyUI on the loopback interface. It reads and writes files only below `base`.

    comfyui: ComfyUI's folder. base: folder for custom_nodes, input, output, temp and user files.
    port: a free one by default. arguments: more of main.py's arguments.
    log: where its output goes; by default the file `log_file`, quoted when the server dies.
    pack: the folder that is installed. python: whose packages it has.
    """

    def __init__(self, comfyui, base, port=None, arguments=(), log=None, pack=PACK, python=sys.executable):
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.base = Path(base)
        self.log_file = self.base / "server.log"
        self.log = log
        self.pack = pack
        device = [] if getattr(torch, "accelerator", torch.cuda).is_available() else ["--cpu"]
        self.command = [
            str(python), str(Path(comfyui) / "main.py"), *device, "--disable-api-nodes",
            "--base-directory", str(self.base), "--database-url", "sqlite:///:memory:",
            "--listen", "127.0.0.1", "--port", str(self.port), "--preview-method", "latent2rgb", *arguments,
        ]

    def __enter__(self):
        install_pack(self.base, self.pack)
        with open(self.log_file, "wb") as log_file:
            log = self.log or log_file
            self.process = subprocess.Popen(self.command, stdout=log, stderr=subprocess.STDOUT)
        try:
            self.wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def wait_until_ready(self):
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            if self.process.poll() is not None:
                raise ServerError(f"ComfyUI stopped with exit code {self.process.returncode} while starting.\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise ServerError(f"ComfyUI did not answer within {START_SECONDS} s.\n{self.log_tail()}")
            time.sleep(0.2)

    def answers(self):
        try:
            with OPENER.open(f"{self.url}/system_stats", timeout=5) as answer:
                return "system" in json.load(answer)
        except OSError:
            return False

    def log_tail(self, lines=30):
        return "\n".join(self.log_file.read_text(errors="replace", encoding="utf-8").splitlines()[-lines:])

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

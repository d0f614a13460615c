"""One run on the server with its seconds, its memory and what Loupe says of it."""

import asyncio
import re
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field

import aiohttp

from ..client import Client, WorkflowError
from .graphs import FRESH, RESULT

INTERVAL = 0.2  # seconds between two looks at the memory


@dataclass
class Measured:
    """memory: largest bytes in use on the device, None where the server was never asked in time. views: regions that
    the network saw for each guidance branch, by Loupe's own count; at_once: those of one evaluation. region, canvas:
    (height, width) in latent cells."""

    began: float = 0.0
    seconds: float = 0.0
    memory: int | None = None
    views: int | None = None
    at_once: int | None = None
    region: tuple | None = None
    canvas: tuple | None = None
    images: list = field(default_factory=list)

    @property
    def evaluations(self):
        return self.views // self.at_once if self.views and self.at_once else None

    def watch(self, kind, data):
        if kind == "execution_start":
            self.began = time.monotonic()
        elif kind == "executing" and data["node"] is None:
            self.seconds = round(time.monotonic() - self.began, 3)
        elif kind == "loupe.progress" and not data.get("notice"):
            self.hear(data)

    def hear(self, data):
        self.canvas = tuple(data["canvas"])
        if data["regions"]:
            self.region = tuple(data["regions"][0][2:])
        if seen := re.match(r"(\d+) views in ", data["text"]):
            self.views = int(seen[1])
        if of := re.search(r"views? [\d-]+ of (\d+)", data["text"]):
            self.at_once = int(of[1])


class Memory:
    """The largest memory in use on the server's first device during a `with` block."""

    def __init__(self, url):
        self.client, self.largest, self.ended = Client(url), None, threading.Event()
        self.thread = threading.Thread(target=self.look, daemon=True)

    def look(self):
        while True:
            with suppress(OSError, ValueError, asyncio.TimeoutError, aiohttp.ClientError):
                device = self.client.get_json("/system_stats")["devices"][0]
                self.largest = max(self.largest or 0, device["vram_total"] - device["vram_free"])
            if self.ended.wait(INTERVAL):
                return

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()


def measure(client, graph):
    """Run a graph of `graphs.fresh`. Raises WorkflowError."""
    measured = Measured()
    with Memory(client.url) as memory:
        run = client.run(graph, measured.watch)
    if {FRESH, RESULT} & set(run.cached):
        raise WorkflowError("the server took the result from its cache, so there is no time to tell")
    measured.memory = memory.largest
    measured.images = client.images(run, RESULT)
    return measured

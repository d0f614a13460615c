"""How far a run is: ComfyUI's progress bar, and for the page words and the regions at work."""

import logging
import time

import comfy.utils
from comfy_execution.progress import get_progress_state
from comfy_execution.utils import get_executing_context

EVENT = "loupe.progress"
INTERVAL = 0.1  # seconds between two messages of a kind to the page


class Page:
    """The page that started the running node."""

    def __init__(self, server, prompt_id: str, node_id: str):
        self.server, self.prompt_id, self.node_id = server, prompt_id, node_id
        self.told = {}  # when, by whether there were regions: a look at the whole picture hides none

    def tell(self, text: str, canvas: tuple[int, int], regions: list, last: bool = False) -> None:
        """Show `text` below the node, and `regions` (y, x, height, width; latent cells) on maps of `canvas`."""
        now = time.monotonic()
        client = self.server.client_id
        kind = bool(regions)
        if client is None or (now - self.told.get(kind, -INTERVAL) < INTERVAL and not last):
            return
        self.told[kind] = now
        self.server.send_progress_text(text, self.node_id, client)
        self.server.send_sync(EVENT, {"prompt_id": self.prompt_id, "node": self.node_id, "text": text, "canvas": canvas, "regions": regions}, client)


def page() -> Page | None:
    """None outside a server."""
    context = get_executing_context()
    if context is None:
        return None
    web = get_progress_state().handlers.get("webui")
    server = getattr(web, "server_instance", None)
    return None if server is None else Page(server, context.prompt_id, context.node_id)


def notice(text: str) -> None:
    """Say `text` in the log and below the node that runs."""
    logging.warning(text)
    shown = page()
    if shown is not None and shown.server.client_id is not None:
        shown.server.send_progress_text(text, shown.node_id, shown.server.client_id)


class Progress:
    """Progress of one sampler run on a canvas (height, width; latent cells), counted in pictures that
    the network sees for each guidance branch. It never goes back where a step is evaluated more than once.

    steps, total: of the whole bar. end: where this run leaves it, `total` by default. later: pictures of
    the runs of the same node that follow.
    """

    def __init__(self, canvas: tuple[int, int], steps: int, total: int, end: int | None = None, later: int = 0):
        self.canvas, self.steps, self.later = canvas, steps, later
        self.end = total if end is None else end
        self.bar = comfy.utils.ProgressBar(total)
        self.page = page()
        self.began = time.monotonic()
        self.furthest = self.seen = 0
        self.warm = None  # (time, furthest, seen) after the first network call, which is slower

    def begin(self, step: int, done: int, count: int) -> None:
        """An evaluation of `count` pictures for step `step`; `done` came before it."""
        self.step, self.before, self.done, self.count = step, done, done, count

    def show(self, views: list) -> None:
        """The network is about to see `views`."""
        if self.page is not None:
            self.page.tell(self.words(len(views)), self.canvas, [view.region for view in views if view.region is not None])

    def update(self, count: int) -> None:
        """It has seen `count` of them."""
        self.done += count
        self.seen += count
        self.furthest = max(self.furthest, self.done)
        self.bar.update_absolute(self.furthest)
        now = time.monotonic()
        if self.warm is None:
            self.warm = now, self.furthest, self.seen
        if self.page is not None and self.furthest == self.end:
            self.page.tell(f"{self.seen} regions in {clock(now - self.began)}", self.canvas, [], last=True)

    def words(self, at_once: int) -> str:
        """What is being done with the next `at_once` pictures, their rate and the time left, once known."""
        first = self.done - self.before + 1
        last = first + at_once - 1
        words = [f"step {self.step + 1} of {self.steps}", f"region {first} of {self.count}" if at_once == 1 else f"regions {first}-{last} of {self.count}"]
        if self.warm is not None and self.furthest > self.warm[1]:
            began, furthest, seen = self.warm
            elapsed = time.monotonic() - began
            words.append(f"{(self.seen - seen) / elapsed:.1f} regions/s")
            words.append(f"{clock((self.end - self.furthest + self.later) / (self.furthest - furthest) * elapsed)} left")
        return " · ".join(words)


def clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"

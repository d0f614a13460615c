"""How far a run is: ComfyUI's progress bar, and for the browser words and the regions at work."""

import itertools
import logging
import time
from typing import NamedTuple

import comfy.utils
from comfy_execution.graph_utils import is_link
from comfy_execution.progress import get_progress_state
from comfy_execution.utils import get_executing_context

from .sizes import Grid

EVENT = "loupe.progress"
RUN_EVENT = "loupe.run"
INTERVAL = 0.1  # seconds between two messages of a kind to the browser
MOST_LEVELS = 4096  # of a run that is told to the browser


class Browser:
    """The browser that started the running node."""

    def __init__(self, server, prompt_id: str, node_id: str):
        self.server, self.prompt_id, self.node_id = server, prompt_id, node_id
        self.told = {}  # when, by whether there were regions: an evaluation of the whole image keeps the highlights

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

    def note(self, text: str) -> None:
        """Show `text` below the node, and with the last words on its run."""
        client = self.server.client_id
        if client is None:
            return
        self.server.send_progress_text(text, self.node_id, client)
        self.server.send_sync(EVENT, {"prompt_id": self.prompt_id, "node": self.node_id, "text": text, "notice": True}, client)

    def began(self, makers: list["Maker"], run) -> None:
        """A `run` begins of a model with what `makers` have put on it: where they are now, the levels as timesteps, the
        ratios of noise to signal of a model that has timesteps of its own, the pixels of its cells and of its native
        side."""
        client = self.server.client_id
        if client is None or not 2 <= len(run.schedule) <= MOST_LEVELS:
            return
        nodes = places(makers, get_progress_state().dynprompt, self.node_id)
        if nodes:
            grid = Grid.of(run.model)
            self.server.send_sync(RUN_EVENT, {"prompt_id": self.prompt_id, "nodes": nodes, "timesteps": run.timesteps, "table": run.levels.table, "pixels_per_cell": grid.pixels_per_cell, "native": grid.native}, client)


class Maker(NamedTuple):
    """The node that has made something, and its class."""

    node: str
    kind: str

    @classmethod
    def executing(cls) -> "Maker | None":
        """None outside a server."""
        context, prompt = get_executing_context(), get_progress_state().dynprompt
        return cls(context.node_id, prompt.get_node(context.node_id)["class_type"]) if context and prompt.has_node(context.node_id) else None


def places(makers: list[Maker], prompt, node: str) -> list[str]:
    """Ids of `makers` among `node` of `prompt` (DynamicPrompt) and what leads to it. ComfyUI keeps outputs by what they are
    made of: one that was made under another id stands for the nearest of its class."""
    kinds = {}
    for found in upstream(prompt, node):
        kinds.setdefault(prompt.get_node(found)["class_type"], []).append(found)
    alike = [(maker, kinds[maker.kind]) for maker in makers if maker.kind in kinds]
    return sorted({maker.node if maker.node in found else found[0] for maker, found in alike})


def upstream(prompt, node: str) -> list[str]:
    """Ids of `node` and of what leads to it, the nearest first."""
    found = [node] if prompt.has_node(node) else []
    for each in found:
        links = [value[0] for value in prompt.get_node(each)["inputs"].values() if is_link(value)]
        found += [other for other in dict.fromkeys(links) if other not in found and prompt.has_node(other)]
    return found


def browser() -> Browser | None:
    """None outside a server."""
    context = get_executing_context()
    if context is None:
        return None
    web = get_progress_state().handlers.get("webui")
    server = getattr(web, "server_instance", None)
    return None if server is None else Browser(server, context.prompt_id, context.node_id)


def notice(text: str) -> None:
    """Say `text` in the log and below the node that runs."""
    logging.getLogger("loupe").warning("Loupe: %s", text)
    shown = browser()
    if shown is not None:
        shown.note(text)


class Span(NamedTuple):
    """Place of a run in a node that samples several times: steps and views of the runs before it, steps of all of
    them, views of the runs that follow."""

    steps_before: int = 0
    views_before: int = 0
    steps: int = 0
    later: int = 0


class Progress:
    """Progress of one sampler run on a canvas (height, width; latent cells), counted in views that the network sees
    for each guidance branch. It never goes back where a step is evaluated more than once.

    counts: views of each step of the run. span: None for a node that samples once.
    """

    def __init__(self, canvas: tuple[int, int], counts: list[int], span: Span | None = None):
        self.canvas, self.span = canvas, span or Span(steps=len(counts))
        self.before = [self.span.views_before, *(self.span.views_before + done for done in itertools.accumulate(counts))]
        self.end = self.before[-1]
        total = self.end + self.span.later
        self.bar = comfy.utils.ProgressBar(total)
        self.browser = browser()
        self.began = time.monotonic()
        self.step = self.furthest = self.seen = 0
        self.warm = None  # (time, furthest, seen) after the first network call, which is slower

    def begin(self, step: int) -> "Progress":
        """An evaluation for step `step` of the run."""
        self.step, self.done = step, self.before[step]
        return self

    def show(self, views: list) -> None:
        """The network is about to see `views`."""
        if self.browser is not None:
            self.browser.tell(self.words(len(views)), self.canvas, [view.region for view in views if view.region is not None])

    def skip(self, count: int) -> None:
        """It need not see `count` of them."""
        self._advance(count)

    def update(self, count: int) -> None:
        """It has seen `count` of them."""
        self.seen += count
        self._advance(count)
        if self.warm is None:
            self.warm = time.monotonic(), self.furthest, self.seen

    def _advance(self, count):
        self.done += count
        self.furthest = max(self.furthest, self.done)
        self.bar.update_absolute(self.furthest)
        if self.browser is not None and self.furthest == self.end:
            self.browser.tell(f"{self.seen} views in {clock(time.monotonic() - self.began)}", self.canvas, [], last=True)

    def stop(self) -> None:
        """The run ends before its last step."""
        if self.browser is not None:
            self.browser.tell(f"stopped at step {self.span.steps_before + self.step + 1} of {self.span.steps}", self.canvas, [], last=True)

    def words(self, at_once: int) -> str:
        """What is being done with the next `at_once` views, their rate and the time left, once known."""
        count, first = self.before[self.step + 1] - self.before[self.step], self.done - self.before[self.step] + 1
        last = first + at_once - 1
        words = [f"step {self.span.steps_before + self.step + 1} of {self.span.steps}", f"view {first} of {count}" if at_once == 1 else f"views {first}-{last} of {count}"]
        if self.warm is not None and self.furthest > self.warm[1]:
            began, furthest, seen = self.warm
            elapsed = time.monotonic() - began
            words.append(f"{(self.seen - seen) / elapsed:.1f} views/s")
            words.append(f"{clock((self.end - self.furthest + self.span.later) / (self.furthest - furthest) * elapsed)} left")
        return " · ".join(words)


def clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"

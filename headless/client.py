"""Run API-format workflows on a ComfyUI server over its HTTP and websocket API."""

import asyncio
import io
import json
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field

import aiohttp
from aiohttp import ClientSession
from PIL import Image

TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=60, sock_read=60)  # seconds
HEARTBEAT = 120  # seconds; a server that leaves a ping unanswered for half of them is gone


class WorkflowError(Exception):
    """A workflow that the server refused, that a node failed in, or that was interrupted (`interrupted`)."""

    def __init__(self, message, interrupted=False):
        super().__init__(message)
        self.interrupted = interrupted


class Refused(WorkflowError):
    """The server did not accept the workflow."""


class ServerLost(WorkflowError):
    """The server went away during the run."""


@dataclass
class Run:
    """What one run left: outputs by node id as in /history, the ids of nodes that came from the cache, seconds."""

    prompt_id: str
    seconds: float = 0.0
    cached: list = field(default_factory=list)
    outputs: dict = field(default_factory=dict)


def find_node(workflow, class_type=None, title=None):
    """The id of the one node with this class and title."""
    found = [
        node_id for node_id, node in workflow.items()
        if class_type in (None, node["class_type"]) and title in (None, node.get("_meta", {}).get("title"))
    ]
    if len(found) != 1:
        raise LookupError(f"the workflow has {len(found)} nodes with class {class_type or 'any'} and title {title or 'any'}, expected one")
    return found[0]


def node_title(workflow, node_id):
    node = workflow.get(node_id, {})
    return node.get("_meta", {}).get("title") or node.get("class_type", node_id)


def refusal(workflow, answer):
    """What /prompt said against a workflow, as node, input and reason."""
    lines = [answer.get("error", {}).get("message", "Some outputs failed validation")]
    for node_id, errors in answer["node_errors"].items():
        lines += [f"{node_title(workflow, node_id)}: {error['message']}: {error['details']}" for error in errors["errors"]]
    return "\n".join(lines)


class Client:
    """One client of the server at `url`."""

    def __init__(self, url):
        self.url = url
        self.id = uuid.uuid4().hex
        self.task = None

    def get(self, path, **query):
        return asyncio.run(self._ask("GET", path, params={name: str(value) for name, value in query.items()}))

    def get_json(self, path, **query):
        return json.loads(self.get(path, **query))

    def post_json(self, path, data):
        return asyncio.run(self._ask("POST", path, json=data))

    async def _ask(self, method, path, **request):
        async with ClientSession(self.url, timeout=TIMEOUT) as session, session.request(method, path, **request) as answer:
            answer.raise_for_status()
            return await answer.read()

    def interrupt(self):
        self.post_json("/interrupt", {})

    def upload(self, image, name):
        """Store a PIL image in the server's input folder. Returns the name for LoadImage."""
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return self.upload_file(buffer.getvalue(), name)

    def upload_file(self, data, name, subfolder=""):
        """Store the bytes of an image file in the server's input folder. Returns the name for LoadImage."""
        stored = asyncio.run(self._upload(data, name, subfolder))
        return f"{stored['subfolder']}/{stored['name']}" if stored["subfolder"] else stored["name"]

    async def _upload(self, data, name, subfolder):
        form = aiohttp.FormData({"overwrite": "true", "subfolder": subfolder})
        form.add_field("image", data, filename=name, content_type="application/octet-stream")
        async with ClientSession(self.url) as session, session.post("/upload/image", data=form) as answer:
            answer.raise_for_status()
            return await answer.json()

    def images(self, run, node_id):
        """The images that an output node saved, as PIL images."""
        return [Image.open(io.BytesIO(self.get("/view", **image))) for image in run.outputs[node_id]["images"]]

    def run(self, workflow, watch=None):
        """Run a workflow to its end. Raises WorkflowError with the server's or the node's own message.

        watch: called with (event type, data) for every JSON event of this run.
        """
        return asyncio.run(self._run(workflow, watch or (lambda kind, data: None)))

    def cancel(self):
        """End `run` from another thread, and its work on the server."""
        if self.task and not self.task.done():
            self.task.get_loop().call_soon_threadsafe(self.task.cancel)

    async def _run(self, workflow, watch):
        self.task = asyncio.current_task()
        started = time.monotonic()
        async with ClientSession(self.url) as session, session.ws_connect(f"/ws?clientId={self.id}", max_msg_size=0, heartbeat=HEARTBEAT) as events:
            async with session.post("/prompt", json={"prompt": workflow, "client_id": self.id}) as answer:
                accepted = await answer.json()
            if accepted.get("error") or accepted["node_errors"]:
                if "prompt_id" in accepted:  # the server runs the outputs that are valid
                    await self._drop(session, accepted["prompt_id"])
                raise Refused(refusal(workflow, accepted))
            run = Run(accepted["prompt_id"])
            try:
                await self._follow(events, workflow, run, watch)
            except asyncio.CancelledError:
                with suppress(aiohttp.ClientError):  # the server may be on its way out too
                    await self._drop(session, run.prompt_id)
                raise
            async with session.get(f"/history/{run.prompt_id}") as answer:
                run.outputs = (await answer.json())[run.prompt_id]["outputs"]
        run.seconds = time.monotonic() - started
        return run

    async def _drop(self, session, prompt_id):
        await session.post("/queue", json={"delete": [prompt_id]})
        await session.post("/interrupt", json={"prompt_id": prompt_id})

    async def _follow(self, events, workflow, run, watch):
        async for message in events:
            if message.type is not aiohttp.WSMsgType.TEXT:  # previews are binary
                continue
            event = json.loads(message.data)
            kind, data = event["type"], event["data"]
            if data.get("prompt_id") != run.prompt_id:
                continue
            await asyncio.to_thread(watch, kind, data)  # it may ask the server something
            if kind == "execution_cached":
                run.cached = data["nodes"]
            elif kind == "execution_error":
                raise WorkflowError(f"{node_title(workflow, data['node_id'])}: {data['exception_message'].strip()}")
            elif kind == "execution_interrupted":
                raise WorkflowError("interrupted", interrupted=True)
            elif kind == "executing" and data["node"] is None:  # sent after /history has the run
                return
        raise ServerLost("the server closed the connection during the run")

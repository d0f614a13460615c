"""ComfyUI servers that run jobs, and how jobs are handed out to them."""

import asyncio
import hashlib
import sys
import time
from collections import deque
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import aiohttp

from .client import Client, Refused, ServerLost, WorkflowError, node_title
from .jobs import IMAGE, UsageError


class ServerWorker:
    """Runs jobs on one ComfyUI server."""

    def __init__(self, url):
        self.name = url
        self.client = Client(url)

    def check(self, workflow):
        try:
            known = self.client.get_json("/object_info")
        except (OSError, ValueError, asyncio.TimeoutError, aiohttp.ClientError) as error:
            raise UsageError(f"--server {self.name}: no ComfyUI answers there ({error}). Start it, or name one that runs.") from error
        missing = sorted({node["class_type"] for node in workflow.values()} - set(known))
        if missing:
            raise UsageError(f"--server {self.name} has no node {', '.join(missing)}")

    def run(self, job):
        """Everything that the run saved, [(title, file name, bytes)]; where it saved nothing, its previews."""
        try:
            data = job.image.read_bytes() if job.image else None
        except OSError as error:
            raise WorkflowError(str(error)) from error
        try:
            return self.saved(job, data)
        except aiohttp.ClientResponseError as error:
            raise WorkflowError(f"the server answered: {error}") from error
        except (OSError, asyncio.TimeoutError, aiohttp.ClientError) as error:
            raise ServerLost(f"the server does not answer: {error}") from error

    def saved(self, job, data):
        workflow = job.workflow
        if data is not None:
            name = self.client.upload_file(data, hashlib.sha256(data).hexdigest()[:16] + job.image.suffix.lower(), "loupe")
            workflow = {
                node_id: {**node, "inputs": {key: name if value == IMAGE else value for key, value in node["inputs"].items()}}
                for node_id, node in workflow.items()
            }
        outputs = self.client.run(workflow).outputs
        files = [(node_id, file) for node_id in workflow for items in outputs.get(node_id, {}).values() for file in items if isinstance(file, dict) and "filename" in file]
        files = [(node_id, file) for node_id, file in files if file.get("type") == "output"] or files
        if not files:
            raise WorkflowError("the workflow saves nothing. Add a Save Image node.")
        return [(node_title(workflow, node_id), file["filename"], self.client.get("/view", **file)) for node_id, file in files]

    def cancel(self):
        self.client.cancel()


def dispatch(jobs, workers, retries):
    """Run jobs on workers, one at a time each. Yields (job, worker or None, seconds, what it saved or WorkflowError).

    A job whose worker was lost goes to another one, at most `retries` times. A worker that was lost, or that refuses
    the workflow, gets no more jobs; when none is left, what waits fails with the last reason.
    """
    waiting, idle, running, reason = deque(jobs), list(workers), {}, None
    with ThreadPoolExecutor(max(1, len(idle))) as pool:
        try:
            while running or (waiting and idle):
                while waiting and idle:
                    worker, job = idle.pop(0), waiting.popleft()
                    running[pool.submit(worker.run, job)] = job, worker, time.monotonic()
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    job, worker, started = running.pop(future)
                    try:
                        result = future.result()
                    except (ServerLost, Refused) as error:
                        print(f"run: {worker.name} gets no more images: {error}", file=sys.stderr, flush=True)
                        job.losses += isinstance(error, ServerLost)
                        reason = result = error
                        if job.losses <= retries:
                            waiting.appendleft(job)
                            continue
                    except WorkflowError as error:
                        idle.append(worker)
                        result = error
                    else:
                        idle.append(worker)
                    yield job, worker, time.monotonic() - started, result
        except BaseException:
            for future, (_, worker, _) in running.items():
                if not future.cancel():
                    worker.cancel()
            raise
    for job in waiting:
        yield job, None, 0.0, WorkflowError(f"no server is left. The last one: {reason}")

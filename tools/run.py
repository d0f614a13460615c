"""python dev.py run: an API workflow over a folder of pictures, on ComfyUI servers or a Ray cluster.

Prints one JSON line a picture: picture, result (done, skipped or failed), files, seconds, server, error. The exit
code is 0 when every picture is done or skipped, 1 when one failed, 2 when nothing was started.

A finished picture leaves a note in OUTPUT/.done with the hash of the workflow, the settings and the picture; it is
skipped while that stands. Results are renamed into place when they are complete, the note last.
"""

import argparse
import asyncio
import hashlib
import json
import math
import os
import re
import sys
import tempfile
import time
from collections import deque
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError

import aiohttp

from .client import Client, Refused, ServerLost, WorkflowError, node_title
from .serve import BASE, model_folders
from .server import PACK, Server, ServerError

PICTURE = "{picture}"  # stands for the picture of a job in an input of the workflow
FORMATS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


class Mistake(Exception):
    """Something in the command that has to be changed before anything can start."""


# What to run


def read_workflow(file):
    try:
        workflow = json.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise Mistake(f"{file}: {error.strerror}") from error
    except ValueError as error:
        raise Mistake(f"{file} is not JSON: {error}") from error
    if isinstance(workflow, dict) and "nodes" in workflow:
        raise Mistake(f"{file} is a workflow of the page. Export it in API format (File > Export (API)).")
    if not workflow or not isinstance(workflow, dict) or not all(isinstance(node, dict) and {"class_type", "inputs"} <= set(node) for node in workflow.values()):
        raise Mistake(f"{file} is not a workflow in API format: it must map node ids to class_type and inputs")
    return workflow


def find_input(workflow, target):
    """(node id, input name) of NODE.INPUT, where NODE is an id or a title and may hold dots itself."""
    dots = [match.start() for match in re.finditer(r"\.", target)]
    for dot in dots:
        name, key = target[:dot], target[dot + 1 :]
        found = [name] if name in workflow else [node_id for node_id in workflow if node_title(workflow, node_id) == name]
        if len(found) > 1:
            raise Mistake(f"--set {target}: {len(found)} nodes are called '{name}'. Name one by its id: {', '.join(found)}")
        if found:
            inputs = workflow[found[0]]["inputs"]
            if key not in inputs:
                raise Mistake(f"--set {target}: '{name}' has no input '{key}' in this workflow. It has: {', '.join(inputs) or 'none'}")
            return found[0], key
    raise Mistake(f"--set {target}: no such node. Write NODE.INPUT=VALUE with an id or a title: {', '.join(f'{key} ({node_title(workflow, key)})' for key in workflow)}")


def parse_value(target, text, now):
    """The text as the type of the value that the workflow has now."""
    if isinstance(now, list):
        raise Mistake(f"--set {target}: this input is a link from node {now[0]}. Set an input of that node.")
    if isinstance(now, str):
        return text
    try:
        value = json.loads(text.lower() if isinstance(now, bool) else text)
    except ValueError:
        value = text
    if isinstance(now, bool) and not isinstance(value, bool):
        raise Mistake(f"--set {target}: '{text}' is not true or false")
    if isinstance(now, (int, float)) and (not isinstance(value, (int, float)) or isinstance(value, bool) != isinstance(now, bool) or not math.isfinite(value)):
        raise Mistake(f"--set {target}: '{text}' is not a number")
    return value


def set_inputs(workflow, settings):
    """Write every NODE.INPUT=VALUE into the workflow."""
    for setting in settings:
        target, equals, text = setting.partition("=")
        if not equals:
            raise Mistake(f"--set {setting}: write NODE.INPUT=VALUE")
        node_id, name = find_input(workflow, target)
        workflow[node_id]["inputs"][name] = text if text == PICTURE else parse_value(target, text, workflow[node_id]["inputs"][name])


def takes_picture(workflow):
    return any(value == PICTURE for node in workflow.values() for value in node["inputs"].values())


def place_picture(workflow):
    """Mark the input of the one Load Image node, unless a setting has marked one."""
    if takes_picture(workflow):
        return
    loaders = [node_id for node_id, node in workflow.items() if node["class_type"] == "LoadImage"]
    if len(loaders) != 1:
        named = ", ".join(f"{node_id} ({node_title(workflow, node_id)})" for node_id in loaders)
        raise Mistake(f"the workflow has {f'several Load Image nodes: {named}' if loaders else 'no Load Image node'}. Say which input takes the picture: --set NODE.INPUT={PICTURE}")
    workflow[loaders[0]]["inputs"]["image"] = PICTURE


def find_pictures(folder):
    folder = Path(folder)
    if not folder.is_dir():
        raise Mistake(f"--input {folder}: no such folder")
    pictures = sorted(file for file in folder.iterdir() if file.suffix.lower() in FORMATS and not file.name.startswith("."))
    if not pictures:
        raise Mistake(f"--input {folder}: no pictures ({', '.join(sorted(FORMATS))}) in this folder")
    names = {}
    for file in pictures:
        other = names.setdefault(file.stem.casefold(), file)
        if other is not file:
            raise Mistake(f"--input {folder}: {other.name} and {file.name} would get the same results. Rename one.")
    return pictures


@dataclass
class Job:
    """One run of the workflow. `picture` is None where it takes none."""

    name: str
    workflow: dict
    picture: Path | None = None
    losses: int = 0

    def __post_init__(self):
        self.label = self.picture.name if self.picture else self.name
        data = self.picture.read_bytes() if self.picture else b""
        self.fingerprint = hashlib.sha256(json.dumps(self.workflow, sort_keys=True).encode() + b"\0" + data).hexdigest()


def plan(options):
    """The jobs that the command asks for. Raises Mistake."""
    workflow = read_workflow(options.workflow)
    set_inputs(workflow, options.set)
    if options.input is None:
        if takes_picture(workflow):
            raise Mistake(f"--set NODE.INPUT={PICTURE} needs --input DIR")
        return [Job(Path(options.workflow).stem, workflow)]
    pictures = find_pictures(options.input)
    if Path(options.output).resolve() == Path(options.input).resolve():
        raise Mistake("--output is the folder of --input: results would be taken for pictures. Give another one.")
    place_picture(workflow)
    try:
        return [Job(file.stem, workflow, file) for file in pictures]
    except OSError as error:
        raise Mistake(f"--input {error.filename}: {error.strerror}") from error


# Where it is written


class Results:
    """The output folder."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.notes = self.folder / ".done"
        try:
            self.notes.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Mistake(f"--output {folder}: {error.strerror}") from error

    def note(self, job):
        return self.notes / f"{job.label}.json"

    def find(self, job):
        """The files of a job that is done, None for one that has to run."""
        try:
            note = json.loads(self.note(job).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        complete = note["fingerprint"] == job.fingerprint and all((self.folder / name).is_file() for name in note["files"])
        return note["files"] if complete else None

    def write(self, file, data):
        part = self.notes / f"{file.name}.part"
        part.write_bytes(data)
        os.replace(part, file)

    def keep(self, job, saved):
        """Write what a run saved, [(title, file name, bytes)]. Returns the names: JOB.png, or JOB_TITLE.png for several."""
        names = []
        for title, file, data in saved:
            stem, suffix = job.name, Path(file).suffix
            if len(saved) > 1:
                stem += "_" + re.sub(r"[^\w-]+", "_", title).strip("_")
            name, number = stem + suffix, 1
            while name in names:
                number += 1
                name = f"{stem}_{number}{suffix}"
            self.write(self.folder / name, data)
            names.append(name)
        note = {"fingerprint": job.fingerprint, "files": names}
        self.write(self.note(job), json.dumps(note).encode())
        return names


# Who runs it


class ServerWorker:
    """Runs jobs on one ComfyUI server."""

    def __init__(self, url):
        self.name = url
        self.client = Client(url)

    def check(self, workflow):
        try:
            known = self.client.get_json("/object_info")
        except (OSError, ValueError) as error:
            raise Mistake(f"--server {self.name}: no ComfyUI answers there ({getattr(error, 'reason', error)})") from error
        missing = sorted({node["class_type"] for node in workflow.values()} - set(known))
        if missing:
            raise Mistake(f"--server {self.name} has no node {', '.join(missing)}")

    def run(self, job):
        """Everything that the run saved, [(title, file name, bytes)]; where it saved nothing, its previews."""
        try:
            data = job.picture.read_bytes() if job.picture else None
        except OSError as error:
            raise WorkflowError(str(error)) from error
        try:
            return self.saved(job, data)
        except (HTTPError, aiohttp.ClientResponseError) as error:
            raise WorkflowError(f"the server answered: {error}") from error
        except (OSError, asyncio.TimeoutError, aiohttp.ClientError) as error:
            raise ServerLost(f"the server does not answer: {error}") from error

    def saved(self, job, data):
        workflow = job.workflow
        if data is not None:
            name = self.client.upload_file(data, hashlib.sha256(data).hexdigest()[:16] + job.picture.suffix.lower(), "loupe")
            workflow = {
                node_id: {**node, "inputs": {key: name if value == PICTURE else value for key, value in node["inputs"].items()}}
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


@contextmanager
def own_server(host):
    """A server of its own, with the models of `host` and of `dev.py serve`."""
    (PACK / ".cache").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=PACK / ".cache", ignore_cleanup_errors=True) as base:
        print(f"run: starting ComfyUI from {host}", file=sys.stderr, flush=True)
        with Server(host, base, arguments=model_folders(Path(base), host, BASE)) as server:
            yield [ServerWorker(server.url)]


@contextmanager
def servers(urls):
    yield [ServerWorker(url.rstrip("/")) for url in dict.fromkeys(urls)]


def workers(host, options):
    if options.ray is not None:
        try:
            from . import ray_cluster
        except ModuleNotFoundError as error:
            raise Mistake(f"--ray needs the package ray: {sys.executable} -m pip install ray") from error
        return ray_cluster.hosts(host, options.ray)
    return servers(options.server) if options.server else own_server(host)


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
                        print(f"run: {worker.name} gets no more pictures: {error}", file=sys.stderr, flush=True)
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


# Command line


def parse(arguments):
    parser = argparse.ArgumentParser(prog="dev.py run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("workflow", metavar="WORKFLOW.json", help="workflow in API format")
    parser.add_argument("--set", metavar="NODE.INPUT=VALUE", action="append", default=[], help=f"change an input; NODE is an id or a title, VALUE may be {PICTURE}")
    parser.add_argument("--input", metavar="DIR", help="folder of pictures, for the Load Image node; without it the workflow runs once")
    parser.add_argument("--output", metavar="DIR", required=True, help="folder for the results")
    parser.add_argument("--server", metavar="URL", nargs="+", action="extend", default=[], help="running ComfyUI servers; without any, one is started")
    parser.add_argument("--ray", metavar="ADDRESS", nargs="?", const="auto", help="use a Ray cluster: one ComfyUI for every GPU that it has")
    parser.add_argument("--retries", metavar="N", type=int, default=2, help="how often a picture may lose its server and go to another (default 2)")
    options = parser.parse_args(arguments)
    if options.ray is not None and options.server:
        parser.error("give --server or --ray, not both")
    return options


def report(job, result, **more):
    print(json.dumps({"picture": job.label, "result": result, **more}, ensure_ascii=False), flush=True)
    return result


def run_jobs(host, options, jobs, results):
    """Report every job. Returns the results in words."""
    open_jobs, words = [], []
    for job in jobs:
        files = results.find(job)
        if files is None:
            open_jobs.append(job)
        else:
            words.append(report(job, "skipped", files=files))
    if not open_jobs:
        return words
    with workers(host, options) as found:
        for worker in found:
            worker.check(open_jobs[0].workflow)
        with closing(dispatch(open_jobs, found, options.retries)) as finished:
            for job, worker, seconds, result in finished:
                told = {"seconds": round(seconds, 2), "server": worker.name if worker else None}
                try:
                    if isinstance(result, WorkflowError):
                        raise result
                    words.append(report(job, "done", files=results.keep(job, result), **told))
                except (WorkflowError, OSError) as error:
                    words.append(report(job, "failed", error=str(error), **told))
    return words


def main(host, _, arguments):
    options = parse(arguments)
    try:
        words = run_jobs(host, options, plan(options), Results(options.output))
    except (Mistake, ServerError, ServerLost) as error:
        print(f"run: {error}", file=sys.stderr)
        return 2
    print("run: " + ", ".join(f"{words.count(word)} {word}" for word in ("done", "skipped", "failed")), file=sys.stderr)
    return 1 if "failed" in words else 0

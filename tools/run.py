"""python dev.py run: the command of headless/run.py, with a ComfyUI started for it where no running one is named, or
one on every GPU of a Ray cluster."""

import sys
import tempfile
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from ..headless import run
from ..headless.jobs import UsageError
from .serve import BASE, model_folders
from .server import PACK, Server, ServerError


@contextmanager
def own_server(comfyui, command="run"):
    """URL of a server of its own, with the models of `comfyui` and of `dev.py serve`."""
    (PACK / ".cache").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=PACK / ".cache", ignore_cleanup_errors=True) as base:
        print(f"{command}: starting ComfyUI from {comfyui}", file=sys.stderr, flush=True)
        with Server(comfyui, base, arguments=model_folders(Path(base), comfyui, BASE)) as server:
            yield server.url


def cluster(start, address):
    """A worker for every GPU of the Ray cluster at `address`."""
    try:
        from .ray_cluster import machines
    except ModuleNotFoundError as error:
        raise UsageError(f"--ray needs the package ray: {sys.executable} -m pip install ray") from error
    return machines(start, address)


def main(comfyui, _, arguments):
    start = partial(own_server, Path(comfyui))
    try:
        return run.main(arguments, start, "dev.py run", partial(cluster, start))
    except ServerError as error:
        print(f"run: {error}", file=sys.stderr)
        return 2

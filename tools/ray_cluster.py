"""ComfyUI on every GPU of a Ray cluster, for dev.py run --ray.

Every machine of the cluster needs this checkout and its environment at the same path (a shared folder will do).
"""

import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

import ray
import ray.exceptions

from . import client, jobs, serve, server, workers


class Machine:
    """An actor: one ComfyUI server on its machine, on the GPU that Ray gave it."""

    def __init__(self, comfyui, base):
        self.base = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        folders = serve.model_folders(Path(self.base.name), comfyui, base)
        self.server = server.Server(comfyui, self.base.name, arguments=folders).__enter__()
        self.worker = workers.ServerWorker(self.server.url)

    def check(self, workflow):
        self.worker.check(workflow)

    def run(self, job):
        return self.worker.run(job)

    def cancel(self):
        self.worker.cancel()

    def stop(self):
        self.server.stop()
        self.base.cleanup()


class MachineWorker:
    """Runs jobs on one Machine."""

    def __init__(self, name, actor):
        self.name = name
        self.actor = actor

    def ask(self, method, *arguments):
        try:
            return ray.get(getattr(self.actor, method).remote(*arguments))
        except ray.exceptions.RayActorError as error:
            raise client.ServerLost(f"its machine is gone: {error}") from error
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error

    def check(self, workflow):
        self.ask("check", workflow)

    def run(self, job):
        return self.ask("run", job)

    def cancel(self):
        self.actor.cancel.remote()


@contextmanager
def machines(comfyui, address):
    """A worker for every GPU of the cluster, or one without a GPU where there is none."""
    for module in (sys.modules[__name__], client, jobs, serve, server, workers):
        ray.cloudpickle.register_pickle_by_value(module)
    ray.init(None if address == "local" else address, log_to_driver=False)
    gpus = int(ray.cluster_resources().get("GPU", 0))
    actor = ray.remote(Machine).options(num_gpus=1 if gpus else 0, max_concurrency=2)
    found = [MachineWorker(f"ray machine {i + 1}", actor.remote(Path(comfyui), serve.BASE)) for i in range(max(1, gpus))]
    try:
        yield found
    finally:
        for worker in found:
            with suppress(client.ServerLost):
                worker.ask("stop")
        ray.shutdown()

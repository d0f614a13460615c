"""ComfyUI on every GPU of a Ray cluster.

Every machine of the cluster needs the same checkout and its environment at the same path (a shared folder will do).
"""

import sys
from contextlib import contextmanager, suppress

import ray
import ray.exceptions

from ..headless.client import ServerLost
from ..headless.workers import ServerWorker


class Machine:
    """An actor: one ComfyUI server on its machine, on the GPU that Ray gave it. start: see `run.Start`."""

    def __init__(self, start):
        self.server = start()
        self.worker = ServerWorker(self.server.__enter__())

    def check(self, workflow):
        self.worker.check(workflow)

    def run(self, job):
        return self.worker.run(job)

    def cancel(self):
        self.worker.cancel()

    def stop(self):
        self.server.__exit__(None, None, None)


class MachineWorker:
    """Runs jobs on one Machine."""

    def __init__(self, name, actor):
        self.name = name
        self.actor = actor

    def ask(self, method, *arguments):
        try:
            return ray.get(getattr(self.actor, method).remote(*arguments))
        except ray.exceptions.RayActorError as error:
            raise ServerLost(f"its machine is gone: {error}") from error
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error

    def check(self, workflow):
        self.ask("check", workflow)

    def run(self, job):
        return self.ask("run", job)

    def cancel(self):
        self.actor.cancel.remote()


@contextmanager
def machines(start, address):
    """A worker for every GPU of the cluster, or one without a GPU where there is none."""
    # the machines cannot import the pack under its name here
    ray.cloudpickle.register_pickle_by_value(sys.modules[__package__.rpartition(".")[0]])
    ray.init(None if address == "local" else address, log_to_driver=False)
    gpus = int(ray.cluster_resources().get("GPU", 0))
    actor = ray.remote(Machine).options(num_gpus=1 if gpus else 0, max_concurrency=2)
    found = [MachineWorker(f"ray machine {i + 1}", actor.remote(start)) for i in range(max(1, gpus))]
    try:
        yield found
    finally:
        for worker in found:
            with suppress(ServerLost):
                worker.ask("stop")
        ray.shutdown()

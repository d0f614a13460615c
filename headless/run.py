"""An API workflow over a folder of images, on ComfyUI servers.

Prints one JSON line an image: image, result (done, skipped or failed), files, seconds, server, error. The exit
code is 0 when every image is done or skipped, 1 when one failed, 2 when nothing was started.

A finished image leaves a note in OUTPUT/.done with the hash of the workflow, the settings and the image; it is
skipped while that stands. Results are renamed into place when they are complete, the note last.
"""

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, contextmanager

from .client import ServerLost, WorkflowError
from .jobs import IMAGE, UsageError, plan
from .results import Results
from .workers import ServerWorker, dispatch

RUNNING = "http://127.0.0.1:8188"  # where ComfyUI listens unless told otherwise
Start = Callable[[], AbstractContextManager[str]]  # starts a ComfyUI server for a `with` block and gives its URL
Cluster = Callable[[str], AbstractContextManager[list]]  # the workers of the Ray cluster at an address, for a `with` block


def parse(arguments, start: Start | None = None, prog="run", cluster: Cluster | None = None):
    parser = argparse.ArgumentParser(prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("workflow", metavar="WORKFLOW.json", help="workflow in API format")
    parser.add_argument("--set", metavar="NODE.INPUT=VALUE", action="append", default=[], help=f"change an input; NODE is an id or a title, VALUE may be {IMAGE}")
    parser.add_argument("--input", metavar="DIR", help="folder of images, for the Load Image node; without it the workflow runs once")
    parser.add_argument("--output", metavar="DIR", required=True, help="folder for the results")
    parser.add_argument("--server", metavar="URL", nargs="+", action="extend", default=[], help="running ComfyUI servers; without any, " + ("one is started" if start else f"the one at {RUNNING}"))
    parser.add_argument("--ray", metavar="ADDRESS", nargs="?", const="auto", help="use a Ray cluster: one ComfyUI for every GPU that it has" + ("" if cluster else " (only from a checkout: python dev.py run)"))
    parser.add_argument("--retries", metavar="N", type=int, default=2, help="how often an image may lose its server and go to another (default 2)")
    options = parser.parse_args(arguments)
    if options.ray is not None and options.server:
        parser.error("give --server or --ray, not both")
    if options.ray is not None and cluster is None:
        parser.error("--ray starts a ComfyUI on every machine, which needs a checkout of the repository there: python dev.py run --ray. Here, start the servers yourself and name them with --server")
    return options


@contextmanager
def workers(options, start: Start | None, cluster: Cluster | None = None):
    """The workers that `options` ask for: running servers, machines of a Ray cluster, or a server of our own."""
    if options.ray is not None and cluster is not None:
        with cluster(options.ray) as found:
            yield found
    elif options.server or start is None:
        yield [ServerWorker(url) for url in dict.fromkeys(url.rstrip("/") for url in options.server or [RUNNING])]
    else:
        with start() as url:
            yield [ServerWorker(url)]


def report(job, result, **more):
    print(json.dumps({"image": job.label, "result": result, **more}, ensure_ascii=False), flush=True)
    return result


def run_jobs(options, start, cluster, jobs, results):
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
    with workers(options, start, cluster) as found:
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


def main(arguments, start: Start | None = None, prog="run", cluster: Cluster | None = None):
    """Run the command. start: how to start a server of our own; without it only running ones are used."""
    options = parse(arguments, start, prog, cluster)
    try:
        words = run_jobs(options, start, cluster, plan(options), Results(options.output))
    except (UsageError, ServerLost) as error:
        print(f"run: {error}", file=sys.stderr)
        return 2
    print("run: " + ", ".join(f"{words.count(word)} {word}" for word in ("done", "skipped", "failed")), file=sys.stderr)
    return 1 if "failed" in words else 0

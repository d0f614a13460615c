"""python dev.py run: an API workflow over a folder of pictures, on ComfyUI servers or a Ray cluster.

Prints one JSON line a picture: picture, result (done, skipped or failed), files, seconds, server, error. The exit
code is 0 when every picture is done or skipped, 1 when one failed, 2 when nothing was started.

A finished picture leaves a note in OUTPUT/.done with the hash of the workflow, the settings and the picture; it is
skipped while that stands. Results are renamed into place when they are complete, the note last.
"""

import argparse
import json
import sys
from contextlib import closing

from .client import ServerLost, WorkflowError
from .jobs import PICTURE, Mistake, plan
from .results import Results
from .server import ServerError
from .workers import dispatch, workers


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


def run_jobs(comfyui, options, jobs, results):
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
    with workers(comfyui, options) as found:
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


def main(comfyui, _, arguments):
    options = parse(arguments)
    try:
        words = run_jobs(comfyui, options, plan(options), Results(options.output))
    except (Mistake, ServerError, ServerLost) as error:
        print(f"run: {error}", file=sys.stderr)
        return 2
    print("run: " + ", ".join(f"{words.count(word)} {word}" for word in ("done", "skipped", "failed")), file=sys.stderr)
    return 1 if "failed" in words else 0

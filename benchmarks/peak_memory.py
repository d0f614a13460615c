"""What a piece of work holds at most, apart from what this process has left lying about."""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable

import psutil


def peak(work: Callable[[], object]) -> tuple[float, float]:
    """(MiB by which a fork of this process grows at its peak, its processor seconds) while it does `work()`. Linux."""
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()

    def run():
        before, started = psutil.Process().memory_info().rss, time.process_time()
        work()
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
        results.put((grown / 2**20, time.process_time() - started))

    process = context.Process(target=run)
    process.start()
    process.join()
    return results.get()

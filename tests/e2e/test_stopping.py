"""The demo leaves no server and no files behind when it is stopped."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(os.name == "nt", reason="signals are delivered otherwise on Windows")
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM], ids=lambda stop: stop.name)
def test_stopped_demo_stops_its_server(comfyui, stop):
    command = [sys.executable, "-u", ROOT / "dev.py", "inside", comfyui, "demo"]
    heed = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=heed) as demo:
        for line in demo.stdout:
            if "Load Mini World" in line:  # the workflow is running
                break
        (server,) = psutil.Process(demo.pid).children(recursive=True)
        base = Path(server.cmdline()[server.cmdline().index("--base-directory") + 1])
        assert base.is_dir()
        demo.send_signal(stop)
        demo.stdout.read()
        assert demo.wait(120) == 130
    assert not psutil.pid_exists(server.pid)
    assert not base.exists()

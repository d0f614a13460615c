"""What a run makes of its arguments, and how it hands out images, without a server."""

import importlib.util
import json
import re
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from loupe.headless import run
from loupe.headless.client import Refused, ServerLost, WorkflowError
from loupe.headless.jobs import IMAGE, Job, UsageError, plan
from loupe.headless.results import Results
from loupe.headless.workers import dispatch
from loupe.tools import run as dev_run
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]

WORKFLOW = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "x.png"}},
    "2": {"class_type": "KSampler", "inputs": {"steps": 20, "cfg": 4.0, "tiled": False, "name": "euler", "image": ["1", 0]}, "_meta": {"title": "v1.5 draw"}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0]}, "_meta": {"title": "Large"}},
    "4": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}, "_meta": {"title": "Small"}},
}


@pytest.fixture
def folder(tmp_path):
    """A workflow, two images, and the options that run them."""
    (tmp_path / "workflow.json").write_text(json.dumps(WORKFLOW), encoding="utf-8")
    (tmp_path / "in").mkdir()
    for name in ("b.png", "a.JPG"):
        Image.new("RGB", (8, 8)).save(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").touch()
    return tmp_path


def options(folder, *more):
    return run.parse([str(folder / "workflow.json"), "--input", str(folder / "in"), "--output", str(folder / "out"), *more])


def test_a_job_for_every_image(folder):
    jobs = plan(options(folder, "--set", "2.steps=30", "--set", "v1.5 draw.cfg=7", "--set", "2.tiled=True", "--set", "2.name=heun=2"))
    assert [(job.label, job.name) for job in jobs] == [("a.JPG", "a"), ("b.png", "b")]
    assert jobs[0].workflow["1"]["inputs"]["image"] == IMAGE
    assert jobs[0].workflow["2"]["inputs"] == {"steps": 30, "cfg": 7, "tiled": True, "name": "heun=2", "image": ["1", 0]}


def test_once_without_images(folder):
    (job,) = plan(run.parse([str(folder / "workflow.json"), "--output", str(folder / "out")]))
    assert job.label == "workflow" and job.workflow == WORKFLOW


@pytest.mark.parametrize(
    "setting, message",
    [
        ("9.steps=1", "no such node.*2 \\(v1.5 draw\\)"),
        ("2.stepz=1", "has no input 'stepz'.*steps, cfg"),
        ("SaveImage.images=1", "no such node"),
        ("2.image=1", "is a link from node 1"),
        ("2.steps=many", "'many' is not a number"),
        ("2.cfg=nan", "'nan' is not a number"),
        ("2.cfg=true", "'true' is not a number"),
        ("2.tiled=1", "'1' is not true or false"),
        ("2.steps", "write NODE.INPUT=VALUE"),
    ],
)
def test_a_wrong_setting_is_named(folder, setting, message):
    with pytest.raises(UsageError, match=message):
        plan(options(folder, "--set", setting))


def test_two_nodes_of_one_title(folder):
    twice = {**WORKFLOW, "5": {"class_type": "LoadImage", "inputs": {"image": "x.png"}}}
    (folder / "workflow.json").write_text(json.dumps(twice), encoding="utf-8")
    with pytest.raises(UsageError, match="2 nodes are called 'LoadImage'. Name one by its id: 1, 5"):
        plan(options(folder, "--set", "LoadImage.image=y.png"))
    with pytest.raises(UsageError, match="several Load Image nodes: 1 .*--set NODE.INPUT={image}"):
        plan(options(folder))
    job = plan(options(folder, "--set", "5.image={image}"))[0]
    assert job.workflow["5"]["inputs"]["image"] == IMAGE and job.workflow["1"]["inputs"]["image"] == "x.png"


@pytest.mark.parametrize(
    "text, message",
    [(None, "No such file"), ("{", "is not JSON"), ('{"nodes": []}', "Export it in API format"), ('{"1": 2}', "API format"), ("[]", "API format"),
     ('{"1": {"class_type": "SaveImage", "inputs": {}}}', "no Load Image node")],
)
def test_a_wrong_workflow_is_named(folder, text, message):
    file = folder / "workflow.json"
    file.unlink() if text is None else file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=message):
        plan(options(folder))


def test_wrong_folders_are_named(folder):
    with pytest.raises(UsageError, match="--output is the folder of --input"):
        plan(options(folder, "--output", str(folder / "in")))
    Image.new("RGB", (8, 8)).save(folder / "in" / "A.png")
    with pytest.raises(UsageError, match="would get the same results"):
        plan(options(folder))
    with pytest.raises(UsageError, match="no such folder"):
        plan(options(folder, "--input", str(folder / "none")))
    (folder / "empty").mkdir()
    with pytest.raises(UsageError, match="no images"):
        plan(options(folder, "--input", str(folder / "empty")))


def test_results_are_kept_once(folder):
    results, (job, other) = Results(folder / "out"), plan(options(folder))
    assert results.find(job) is None
    assert results.keep(job, [("Large", "x_00001_.png", b"1")]) == ["a.png"]
    assert results.keep(other, [("Large 2x", "x_1.png", b"1"), ("Large 2x", "x_2.png", b"2"), ("../Small", "y.webp", b"3")]) == ["b_Large_2x.png", "b_Large_2x_2.png", "b_Small.webp"]
    assert sorted(file.name for file in (folder / "out").rglob("*") if file.is_file()) == ["a.JPG.json", "a.png", "b.png.json", "b_Large_2x.png", "b_Large_2x_2.png", "b_Small.webp"]
    assert results.find(job) == ["a.png"]
    (changed, _) = plan(options(folder, "--set", "2.steps=3"))
    assert results.find(changed) is None
    (folder / "out" / "a.png").unlink()
    assert results.find(job) is None
    Image.new("RGB", (8, 9)).save(folder / "in" / "b.png")
    assert results.find(plan(options(folder))[1]) is None


class Worker:
    """Answers from a list: what it saved, or an error to raise."""

    def __init__(self, name, *answers):
        self.name, self.answers, self.seen = name, list(answers), []

    def run(self, job):
        self.seen.append(job.name)
        answer = self.answers.pop(0) if self.answers else "saved"
        if isinstance(answer, Exception):
            raise answer
        return answer


def names(folder, count):
    return [Job(str(i), {}) for i in range(count)]


def test_a_lost_server_s_image_goes_elsewhere(folder):
    lost, other = Worker("lost", ServerLost("gone")), Worker("other")
    finished = list(dispatch(names(folder, 4), [lost, other], retries=2))
    assert sorted((job.name, worker.name, result) for job, worker, _, result in finished) == [(str(i), "other", "saved") for i in range(4)]
    assert lost.seen == ["0"]


def test_a_failing_image_stops_nobody(folder):
    worker = Worker("one", WorkflowError("bad image"))
    (first, second) = dispatch(names(folder, 2), [worker], retries=2)
    assert str(first[3]) == "bad image" and second[3] == "saved"


def test_a_image_that_breaks_servers_is_given_up(folder):
    workers = [Worker(str(i), ServerLost("gone")) for i in range(3)] + [Worker("last")]
    finished = {job.name: result for job, _, _, result in dispatch(names(folder, 1), workers, retries=1)}
    assert isinstance(finished["0"], ServerLost)
    assert sum(len(worker.seen) for worker in workers) == 2


def test_without_servers_the_rest_fails_with_the_reason(folder):
    finished = list(dispatch(names(folder, 3), [Worker("one", Refused("no such sampler"))], retries=2))
    assert [worker for _, worker, _, _ in finished] == [None] * 3
    assert all("no server is left. The last one: no such sampler" in str(result) for *_, result in finished)


def test_an_interrupted_run_cancels_what_is_running(folder):
    class Waiting(Worker):
        def __init__(self):
            super().__init__("waiting")
            self.begun, self.cancelled = threading.Event(), threading.Event()

        def run(self, job):
            self.begun.set()
            assert self.cancelled.wait(60)
            raise WorkflowError("interrupted")

        def cancel(self):
            self.cancelled.set()

    class Quick(Worker):
        def run(self, job):
            assert waiting.begun.wait(60)
            return super().run(job)

    waiting, quick = Waiting(), Quick("quick")
    finished = dispatch(names(folder, 2), [waiting, quick], retries=2)
    assert next(finished)[1] is quick
    with pytest.raises(KeyboardInterrupt):
        finished.throw(KeyboardInterrupt)
    assert waiting.cancelled.is_set()


def test_ray_is_asked_for_plainly(folder, capsys):
    if importlib.util.find_spec("ray"):
        pytest.skip("ray is installed")
    assert dev_run.main("no ComfyUI", None, [str(folder / "workflow.json"), "--output", str(folder / "out"), "--ray"]) == 2
    assert "--ray needs the package ray" in capsys.readouterr().err


def no_server():
    raise AssertionError("nothing is to be started")


def test_workers_are_the_servers_that_are_named(folder):
    with run.workers(options(folder, "--server", "http://a:1/", "http://b:2", "--server", "http://a:1"), no_server) as found:
        assert [worker.name for worker in found] == ["http://a:1", "http://b:2"]


def test_without_a_way_to_start_one_the_running_server_is_asked(folder):
    with run.workers(options(folder), None) as found:
        assert [worker.name for worker in found] == [run.RUNNING]


def test_without_servers_one_is_started_and_stopped(folder):
    states = []

    @contextmanager
    def start():
        states.append("started")
        yield "http://own:1"
        states.append("stopped")

    with run.workers(options(folder), start) as found:
        assert [worker.name for worker in found] == ["http://own:1"] and states == ["started"]
    assert states == ["started", "stopped"]


def test_ray_needs_a_checkout(folder, capsys):
    with pytest.raises(SystemExit):
        run.main([str(folder / "workflow.json"), "--output", str(folder / "out"), "--ray"])
    assert "needs a checkout" in capsys.readouterr().err


def test_a_server_that_is_not_there_is_named(folder, capsys):
    assert run.main([str(folder / "workflow.json"), "--output", str(folder / "out"), "--server", "http://127.0.0.1:9"]) == 2
    assert "http://127.0.0.1:9: no ComfyUI answers there" in capsys.readouterr().err


def test_nothing_that_ships_starts_programs_or_opens_sockets():
    shipped = [path for path in (ROOT / "headless").glob("*.py")]
    found = {path.name for path in shipped for name in ("subprocess", "socket", "urllib") if re.search(rf"\b(import|from) {name}\b", path.read_text(encoding="utf-8"))}
    assert shipped and not found

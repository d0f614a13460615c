"""A Python that has what a user's ComfyUI has, and nothing of what this environment has besides."""

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement


def holding(lines, extras=()):
    """The requirements of these lines that hold here, with the `extras` that were asked for."""
    found = map(Requirement, lines)
    return [one for one in found if not one.marker or any(one.marker.evaluate({"extra": extra}) for extra in extras or [""])]


def requirements(file):
    return holding(line for line in file.read_text(encoding="utf-8").splitlines() if re.match(r"\w", line))


def distributions(wanted):
    """{name: distribution} of what is installed for the requirements `wanted`, and of what these require."""
    found, waiting = {}, list(wanted)
    while waiting:
        requirement = waiting.pop()
        try:
            installed = metadata.distribution(requirement.name)
        except metadata.PackageNotFoundError:  # of another platform, or of a version of ComfyUI that is not the newest
            continue
        name = re.sub(r"[-_.]+", "-", installed.metadata["Name"]).lower()
        if name in found and not requirement.extras:
            continue
        found[name] = installed
        waiting += holding(installed.requires or (), requirement.extras)
    return found


def clean_python(folder, *files):
    """The executable of a new environment in `folder` with the packages of the requirement `files` linked into it."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    site = Path(subprocess.run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True, check=True).stdout.strip())
    for distribution in distributions([one for file in files for one in requirements(file)]).values():
        for name in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            source = Path(distribution.locate_file(name))
            if source.exists() and not (site / name).exists():
                (site / name).symlink_to(source, source.is_dir())
    return python

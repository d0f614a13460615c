"""python dev.py pack: the archive that the registry publishes, loupe-VERSION.zip in output/.

What git tracks, less what .comfyignore names, as the registry's own tool takes it.
"""

import argparse
import re
import subprocess
import sys
import zipfile
from pathlib import Path

from .server import PACK

DATE = 2026, 1, 1, 0, 0, 0  # of every file, so that the same files make the same archive


def git_files(*arguments):
    # in a container the checkout may belong to another user
    listed = subprocess.run(["git", "-c", f"safe.directory={PACK}", "ls-files", "-z", *arguments], cwd=PACK, capture_output=True, check=True).stdout
    return set(listed.decode().split("\0")) - {""}


def shipped_files():
    """Paths of the archive's files, relative to the pack."""
    files = git_files() - git_files("--cached", "--ignored", "--exclude-from=.comfyignore")
    return sorted(file for file in files if (PACK / file).is_file())


def build(folder):
    """Write the archive into `folder` and return its path."""
    version = re.search(r'^version = "(.+)"$', (PACK / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)[1]
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / f"loupe-{version}.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name in shipped_files():
            file.writestr(zipfile.ZipInfo(name, DATE), (PACK / name).read_bytes(), zipfile.ZIP_DEFLATED)
    return archive


def main(comfyui, _, arguments):
    parser = argparse.ArgumentParser(prog="dev.py pack", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", metavar="DIR", type=Path, default=PACK / "output", help="folder for the archive (default output/)")
    options = parser.parse_args(arguments)
    try:
        archive = build(options.output)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"pack: git could not list the files of {PACK}: {error}", file=sys.stderr)
        return 1
    print(f"{archive}   {archive.stat().st_size / 1e6:.1f} MB, {len(shipped_files())} files")
    return 0

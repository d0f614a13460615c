"""python dev.py pack: the archive that the registry publishes, loupe-VERSION.zip in output/.

What git tracks, less what .comfyignore names, as the registry's own tool takes it. A file that the registry's scan
would flag ends it with 1.
"""

import argparse
import re
import subprocess
import sys
import zipfile
from pathlib import Path

from .scan import findings
from .server import PACK

DATE = 2026, 1, 1, 0, 0, 0  # of every file, so that the same files make the same archive
ADDRESSED = "pyproject.toml", "CITATION.cff"  # files with addresses in the repository


def git_files(*arguments):
    # in a container the checkout may belong to another user
    listed = subprocess.run(["git", "-c", f"safe.directory={PACK}", "ls-files", "-z", *arguments], cwd=PACK, capture_output=True, check=True).stdout
    return set(listed.decode().split("\0")) - {""}


def shipped_files():
    """Paths of the archive's files, relative to the pack."""
    files = git_files() - git_files("--cached", "--ignored", "--exclude-from=.comfyignore")
    return sorted(file for file in files if (PACK / file).is_file())


def declared(name):
    """The value of `name` in pyproject.toml."""
    return re.search(rf'^{name} = "(.+)"$', (PACK / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)[1]


def move_to(repository):
    """Make every address in the repository one in this `repository`."""
    before = declared("Repository")
    for name in ADDRESSED:
        text = (PACK / name).read_text(encoding="utf-8")
        (PACK / name).write_text(text.replace(before, repository.rstrip("/").removesuffix(".git")), encoding="utf-8")


def flagged():
    """What the registry's scan would say of the archive."""
    return [found for name in shipped_files() for found in findings(name, (PACK / name).read_bytes())]


def build(folder):
    """Write the archive into `folder` and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / f"loupe-{declared('version')}.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name in shipped_files():
            file.writestr(zipfile.ZipInfo(name, DATE), (PACK / name).read_bytes(), zipfile.ZIP_DEFLATED)
    return archive


def main(comfyui, _, arguments):
    parser = argparse.ArgumentParser(prog="dev.py pack", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", metavar="DIR", type=Path, default=PACK / "output", help="folder for the archive (default output/)")
    parser.add_argument("--repository", metavar="URL", help=f"the public repository; written into {' and '.join(ADDRESSED)} for good")
    options = parser.parse_args(arguments)
    if options.repository:
        move_to(options.repository)
    try:
        archive, found = build(options.output), flagged()
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"pack: git could not list the files of {PACK}: {error}", file=sys.stderr)
        return 1
    print(f"{archive}   {archive.stat().st_size / 1e6:.1f} MB, {len(shipped_files())} files")
    if "/OWNER/" in declared("Repository"):
        print("pack: these addresses are nobody's yet: give --repository once before you publish", file=sys.stderr)
    print(*found, sep="\n", end="\n" if found else "", file=sys.stderr)
    return 1 if found else 0

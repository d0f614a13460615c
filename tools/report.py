"""python dev.py report: the command of headless/report, with a ComfyUI started for it where no running one is named."""

import sys
from functools import partial
from pathlib import Path

from ..headless.report import command
from .run import own_server
from .server import ServerError


def main(comfyui, _, arguments):
    try:
        return command.main(arguments, partial(own_server, Path(comfyui), "report"), "dev.py report")
    except ServerError as error:
        print(f"report: {error}", file=sys.stderr)
        return 2

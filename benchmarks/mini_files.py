"""The table of docs/mini-world.md that names each bundled file: size, hash, and how it was trained."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from safetensors import safe_open

from ..models.files import BUNDLED

PAGE = Path(__file__).parents[1] / "docs" / "mini-world.md"
MARK = re.compile(r"(<!-- files -->\n).*?(<!-- end -->)", re.DOTALL)


def lines() -> Iterator[str]:
    yield "| file | MB | SHA-256 begins | last trained by |\n|---|---|---|---|"
    paths = sorted(BUNDLED.glob("*.safetensors"))
    for path in paths:
        with safe_open(path, "pt") as file:
            made = file.metadata().get("training", "-").removeprefix("python dev.py ")
        yield f"| `{path.name}` | {path.stat().st_size / 1e6:.1f} | `{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}` | `{made}` |"
    yield f"| all | {sum(path.stat().st_size for path in paths) / 1e6:.1f} | | |"


def page(text: str) -> str:
    return MARK.sub(lambda match: match[1] + "\n".join(lines()) + "\n" + match[2], text)


def write() -> None:
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

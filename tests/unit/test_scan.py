"""The list of what public scanners flag, and the addresses of the archive."""

import pytest
import yaml
from loupe.tools import pack, scan


@pytest.mark.parametrize("text", [
    "import subprocess", "os.environ['A']", "sys.modules", "x.connect(y)", "`node.bind (z)`", "session.send(1)", "net.eval()", "re.compile('a')",
    "aiohttp.ClientSession()", "urllib.request", "importlib.import_module(x)", "socket.socket()", "https://raw.githubusercontent.com/a",
])
def test_flagged(text):
    (found,) = scan.findings("a.py", f"one\n{text}\n".encode())
    assert found.startswith("a.py:2: ")


@pytest.mark.parametrize("text", ["net.train(False)", "import re", "ClientSession(url)", "evaluate(call)", "compile_layers(net)", "session.ws_connect(url)", "x.resend(1)", "the socket samples"])
def test_not_flagged(text):
    assert scan.findings("a.py", text.encode()) == []


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    for name in pack.ADDRESSED:
        (tmp_path / name).write_bytes((pack.PACK / name).read_bytes())
    monkeypatch.setattr(pack, "PACK", tmp_path)
    return tmp_path


def test_every_address_follows_the_repository(checkout):
    before, originals = pack.declared("Repository"), [(checkout / name).read_bytes() for name in pack.ADDRESSED]
    pack.move_to("https://example.org/me/loupe.git")
    assert pack.declared("Repository") == "https://example.org/me/loupe"
    assert pack.declared("Icon") == "https://example.org/me/loupe/raw/HEAD/assets/icon.png"
    texts = [(checkout / name).read_text(encoding="utf-8") for name in pack.ADDRESSED]
    assert not [text for text in texts if before in text]
    assert yaml.safe_load(texts[1])["repository-code"] == "https://example.org/me/loupe"
    pack.move_to(before)
    assert [(checkout / name).read_bytes() for name in pack.ADDRESSED] == originals

"""Weight files: what they say, and what is said about files that are none."""

import pickle

import pytest
import torch
from loupe.models import files
from loupe.models.files import Metadata
from loupe.models.latent_space import LatentSpace

PAGE = b"\n<!DOCTYPE html><html><head><title>Sign in</title></head><body>caf\xc3\xa9</body></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"


@pytest.mark.parametrize("metadata", [
    Metadata(),
    Metadata(LatentSpace("SDXL", 4), "sdxl_vae.safetensors", {"channels": 4, "hidden": [1, 2]}, {"license": "none"}),
    Metadata(LatentSpace("custom", 3, 0.1 + 0.2)),
])
def test_metadata_survive_a_file(metadata, tmp_path):
    path = tmp_path / "made" / "a.safetensors"
    files.write(path, {"a": torch.ones(2)}, files.to_entries(metadata, "loupe.x", "1"))
    state, entries = files.read(path)
    assert files.from_entries(path, entries, "loupe.x", "1") == metadata and files.header(path) == entries
    assert state["a"].dtype == files.weight_dtype(path) == torch.float16
    assert [file.name for file in path.parent.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("entries, said", [
    ({"version": "2"}, r"has version '2' of loupe\.x; this release reads version 1"),
    ({}, "has version None"),
    ({"version": "1", "args": "{"}, "has damaged metadata"),
    ({"version": "1", "args": "3"}, "has damaged metadata"),
    ({"version": "1", "latent_format": "SDXL"}, "has damaged metadata"),
    ({"version": "1", "latent_format": "x", "latent_channels": "4", "scale_factor": "wide"}, "has damaged metadata"),
])
def test_damaged_entries_are_named(entries, said):
    with pytest.raises(ValueError, match=rf"a\.safetensors {said}"):
        files.from_entries("a.safetensors", entries, "loupe.x", "1")


@pytest.mark.parametrize("name", ["a.safetensors", "a.sft", "a.pth", "a.ckpt"])
@pytest.mark.parametrize("content, what", [(PAGE, "a web page"), (POINTER, "a Git LFS pointer file"), (b"Entry not found", "a text file"), (b"", "an empty file")])
def test_what_a_failed_download_leaves_is_named(tmp_path, name, content, what):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} cannot be read as weights: this is {what}; download it again"):
        files.read(path)


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('ran')",)


@pytest.mark.parametrize("content", [
    pickle.dumps({"model": Bomb()}),
    pickle.dumps({"model": Bomb()}, 2),
    b"\x80\x02garbage\x00\xff",
    b"PK\x03\x04" + bytes(40),
    bytes(range(256)),
    b"\x00" * 64,
    "é".encode("latin-1") + b"101 is no weight",
])
def test_damaged_pickles_are_named_without_torchs_advice(tmp_path, content):
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="a.pth cannot be read as a weights-only PyTorch file: it") as caught:
        files.read(path)
    assert "weights_only" not in str(caught.value) and caught.value.__suppress_context__


def test_code_is_named(tmp_path):
    torch.save({"model": Bomb()}, tmp_path / "bomb.pth")
    with pytest.raises(ValueError, match=r"it holds (builtins\.)?exec, which is code"):
        files.read(tmp_path / "bomb.pth")


def test_a_truncated_checkpoint_is_damaged(tmp_path):
    torch.save({"a": torch.zeros(1000)}, tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes((tmp_path / "a.pth").read_bytes()[:2000])
    with pytest.raises(ValueError, match="it is damaged. Download it again"):
        files.read(tmp_path / "b.pth")

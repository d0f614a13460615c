"""Every file is known to the network that it belongs to, and to no other."""

import re

import pytest
import torch
from loupe.models import clearsr, implicit_decoder, lsr
from loupe.models.clearsr import file as clearsr_file
from loupe.models.files import BUNDLED, KINDS, Metadata, header, read, to_entries, write
from loupe.models.implicit_decoder import file as decoder_file
from loupe.models.lsr import file as lsr_file
from loupe.models.mini import file as mini_file
from loupe.nodes import clearsr as clearsr_nodes
from loupe.nodes import implicit_decoder as decoder_nodes
from loupe.nodes import lsr as lsr_nodes
from loupe.nodes import mini as mini_nodes

NETWORKS = {"lsr": lsr_file, "decoder": decoder_file, "clearsr": clearsr_file}
LOADS = {"lsr": lsr.load, "decoder": implicit_decoder.load, "clearsr": clearsr.load}


def owner(name):
    return name.removeprefix("mini_").removesuffix(".safetensors")


@pytest.fixture(scope="module")
def published(tmp_path_factory, official_lsr):
    """(owner, path) of files in the authors' layouts, and of others that share their folders."""
    folder = tmp_path_factory.mktemp("published")
    decoder = implicit_decoder.ImplicitDecoder(4, 32, (1, 2), 1, hidden=(8,)).state_dict()
    first_stage = {f"first_stage_model.decoder.{key}": value for key, value in decoder.items()}
    network = lsr.LSR(dim=12, depths=(1,), heads=(2,), window=4, hidden=(8,)).state_dict()
    contents = {
        "decoder": [("last.ckpt", {"state_dict": first_stage}), ("bare.pth", decoder)],
        "lsr": [("bare_lsr.pth", network)],
        None: [("vae.pth", {"decoder.conv_in.weight": torch.zeros(1), "encoder.conv_in.weight": torch.zeros(1)}), ("list.pth", [1, 2]), ("controlnet.pth", {"control_model.zero_convs.0.0.weight": torch.zeros(1)})],
    }
    for name, state in (entry for entries in contents.values() for entry in entries):
        torch.save(state, folder / name)
    write(folder / "pt.safetensors", network, {"format": "pt"})  # as others convert them
    write(folder / "unknown.safetensors", network, {"format": "loupe.of_tomorrow"})
    found = [(kind, folder / name) for kind, entries in contents.items() for name, _ in entries]
    return [*found, ("lsr", official_lsr), ("lsr", folder / "pt.safetensors"), (None, folder / "unknown.safetensors")]


def files(published):
    return [*published, *((owner(path.name), path) for path in sorted(BUNDLED.glob("*.safetensors")))]


def test_every_file_belongs_to_one_network(published):
    for kind, path in files(published):
        state, entries = read(path)
        answers = {name for name, module in NETWORKS.items() if module.detect(state, entries)}
        if mini_file.detect(state, entries):
            answers.add(owner(path.name))
            assert owner(path.name) in mini_file.PARTS
        assert answers == ({kind} if kind else set()), path


def test_headers_alone_tell_the_bundled_files():
    for path in BUNDLED.glob("*.safetensors"):
        found = [module for module in (*NETWORKS.values(), mini_file) if module.detect({}, header(path))]
        assert found == [NETWORKS.get(owner(path.name), mini_file)]


def test_a_file_in_the_wrong_loader_names_the_right_one(published):
    said = {"lsr": "this is an LSR file; use Load Latent Upscale Model (LSR)", "decoder": "this is an implicit decoder file; use Load Any-Size Decoder", "clearsr": "this is a ClearSR file; use Load ClearSR"}
    for kind, path in files(published):
        answer = said.get(kind, "it holds" if kind is None else "this is a mini world file; use Load Mini World")
        for name in LOADS.keys() - {kind}:
            with pytest.raises(ValueError, match=re.escape(answer)):
                LOADS[name](path)


def test_the_named_nodes_exist():
    nodes = [node for module in (lsr_nodes, decoder_nodes, clearsr_nodes, mini_nodes) for node in module.NODES]
    assert {kind.node for kind in KINDS} <= {node.GET_SCHEMA().display_name for node in nodes} and len(KINDS) == 4


@pytest.mark.parametrize("name", NETWORKS)
def test_the_bundled_file_survives_a_round_trip(name, tmp_path):
    bundled = BUNDLED / f"mini_{name}.safetensors"
    network, metadata = LOADS[name](bundled)
    assert not network.training and all(value.device.type == "cpu" for value in network.state_dict().values())
    assert metadata.latents == ("custom", 4, 0.697045) and metadata.base and metadata.args and metadata.notes["license"]
    NETWORKS[name].save(tmp_path / "again.safetensors", network, metadata)
    (before, entries), (after, again) = read(bundled), read(tmp_path / "again.safetensors")
    assert entries == again and before.keys() == after.keys() and all(torch.equal(after[key], value) for key, value in before.items())


@pytest.mark.parametrize("part", mini_file.PARTS)
def test_parts_of_the_mini_world(part, tmp_path):
    weights, metadata = mini_file.load(part)
    assert metadata == mini_file.metadata_of(part)
    mini_file.save(part, weights, metadata, tmp_path / "again.safetensors")
    after, again = mini_file.load(part, tmp_path / "again.safetensors")
    assert again == metadata and all(torch.equal(after[key], value) for key, value in weights.items())
    other = "vae" if part == "unet" else "unet"
    with pytest.raises(ValueError, match=f"again.safetensors is the mini world's {part}, not its {other}"):
        mini_file.load(other, tmp_path / "again.safetensors")


def test_a_file_without_latents_is_refused_by_name(tmp_path):
    network, _ = lsr.load(BUNDLED / "mini_lsr.safetensors")
    write(tmp_path / "mute.safetensors", {k: v for k, v in network.state_dict().items() if not k.endswith(lsr_file.BUFFERS)}, to_entries(Metadata(args=network.args), lsr_file.FORMAT, lsr_file.VERSION))
    with pytest.raises(ValueError, match="mute.safetensors does not say which latents"):
        lsr_nodes.LatentUpscaler.from_file(tmp_path / "mute.safetensors")

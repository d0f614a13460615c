import json
from contextlib import nullcontext

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from loupe.methods.regions import Region
from loupe.models.files import Metadata
from loupe.models.implicit_decoder import (
    HybridDecoder,
    ImplicitDecoder,
    load,
    save,
    tap,
)
from loupe.models.implicit_decoder.network import ConvDecoder, without_autocast
from loupe.models.implicit_decoder.resample import bicubic
from loupe.models.implicit_decoder.tap import Decoded
from loupe.models.implicit_decoder.tiled import axis_windows, decode_tiled, tile_count
from loupe.models.latent_space import LatentSpace
from loupe.models.liif import LIIF, axis_neighbors, axis_span
from loupe.models.lsr import LSR
from loupe.models.lsr import save as save_lsr
from loupe.models.mini.vae import MiniVAE
from tolerance import close
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

pytestmark = pytest.mark.numerics


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def reference(golden):
    """The official decoder's weights, data and description."""
    tensors, info = golden("ind_decoder")
    config = info["ddconfig"]
    torch.manual_seed(info["seed"])
    network = ImplicitDecoder(config["z_channels"], config["ch"], config["ch_mult"], config["num_res_blocks"], hidden=info["hidden_list"]).requires_grad_(False)
    network.head.layers[-1].weight.mul_(6)
    weights = network.state_dict()
    for key in tensors:
        if key.startswith("w."):
            close(weights[key.removeprefix("w.")], tensors[key], 1e-5)
    return network, tensors, info


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    autoencoder = MiniVAE().requires_grad_(False)
    for name, weight in autoencoder.decoder.named_parameters():
        if name.endswith("conv2.weight"):  # starts at zero
            nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
    return autoencoder


def hybrid(vae, seed=0):
    torch.manual_seed(seed)
    network = HybridDecoder.of(vae, (24, 16))
    nn.init.normal_(network.imnet.layers[-1].weight)
    return network


def compared(difference, case):
    """Without the rows and columns where the official weights vanish."""
    difference[..., case["degenerate_rows"], :] = 0
    difference[..., case["degenerate_cols"]] = 0
    return difference.abs().max()


@pytest.mark.parametrize("name", ["c0", "c1", "c2", "c3"])
def test_parity_with_the_official_head(golden, name):
    tensors, info = golden("ind_liif")
    case = info["liif_cases"][name]
    head = LIIF(case["C"], 3, case["hidden"], cell=case["cell_decode"])
    head.load_state_dict({key.removeprefix(f"{name}.w.imnet."): value for key, value in tensors.items() if key.startswith(f"{name}.w.")})
    (h, w), (height, width) = case["feat"], case["out"]
    grid = head.embed(tensors[f"{name}.feat"], (2 * h / height, 2 * w / width))
    out = head.query(grid, *(axis_neighbors(low, high, 0, high, "cpu", case["local_ensemble"]) for low, high in ((h, height), (w, width))))
    assert compared(out - tensors[f"{name}.out"], case) < info["tol"]


def test_parity_with_the_official_decoder(reference):
    network, tensors, info = reference
    decoded = network.features(tensors["z"])
    torch.testing.assert_close(decoded.features, tensors["feat"], rtol=0, atol=info["tol"])
    for name, case in info["decoder_outputs"].items():
        expected = tensors[f"out_{name}"]
        assert compared(network(decoded, tuple(expected.shape[-2:])) - expected, case) < info["tol"]


@pytest.mark.parametrize("prefix", ["", "decoder.", "first_stage_model.decoder."])
def test_published_layouts(reference, tmp_path, prefix):
    network, tensors, info = reference
    state = {f"{prefix}{key}": value for key, value in network.state_dict().items()}
    state |= {"encoder.0.conv_in.weight": torch.zeros(1), "model_ema.decay": torch.zeros(()), "scale_factor": torch.tensor(0.5)}
    torch.save({"state_dict": state, "epoch": 3, "global_step": 7}, tmp_path / "ind.ckpt")
    safetensors.torch.save_file(state, tmp_path / "ind.safetensors")
    for file in ("ind.ckpt", "ind.safetensors"):
        loaded, _ = load(str(tmp_path / file))
        assert loaded.args == network.args and loaded.factor == 2 and not loaded.training
        assert torch.equal(loaded(loaded.features(tensors["z"]), (17, 9)), network(network.features(tensors["z"]), (17, 9)))


def test_sizes_are_read_from_the_weights(tmp_path):
    network = ImplicitDecoder(3, 32, (1, 2, 4), 1, attention=(2,), hidden=(8,), cell=False)
    torch.save(network.state_dict(), tmp_path / "own.pth")
    loaded, _ = load(str(tmp_path / "own.pth"))
    assert loaded.args == {"channels": 3, "width": 32, "mult": [1, 2, 4], "blocks": 1, "attention": [2], "hidden": [8], "cell": False, "ensemble": True}
    assert loaded.factor == 4
    z = torch.randn(1, 3, 4, 5)
    assert torch.equal(loaded.features(z).features, network.features(z).features)


def test_the_papers_size():
    assert sum(p.numel() for p in LIIF(128, 3, (256, 256, 256, 256)).parameters()) == 232_195
    assert sum(p.numel() for p in HybridDecoder().parameters()) == 232_195


@pytest.mark.parametrize("size", [(6, 6), (17, 40), (5, 3), (96, 7)])
def test_regions_are_parts_of_the_whole(reference, vae, size):
    z = torch.randn(2, 4, 6, 7)
    nearest = ImplicitDecoder(4, 32, (1, 2), 1, hidden=(16,), ensemble=False)
    for network, decoded in ((reference[0], reference[0].features(z)), (nearest, nearest.features(z)), (hybrid(vae), tap.decode(vae, z))):
        whole = network(decoded, size)
        assert whole.shape == (2, 3, *size)
        torch.testing.assert_close(network(decoded, size, rows=2), whole, rtol=0, atol=3e-5)
        part = Region(size[0] // 3, size[1] // 2, size[0] // 2, max(size[1] // 3, 1))
        torch.testing.assert_close(network.query(decoded, size, part), part.crop(whole), rtol=0, atol=3e-5)
        torch.testing.assert_close(network(Decoded(*(piece if piece is None else piece[1:] for piece in decoded)), size), whole[1:], rtol=0, atol=3e-5)


@pytest.mark.parametrize("low,high", [(6, 48), (6, 5), (7, 21), (9, 9), (3, 1)])
def test_span_is_what_the_neighbors_name(low, high):
    for start in range(high):
        for count in range(1, high - start + 1):
            first, last = axis_span(low, high, start, count)
            index = torch.cat([index for index, _, _ in axis_neighbors(low, high, start, count, "cpu")])
            assert (first, last) == (index.min(), index.max() + 1)
            (nearest, offset, weight), = axis_neighbors(low, high, start, count, "cpu", ensemble=False)
            assert first <= nearest.min() and nearest.max() < last and offset.abs().max() <= 1 and (weight == 1).all()


@pytest.mark.parametrize("size", [(47, 31), (5, 90), (20, 31), (21, 7), (130, 300)])
def test_bicubic_is_torchs(size):
    picture = torch.rand(1, 2, 20, 31)
    whole = F.interpolate(picture, size, mode="bicubic", antialias=True)
    for region in (Region(0, 0, *size), Region(size[0] // 3, 2, size[0] // 2, 5), Region(size[0] - 1, 0, 1, size[1])):
        torch.testing.assert_close(bicubic(picture, size, region), region.crop(whole), rtol=0, atol=2e-5)
    own = Region(0, 0, 20, 31)
    assert torch.equal(bicubic(picture, own[2:], own), picture)


def test_an_untrained_hybrid_is_the_vae_and_a_resize(vae):
    network, z = HybridDecoder.of(vae), torch.randn(1, 4, 6, 7)
    picture = vae.decode(z)
    assert torch.equal(network(network.features(vae, z), (48, 56)), picture)
    torch.testing.assert_close(network(network.features(vae, z), (100, 30)), F.interpolate(picture, (100, 30), mode="bicubic", antialias=True), rtol=0, atol=2e-5)


def test_a_hybrid_learns_what_a_resize_misses(vae):
    torch.manual_seed(0)
    network = HybridDecoder.of(vae, (32, 32))
    decoded = tap.decode(vae, torch.randn(4, 4, 4, 4))
    region = Region(8, 16, 24, 24)
    losses = []
    with torch.enable_grad():
        optimizer = torch.optim.Adam(network.parameters(), 3e-3)
        for _ in range(30):
            residual = network.query(decoded, (48, 48), region) - bicubic(decoded.image, (48, 48), region)
            loss = (residual - 0.1).abs().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[0] == pytest.approx(0.1) and losses[-1] < 0.03


def test_mixed_precision_leaves_the_image_alone(vae):
    network, decoded = HybridDecoder.of(vae), tap.decode(vae, torch.randn(1, 4, 4, 4))
    region = Region(0, 0, 50, 50)
    expected = bicubic(decoded.image, (50, 50), region)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(network.query(decoded, (50, 50), region), expected)


def test_a_device_without_mixed_precision_is_not_asked_to_leave_it():
    assert isinstance(without_autocast("privateuseone"), nullcontext)  # DirectML; torch.autocast raises there
    assert isinstance(without_autocast("meta"), nullcontext)
    with torch.autocast("cpu", torch.bfloat16), without_autocast("cpu"):
        assert not torch.is_autocast_enabled("cpu")


class NoCopies(TorchDispatchMode):
    """Refuses copies between devices, as a call that may not wait for one: `meta` stands for a GPU."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        devices = {leaf.device.type for leaf in tree_leaves((args, out)) if isinstance(leaf, torch.Tensor) and leaf.ndim}
        assert devices <= {"meta"}, f"{function} sees {devices}"
        return out


def test_no_call_copies_between_devices():
    """Neither the parts of a resized image nor the head, nor LSR with its windows' masks."""
    head, lsr = HybridDecoder(32, (8, 8)).to("meta"), LSR(dim=12, depths=(2,), heads=(2,), window=4, hidden=(8, 8)).to("meta")
    image, features, z = (torch.zeros(1, channels, 40, 48, device="meta") for channels in (3, 32, 4))
    with torch.no_grad(), NoCopies():
        bicubic(image, (100, 90), Region(10, 5, 20, 30))
        head.query(Decoded(features, image), (100, 90), Region(10, 5, 20, 30))
        lsr(z, (60, 131))


def test_a_head_knows_its_vae(vae):
    network = HybridDecoder.of(vae)
    assert network.fits(vae) and not network.fits(MiniVAE().requires_grad_(False))
    half = MiniVAE().requires_grad_(False)
    half.load_state_dict(vae.state_dict())
    assert network.fits(half.bfloat16())
    tuned = MiniVAE().requires_grad_(False)
    tuned.load_state_dict(vae.state_dict())
    tuned.decoder[-2].weight.mul_(1.05)
    assert not network.fits(tuned)
    assert not HybridDecoder(64).fits(vae)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_round_trip_of_our_files(reference, vae, tmp_path, dtype):
    path = str(tmp_path / "own.safetensors")
    for network in (reference[0], ImplicitDecoder(4, 32, (1,), 0, hidden=(8,), ensemble=False), hybrid(vae)):
        space = LatentSpace("SDXL", 4)
        save(path, network, Metadata(space, "sdxl_vae.safetensors", notes={"license": "none"}), dtype)
        loaded, metadata = load(path)
        assert type(loaded) is type(network) and loaded.args == network.args
        assert metadata == (space, "sdxl_vae.safetensors", {"kind": network.kind, **network.args}, {"license": "none"})
        assert all(p.dtype == torch.float32 for p in loaded.parameters()) and not loaded.training
        for key, value in loaded.state_dict().items():
            assert torch.equal(value, network.state_dict()[key].to(dtype).float())
    assert loaded.fits(vae)


def test_foreign_files_are_named(reference, tmp_path):
    def file(name, state, metadata=None):
        path = str(tmp_path / name)
        safetensors.torch.save_file(state, path, metadata) if name.endswith("safetensors") else torch.save(state, path)
        return path

    state = reference[0].state_dict()
    with pytest.raises(ValueError, match=r"vae\.safetensors is not an implicit decoder: it holds 1 entries \(decoder\.conv_in\.weight\)"):
        load(file("vae.safetensors", {"decoder.conv_in.weight": torch.zeros(1)}))
    lsr = str(tmp_path / "lsr.safetensors")
    save_lsr(lsr, LSR(dim=12, depths=(1,), heads=(2,), window=4, hidden=(8,)), Metadata(LatentSpace("SDXL", 4)))
    with pytest.raises(ValueError, match=r"lsr\.safetensors is not an implicit decoder: this is an LSR file; use Load Latent Upscale Model \(LSR\)"):
        load(lsr)
    with pytest.raises(ValueError, match=r"list\.pth is not an implicit decoder: it holds a list"):
        load(file("list.pth", [1, 2]))
    with pytest.raises(ValueError, match="newer.safetensors has version '2' of loupe.implicit_decoder"):
        load(file("newer.safetensors", state, {"format": "loupe.implicit_decoder", "version": "2"}))
    with pytest.raises(ValueError, match="of the kind 'video'"):
        load(file("other.safetensors", state, {"format": "loupe.implicit_decoder", "version": "1", "args": json.dumps({"kind": "video"})}))
    with pytest.raises(ValueError, match=r"short\.pth does not fit .*attn_1\.q\.weight"):
        load(file("short.pth", {key: value for key, value in state.items() if "attn_1.q" not in key}))
    with pytest.raises(ValueError, match=r"mixed\.safetensors does not fit"):
        load(file("mixed.safetensors", state, {"format": "loupe.implicit_decoder", "version": "1", "args": json.dumps({"kind": "hybrid", "channels": 8})}))
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="broken.safetensors cannot be read"):
        load(str(tmp_path / "broken.safetensors"))


def test_code_in_a_pickle_does_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return exec, ("raise SystemExit('ran')",)

    torch.save({"state_dict": Bomb()}, tmp_path / "bomb.ckpt")
    with pytest.raises(ValueError, match="bomb.ckpt cannot be read as a weights-only"):
        load(str(tmp_path / "bomb.ckpt"))


def test_autoencoders_without_features_are_named():
    class TAESD(nn.Module):
        pass

    video = nn.Module()
    video.decoder = nn.Module()
    video.decoder.norm_out, video.decoder.conv_out = nn.GroupNorm(2, 4), nn.Conv3d(4, 3, 3)
    for autoencoder, name in ((TAESD(), "TAESD"), (video, "Module")):
        with pytest.raises(ValueError, match=rf"The VAE \({name}\) has no feature map"):
            HybridDecoder.of(autoencoder)


@pytest.mark.parametrize("length,tile,overlap", [(70, 48, 24), (50, 48, 24), (48, 48, 24), (20, 48, 24), (90, 32, 8), (33, 32, 0), (9, 1, 0), (61, 16, 7)])
def test_windows_add_up_to_one(length, tile, overlap):
    windows = axis_windows(length, tile, overlap)
    total = torch.zeros(length)
    for i, window in enumerate(windows):
        start = min(i * (tile - overlap), max(length - tile, 0))
        total[start : start + len(window)] += window
        assert window.min() >= 0
    torch.testing.assert_close(total, torch.ones(length))
    assert tile_count(length, tile, tile, overlap) == len(windows)


def test_tiles_with_enough_overlap_change_nothing(vae):
    z = torch.randn(1, 4, 60, 45)
    whole, seen = tap.decode(vae, z), []
    tiled = decode_tiled(lambda part: tap.decode(vae, part), z, 48, 32, "cpu", lambda: seen.append(1))
    assert len(seen) == tile_count(60, 45, 48, 32) == 2
    torch.testing.assert_close(tiled.features, whole.features, rtol=0, atol=1e-4)
    torch.testing.assert_close(tiled.image, whole.image, rtol=0, atol=1e-4)
    narrow = decode_tiled(lambda part: tap.decode(vae, part), z, 48, 4, "cpu", lambda: None)
    assert (narrow.image - whole.image).abs().max() > 1e-3


def test_tiles_of_a_decoder_without_a_image():
    torch.manual_seed(0)
    conv = ConvDecoder(2, 32, (1,), 1, ()).requires_grad_(False).conv_in
    z = torch.randn(1, 2, 30, 20)
    tiled = decode_tiled(lambda part: Decoded(conv(part), None), z, 16, 8, "cpu", lambda: None)
    assert tiled.image is None
    torch.testing.assert_close(tiled.features, conv(z), rtol=0, atol=1e-5)

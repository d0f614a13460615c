import pytest
import safetensors.torch
import torch
from loupe.methods.regions import Region
from loupe.models.files import Metadata
from loupe.models.latent_space import LatentSpace
from loupe.models.liif import axis_neighbors
from loupe.models.lsr import LSR, load, save
from loupe.models.lsr.file import BUFFERS
from tolerance import close

pytestmark = pytest.mark.numerics

SDXL = LatentSpace("SDXL", 4)


@pytest.fixture(scope="module")
def network(official_lsr):
    return load(official_lsr)[0]


@pytest.fixture(scope="module")
def narrow():
    torch.manual_seed(0)
    return LSR(channels=3, dim=24, depths=(2, 1), heads=(3, 2), window=4, mlp_ratio=1.5, hidden=(32, 48))


def test_parity_with_the_official_forward(network, golden):
    tensors, description = golden("lsr_forward")
    tolerance = description["tolerance"]
    with torch.inference_mode():
        for case in description["cases"]:
            z, expected = tensors[f"{case['case']}.in"], tensors[f"{case['case']}.out"]
            difference = (network(z, tuple(case["target_hw"])) - expected).abs()
            assert difference.max() < tolerance["max_abs_fp32"], case
            assert difference.mean() < tolerance["mean_abs_fp32"], case
        name = "c1_24x24_to_96x96"
        close(network.encoder(tensors[f"{name}.in"]), tensors[f"{name}.feat"], 1e-5)


def test_lsrna_goes_through_the_same_network(network, golden):
    for name in ("lsrna_df_s32_2x_jitter", "lsrna_df_s32_pad_nojitter"):
        tensors, info = golden(name)
        with torch.inference_mode():
            out = network(tensors["ref"], tuple(info["hr_hw"]))
        assert (out - tensors["lsr_out"]).abs().max() < 5e-4


def test_offsets_and_weights_of_an_axis():
    (before, d0, w0), (after, d1, w1) = axis_neighbors(2, 4, 0, 4, "cpu")
    assert before.tolist() == [0, 0, 0, 1] and after.tolist() == [0, 1, 1, 1]
    assert d0.tolist() == [-0.5, 0.5, 1.5, 0.5] and d1.tolist() == [-0.5, -1.5, -0.5, 0.5]
    assert w0.tolist() == [0.5, 0.75, 0.25, 0.5] and torch.equal(w0 + w1, torch.ones(4))
    # odd factors put queries on the centers, where one neighbor has all the weight
    (index, offset, weight), _ = axis_neighbors(3, 9, 1, 8, "cpu")
    centers = [0, 3, 6]
    assert offset[centers].tolist() == [0, 0, 0] and index[centers].tolist() == [0, 1, 2]
    assert weight[centers].tolist() == [1, 1, 0.5]


@pytest.mark.parametrize("rows", [1, 7, 50])
def test_chunks_change_no_value(network, rows):
    z = torch.randn(2, 4, 17, 24)
    with torch.inference_mode():
        close(network(z, (50, 61), chunk_rows=rows), network(z, (50, 61), chunk_rows=13), 1e-5)


def test_progress_counts_rows(narrow):
    seen = []
    with torch.inference_mode():
        narrow(torch.randn(1, 3, 8, 8), (20, 16), chunk_rows=8, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(8, 20), (16, 20), (20, 20)]


def test_batch_equals_singles(network):
    z = torch.randn(3, 4, 16, 21)
    with torch.inference_mode():
        batch = network(z, (37, 40))
        for i in range(3):
            close(batch[i : i + 1], network(z[i : i + 1], (37, 40)), 1e-5)


def test_transposed_canvas_and_odd_sizes(narrow):
    with torch.inference_mode():
        assert narrow(torch.randn(1, 3, 9, 30), (31, 77)).shape == (1, 3, 31, 77)
        assert narrow(torch.randn(1, 3, 30, 9), (77, 31)).shape == (1, 3, 77, 31)


def test_window_is_a_part_of_the_whole_and_has_gradients(narrow):
    z = torch.randn(2, 3, 12, 10)
    region = Region(5, 3, 11, 14)
    with torch.no_grad():
        whole = narrow(z, (30, 25))
    part = narrow.window(z, (30, 25), region)
    torch.testing.assert_close(part, region.crop(whole), rtol=1e-5, atol=1e-5)
    shared = narrow.window(z, (30, 25), region, narrow.encoder(z))
    torch.testing.assert_close(shared, part, rtol=1e-5, atol=1e-5)
    part.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in narrow.parameters())
    narrow.zero_grad()


@pytest.mark.parametrize("mixed", [False, True])
def test_a_network_learns_to_enlarge(mixed):
    torch.manual_seed(0)
    network = LSR(channels=1, dim=12, depths=(1,), heads=(2,), window=4, hidden=(16, 16), drop_path=0.1).train()
    target = torch.rand(8, 1, 16, 16)
    z = torch.nn.functional.avg_pool2d(target, 2)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    losses = []
    for _ in range(40):
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            loss = (network.window(z, (16, 16), Region(0, 0, 16, 16)).float() - target).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.95 * sum(losses[:5])


def test_stochastic_depth_only_in_training(official_lsr):
    torch.manual_seed(0)
    network = LSR(channels=3, dim=12, depths=(4,), heads=(2,), window=4, hidden=(16,), drop_path=0.9)
    z = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(network(z, (16, 16)), network(z, (16, 16)))
        network.train()
        assert not torch.equal(network(z, (16, 16)), network(z, (16, 16)))
    assert not load(official_lsr)[0].training


def test_official_file_is_read_as_sdxl(official_lsr):
    network, metadata = load(official_lsr)
    assert metadata == (SDXL, "SDXL", network.args, {})
    assert sum(p.numel() for p in network.parameters()) == 1_285_964
    assert network.args["depths"] == [6, 6, 6, 6] and network.args["hidden"] == [256] * 4


def test_round_trip_of_our_file(narrow, tmp_path):
    path = str(tmp_path / "narrow.safetensors")
    space = LatentSpace("Mini", 3, 0.64)
    save(path, narrow, Metadata(space, "mini.safetensors", notes={"license": "none"}), torch.float32)
    loaded, metadata = load(path)
    assert metadata == (space, "mini.safetensors", narrow.args, {"license": "none"}) and not loaded.training
    assert loaded.args == narrow.args
    assert not any(key.endswith(BUFFERS) for key in safetensors.torch.load_file(path))
    z = torch.randn(1, 3, 8, 12)
    with torch.inference_mode():
        assert torch.equal(loaded(z, (20, 20)), narrow(z, (20, 20)))
    save(path, narrow, Metadata(space))
    assert all(p.dtype == torch.float32 for p in load(path)[0].parameters())


def test_official_layout_without_buffers(official_lsr, network, tmp_path):
    data = torch.load(official_lsr, weights_only=True)
    sd = data["model"]["sd"]
    assert any(key.endswith(BUFFERS) for key in sd)
    data["model"]["sd"] = {key: value for key, value in sd.items() if not key.endswith(BUFFERS)}
    path = str(tmp_path / "bare.pth")
    torch.save({"model": data["model"]}, path)
    z = torch.randn(1, 4, 40, 33)
    with torch.inference_mode():
        assert torch.equal(load(path)[0](z, (50, 50)), network(z, (50, 50)))


def test_foreign_files_are_named(tmp_path, narrow):
    vae = str(tmp_path / "vae.safetensors")
    safetensors.torch.save_file({"decoder.weight": torch.zeros(1)}, vae)
    with pytest.raises(ValueError, match=r"vae\.safetensors is not an LSR: .*decoder\.weight"):
        load(vae)

    newer = str(tmp_path / "newer.safetensors")
    safetensors.torch.save_file({"a": torch.zeros(1)}, newer, {"format": "loupe.lsr", "version": "2"})
    with pytest.raises(ValueError, match="newer.safetensors has version '2' of loupe.lsr; this release reads version 1"):
        load(newer)

    empty = str(tmp_path / "empty.safetensors")
    safetensors.torch.save_file({"a": torch.zeros(1)}, empty, {"format": "loupe.lsr", "version": "1"})
    with pytest.raises(ValueError, match="empty.safetensors does not fit the LSR architecture"):
        load(empty)

    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not a file")
    with pytest.raises(ValueError, match="broken.safetensors cannot be read"):
        load(str(broken))

    plain = str(tmp_path / "plain.pth")
    torch.save({"conv.weight": torch.zeros(1)}, plain)
    with pytest.raises(ValueError, match=r"plain\.pth is not an LSR: .*conv\.weight"):
        load(plain)

    other = str(tmp_path / "other.pth")
    torch.save({"model": {"name": "metasr", "args": {}, "sd": {}}}, other)
    with pytest.raises(ValueError, match="other.pth holds the model 'metasr'"):
        load(other)

    short = str(tmp_path / "short.pth")
    sd = dict(narrow.state_dict())
    del sd["encoder.norm.weight"]
    torch.save({"model": {"name": "liif", "args": {}, "sd": sd}}, short)
    with pytest.raises(ValueError, match=r"short\.pth does not fit .*encoder\.norm\.weight"):
        load(short)


def test_code_in_a_pickle_does_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return exec, ("raise SystemExit('ran')",)

    path = str(tmp_path / "bomb.pth")
    torch.save({"model": Bomb()}, path)
    with pytest.raises(ValueError, match="bomb.pth cannot be read as a weights-only"):
        load(path)


def test_channels_in_the_metadata_must_fit(narrow, tmp_path):
    path = str(tmp_path / "four.safetensors")
    save(path, narrow, Metadata(LatentSpace("SDXL", 4)))
    with pytest.raises(ValueError, match="four.safetensors says 4 latent channels in its metadata and has weights for 3"):
        load(path)

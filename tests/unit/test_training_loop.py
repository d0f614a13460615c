import argparse
import csv
import signal

import pytest
import torch
from loupe.models.files import write
from loupe.training.loop import Loop
from safetensors import safe_open
from torch import nn


def run(folder, steps, stop_after=None, save_every=5, signal_at=None, minutes=None):
    """Fit a line; returns the averaged weights. `stop_after` ends the run as an interruption would."""
    torch.manual_seed(0)
    net = nn.Linear(3, 1)
    options = argparse.Namespace(out=folder, steps=steps, batch=4, seed=1, ranks=1, device="cpu", save_every=save_every, minutes=minutes)
    loop = Loop("line", {"line": net}, 0, options, lr=0.05, warmup=2)
    for step, generator in loop:
        if step == stop_after:
            break
        x = torch.randn(8, 3, generator=generator)
        if step == signal_at:
            signal.raise_signal(signal.SIGINT)
        loop.update((net(x) - x.sum(1, keepdim=True)).square().mean(), x=x.mean().item())
    return {k: v.clone() for k, v in loop.averaged().items()}, loop


def test_resumed_run_equals_an_uninterrupted_one(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole, _ = run(tmp_path / "a", 20)
    run(tmp_path / "b", 20, stop_after=13)
    resumed, loop = run(tmp_path / "b", 20)
    assert loop.step == 20
    for key, value in whole.items():
        assert torch.equal(value, resumed[key])


def test_ctrl_c_saves_the_step_and_leaves(tmp_path, capsys):
    before = signal.getsignal(signal.SIGINT)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole, _ = run(tmp_path / "a", 20)
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path / "b", 20, signal_at=12)
    assert stopped.value.code == 130
    assert "stopped after step 13 of 20" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before
    resumed, _ = run(tmp_path / "b", 20)
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert (tmp_path / "b" / "line.png").exists()


def test_minutes_end_a_run_and_its_learning_rate(tmp_path):
    whole = run(tmp_path, 1_000_000, minutes=0.01)[1]
    assert whole.step > 10 and whole.seconds >= 0.6
    assert whole.rate() == pytest.approx(0.05 * 0.02)
    more = run(tmp_path, 1_000_000, minutes=2 * whole.seconds / 60)[1]
    assert more.step > whole.step and more.seconds >= 2 * whole.seconds


def test_loss_falls_and_the_log_says_so(tmp_path):
    _, loop = run(tmp_path, 300)
    rows = list(csv.DictReader(open(tmp_path / "line.csv", encoding="utf-8")))
    assert [row["step"] for row in rows] == ["100", "200", "300"]
    assert float(rows[-1]["loss"]) < 0.2 * float(rows[0]["loss"])
    assert loop.rate() == pytest.approx(0.05 * 0.02)


def test_export_is_half_precision_with_metadata(tmp_path):
    write(tmp_path / "w.safetensors", {"a": torch.ones(2, 3)}, {"format": "loupe.test"})
    with safe_open(tmp_path / "w.safetensors", "pt") as f:
        assert f.metadata() == {"format": "loupe.test"} and f.get_tensor("a").dtype == torch.float16
    assert [f.name for f in tmp_path.iterdir()] == ["w.safetensors"]


def test_a_lost_loss_ends_the_run(tmp_path):
    options = argparse.Namespace(out=tmp_path, steps=9, batch=4, seed=1, ranks=1, device="cpu", save_every=2)
    net = nn.Linear(3, 1)
    loop = Loop("line", {"line": net}, 0, options, lr=0.05, warmup=2)
    with pytest.raises(SystemExit, match="line: the loss is nan at step 3. .* try a lower --lr"):
        for step, _ in loop:
            loop.update(net(torch.ones(1, 3)).square().mean() * (float("nan") if step == 3 else 1))
    assert torch.load(tmp_path / "line.checkpoint.pt", weights_only=True)["step"] == 2
    assert all(torch.isfinite(p).all() for p in net.parameters())

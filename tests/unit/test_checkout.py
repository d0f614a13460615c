"""What training has in a checkout only: several ranks, and the commit."""

import argparse

import pytest
import torch
from loupe.training import checkout, command_line
from loupe.training.loop import Loop
from torch import nn

OPTIONS = ["--steps", "6", "--batch", "4", "--device", "cpu", "--ranks", "2"]


def fit(rank, options):
    torch.manual_seed(rank)
    net = nn.Linear(3, 1)
    loop = Loop("line", {"line": net}, rank, options, lr=0.05, warmup=2)
    for _, generator in loop:
        x = torch.randn(8, 3, generator=generator)
        loop.update((net(x) - x.sum(1, keepdim=True)).square().mean())
    torch.save(net.state_dict(), options.out / f"{rank}.pt")


def fail(rank, options):
    raise SystemExit(1 if rank else None)


def test_ranks_train_one_network(tmp_path):
    options = command_line.options_parser("line", None, 6, 4).parse_args([*OPTIONS, "--out", str(tmp_path)])
    checkout.launch(fit, options)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_rank_that_fails_is_told(tmp_path):
    with pytest.raises(SystemExit, match="a training rank failed"):
        checkout.launch(fail, argparse.Namespace(ranks=2))

"""Defaults of the training commands: what the pages call the paper's is, and they tell every number that is not."""

import inspect
import sys
from pathlib import Path

import pytest
from loupe.models.files import BUNDLED
from loupe.training import clearsr, data, implicit_decoder, lsr
from loupe.training.commands import COMMANDS
from loupe.training.loop import Loop
from loupe.training.presets import PRESETS

DOCS = Path(__file__).resolve().parents[2] / "docs"


class Started(Exception):
    pass


def defaults(monkeypatch, module, *arguments):
    """The options that a command runs with."""
    found = []
    monkeypatch.setattr(module, "launch", lambda _, options: found.append(options))
    module.main(list(arguments))
    return found[0]


def settings(monkeypatch, module, start):
    """The settings of the Loop that `start` makes."""
    found = {name: parameter.default for name, parameter in inspect.signature(Loop).parameters.items() if parameter.kind is parameter.KEYWORD_ONLY}

    def stop(name, modules, rank, options, **given):
        found.update(given)
        raise Started

    monkeypatch.setattr(module, "Loop", stop)
    with pytest.raises(Started):
        start()
    return found


@pytest.mark.parametrize("name", PRESETS)
def test_presets_make_the_bundled_files(monkeypatch, tmp_path, name):
    command, _ = PRESETS[name]
    monkeypatch.chdir(tmp_path)
    found = []
    monkeypatch.setattr(sys.modules[COMMANDS[command].__module__], "launch", lambda _, options: found.append(options))
    COMMANDS[name](["--steps", "7"])
    assert found[0].save == BUNDLED / f"{name.replace('-', '_')}.safetensors" and found[0].save.is_file()
    assert (found[0].command, found[0].name, found[0].out, found[0].steps) == (name, name, Path("runs/mini"), 7)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "mini-scenes"])
def test_every_trainer_saves_where_it_is_told(name, capsys):
    with pytest.raises(SystemExit):
        COMMANDS[name](["--help"])
    assert "--save SAVE" in capsys.readouterr().out


def page(name):
    return " ".join((DOCS / name).read_text(encoding="utf-8").split())


def test_lsr_trains_as_the_paper_says(monkeypatch, tmp_path):
    options = defaults(monkeypatch, lsr, "--vae", "x", "--images", "x", "--out", str(tmp_path))
    found = settings(monkeypatch, data, lambda: data.make_loop({}, 0, options))
    assert (options.steps, options.batch, options.crop, options.query, options.drop_path, options.pixel_weight) == (200_000, 32, 32, 64, 0.1, 0)
    assert (options.square, options.scales, options.octaves) == ([1056, 1440], [2, 3, 4], 1)
    assert found["lr"] == 2e-4 and found["lr"] * found["floor"] == pytest.approx(1e-7)
    # Adam with nothing beside it
    assert (found["betas"], found["weight_decay"], found["warmup"], found["hold"], found["ema"], found["clip"]) == ((0.9, 0.999), 0, 1, 0, 0, None)


def test_the_decoders_schedule_is_told(monkeypatch, tmp_path):
    options = defaults(monkeypatch, implicit_decoder, "--vae", "x", "--images", "x", "--out", str(tmp_path))
    found = settings(monkeypatch, data, lambda: data.make_loop({}, 0, options))
    assert found["lr"] == 1e-4 and found["lr"] * found["floor"] == pytest.approx(5e-8)
    assert f"Adam at 1e-4 with cosine decay to 5e-8, batch {options.batch}, {options.steps:,} steps" in page("training.md")
    assert (found["betas"], found["weight_decay"], found["warmup"], found["ema"], found["clip"]) == ((0.9, 0.999), 0, 1, 0, None)


def test_clearsrs_schedule_is_told(monkeypatch, tmp_path):
    options = defaults(monkeypatch, clearsr, "--out", str(tmp_path))
    monkeypatch.setattr(clearsr, "mini_base", lambda _: None)
    monkeypatch.setattr(clearsr, "build", lambda *_: {})
    found = settings(monkeypatch, clearsr, lambda: clearsr.train(0, options))
    text = page("clearsr.md")
    assert f"{options.steps:,} steps of {options.batch}, learning rate 5e-5, LoRAs of rank {options.rank_unet} and window {options.window} are the paper's" in text
    assert (options.lr, options.rank_vae, found["lr"], found["weight_decay"]) == (5e-5, options.rank_unet, 5e-5, 0)
    assert f"rises over the first {found['warmup']} steps, stays for {found['hold']:.0%} of the run (`--hold`) and falls along a cosine to {found['floor']:.0%}".replace("%", " %") in text
    assert f"Adam's betas are {found['betas'][0]} and {found['betas'][1]}, the gradient is clipped to norm {found['clip']:.0f}, and the saved weights are averages (decay {found['ema']})" in text
    assert clearsr.IMAGE_PROMPT_DROPOUT == 0.1 and "One batch in ten sees no image prompt" in text
    assert f"random squares of {options.square} pixels" in text
    for told in ("100 steps", "2 %", "0.9 and 0.99", "norm 1", "averaged weights", "bfloat16"):
        assert told in " ".join(clearsr.__doc__.split())

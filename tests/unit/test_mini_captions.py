"""What the mini world's captioner says of crops."""

import numpy as np
import pytest
import torch
from loupe.models.mini import file
from loupe.models.mini.captioner import Captioner, describe
from loupe.models.mini.captions import Sight, caption_of, from_ids, to_ids
from loupe.training.mini import captioner as training
from loupe.training.mini.render import render
from loupe.training.mini.scenes import (
    COLORS,
    GROUNDS,
    SHAPES,
    Scene,
    Thing,
    caption,
    crop_sights,
    sample_scene,
)

SCENE = Scene("grass", 1, (1, 1, 1), (Thing("star", "red", 0.2, 0.34, 0.16, 0, 1), Thing("house", "blue", 0.8, 0.66, 0.16, 0, 2)))


@pytest.fixture(scope="module")
def net():
    net = Captioner()
    net.load_state_dict({k: v.float() for k, v in file.load("captioner")[0].items()})
    return net.eval()


def image_of(scene, size):
    return torch.from_numpy(render(scene, size, 1))[None].float() / 255


def test_captions_are_words_of_a_model():
    for words in ("on grass", "red star top left, blue house bottom right, on grass"):
        assert from_ids(to_ids(words)) == words
    assert from_ids(to_ids("red star top left, on sky")[:3]) == "red star top"


@pytest.mark.parametrize("sight, named", [
    (Sight("red", "star", 0.5, 0.5, 0.2, 0.2), True),
    (Sight("red", "star", 0.0, 0.5, 0.2, 0.2), True),  # a half
    (Sight("red", "star", -0.1, 0.5, 0.2, 0.2), False),  # a quarter
    (Sight("red", "star", 0.0, 0.0, 0.2, 0.2), False),  # a corner
    (Sight("red", "star", 0.0, 0.0, 0.7, 0.7), True),  # a corner, but half of the crop
    (Sight("red", "star", 0.5, 0.5, 0.1, 0.2), True),  # in a wide crop
])
def test_what_the_border_cuts_is_named_by_what_is_left(sight, named):
    assert sight.is_named == named
    assert caption_of([sight], "sand") == (f"{sight.words}, on sand" if named else "on sand")


@pytest.mark.parametrize("size", [80, 128, 200, 512])
def test_a_whole_scene_is_told_at_any_size(net, size):
    for scene in (SCENE, sample_scene(7_000_000), sample_scene(7_000_003)):
        assert describe(net, image_of(scene, size)) == caption(scene)


@pytest.mark.parametrize("ground", GROUNDS)
def test_the_ground_is_told_alone_and_below_things(net, ground):
    bare = Scene(ground, 5, (1, 1, 1), ())
    assert describe(net, image_of(bare, 128)) == f"on {ground}"
    color = "blue" if ground in ("brick", "wood", "sand", "grass") else "red"
    thing = Scene(ground, 5, (1, 1, 1), (Thing("heart", color, 0.5, 0.34, 0.18, 0, 1),))
    assert describe(net, image_of(thing, 128)) == caption(thing)


@pytest.mark.parametrize("y", [0, 0.25, 0.5])
@pytest.mark.parametrize("x", [0, 0.25, 0.5])
def test_crops_are_told_by_what_they_show(net, x, y):
    """Things of which about the least is left that is named may be missing."""
    image = image_of(SCENE, 256)[:, int(y * 256) : int(y * 256) + 128, int(x * 256) : int(x * 256) + 128]
    *said, ground = describe(net, image).split(", ")
    left = {sight.words: sight.share / (4 * sight.wide * sight.high) for sight in crop_sights(SCENE, x, y, 0.5)}
    assert ground == "on grass" and all(left[words] > 0.15 for words in said)
    assert {words for words, share in left.items() if share > 0.45} <= set(said)


def test_a_wide_crop_is_told_by_its_own_slots(net):
    wide = image_of(SCENE, 256)[:, 32:160]
    assert wide.shape[1:3] == (128, 256)
    assert describe(net, wide) == "red star top left, blue house bottom right, on grass"


def test_training_views_hold_what_they_say():
    class Large:
        def __len__(self):
            return 3

        def __getitem__(self, i):
            return render(sample_scene(self.seed(i)), 512, 1)

        def seed(self, i):
            return 2_000_000 + i

    rng = np.random.RandomState(0)
    for _ in range(12):
        view, inside, things, ground = training.training_view(rng, Large())
        assert view.shape == (128, 128, 3) and 0 <= view.min() and view.max() <= 255
        outside = np.kron(1 - inside[0], np.ones((4, 4)))[..., None]
        assert (view * outside == 127.5 * outside).all()
        assert 0 <= ground < len(GROUNDS)
        for shape, color, x, y, radius in things:
            assert 0 <= shape < len(SHAPES) and 0 <= color < len(COLORS)
            near = inside[0, int(max(0, min(127, y - radius)) // 4) : int(max(0, min(127, y + radius)) // 4) + 1, int(max(0, min(127, x - radius)) // 4) : int(max(0, min(127, x + radius)) // 4) + 1]
            assert near.any()

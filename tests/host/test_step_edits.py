import comfy.model_sampling
import comfy.samplers
import pytest
import tiny
import torch

from loupe.host.demofusion import Renormalize, SkipResidual
from loupe.host.step_edits import UNSUPPORTED, Edits, patch_step_edits
from loupe.methods.demofusion import schedule_weights

SIGMAS = torch.tensor([10.0, 8.0, 6.0, 4.0, 3.0, 2.5, 2.0, 1.6, 1.3, 1.0, 0.8, 0.6, 0.45, 0.3])


class Edit:
    key, rank = "edit", 0

    def __init__(self, **edits):
        self.edits = edits

    def __call__(self, run):
        return Edits(**self.edits)


def nothing_ahead():
    """A model that always predicts an empty picture."""
    model = tiny.toy({f"toy.{name}": torch.zeros(shape) for name, shape in {"w1": (1, 4, 3, 3), "b1": 1, "v": 1, "w2": (4, 1, 3, 3), "b2": 4}.items()})

    class Sampling(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.X0):
        pass

    model.model.model_sampling = Sampling(model.model.model_config)
    return model


@pytest.mark.parametrize("name", comfy.samplers.SAMPLER_NAMES)
def test_every_sampler_goes_on_from_the_edited_state(name):
    """A state overwritten at the later steps forgets how the run began, or the sampler is refused."""
    pin = Edit(before=lambda x, sigma: x.fill_(sigma) if sigma < 2.8 else None)
    model, latent = patch_step_edits(nothing_ahead(), pin), torch.zeros(1, 4, 4, 4)

    def run(seed):
        return tiny.sample(model, latent, name, sigmas=SIGMAS, cfg=1.0, noise_tensor=tiny.noise(latent.shape, seed))

    if name in REFUSED:
        with pytest.raises(ValueError, match=f"sampler {name} cannot carry edit.*Choose euler"):
            run(1)
    else:
        torch.testing.assert_close(run(1), run(2))


REFUSED = {"dpm_fast", "dpm_adaptive", "sa_solver", "sa_solver_pece", "uni_pc", "uni_pc_bh2"}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_the_refused_samplers_do_lose_edits(name, monkeypatch):
    """Of the next state, or of the prediction: the other half of the trace."""
    function = getattr(comfy.samplers.sampler_object(name).sampler_function, "__name__")
    assert UNSUPPORTED[function] == name
    monkeypatch.delitem(UNSUPPORTED, function)
    latent = torch.zeros(1, 4, 4, 4)

    def run(seed, **edits):
        return tiny.sample(patch_step_edits(nothing_ahead(), Edit(**edits)), latent, name, sigmas=SIGMAS, cfg=1.0, noise_tensor=tiny.noise(latent.shape, seed))

    def pin(x, sigma):
        if sigma < 2.8:
            x.fill_(sigma)

    def shift(x, denoised, sigma, step):
        if step == len(SIGMAS) - 2:
            x.add_(1)
            denoised.add_(1)

    lost_before = not torch.allclose(run(1, before=pin), run(2, before=pin), atol=1e-3)
    moved = (run(1, callback=shift) - run(1)).mean() * 0.13025
    assert lost_before or not 0.5 < moved < 2

import pytest
import torch
import torch.nn.functional as F
from loupe.methods.attention_prior import (
    attended_region,
    bilinear_weights,
    compose,
    token_centers,
)

pytestmark = pytest.mark.numerics


def weights_of(case):
    """Bilinear weights of a reference case's region; one token is one cell of its canvas."""
    y, x, height, width = case["region_tokens_y_x_h_w"]
    rows = bilinear_weights(token_centers(y, 1, height, height, case["hr_tokens"][0]), case["lr_tokens"][0])
    columns = bilinear_weights(token_centers(x, 1, width, width, case["hr_tokens"][1]), case["lr_tokens"][1])
    return rows[None], columns[None]


@pytest.mark.parametrize("name", ["c0", "c1", "c2"])
def test_attended_values_equal_interpolated_maps(name, golden):
    tensors, info = golden("cupscale_rap")
    case = info["cases"][name]
    t = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(name)}

    attended = attended_region(t["O_lr"].unflatten(0, case["lr_tokens"])[None], *weights_of(case))
    torch.testing.assert_close(attended[0], t["F_rap"], atol=info["tol"], rtol=0)
    torch.testing.assert_close(compose(t["F_rsp"], attended[0], 0.5), t["F_comp"], atol=info["tol"], rtol=0)

    def project(x):
        return F.linear(x, t["W_out"], t["b_out"])

    # the same after the output projection, where ComfyUI's hook is
    attended = attended_region(project(t["O_lr"]).unflatten(0, case["lr_tokens"])[None], *weights_of(case))
    torch.testing.assert_close(compose(project(t["F_rsp"]), attended[0], 0.5), t["out"], atol=info["tol"], rtol=0)


@pytest.mark.parametrize("low, high", [(5, 13), (8, 16), (7, 7), (12, 5)])
def test_weights_are_bilinear_interpolation(low, high):
    weights = bilinear_weights(token_centers(0, 1, high, high, high), low)
    torch.testing.assert_close(weights.sum(-1), torch.ones(high, dtype=torch.float64))
    values = torch.randn(1, 3, low, dtype=torch.float64)
    torch.testing.assert_close(values @ weights.T, F.interpolate(values, high, mode="linear"))


def test_coarser_tokens_lie_between_the_cells():
    # two cells a token, any origin
    torch.testing.assert_close(token_centers(5, 1, 8, 4, 40), (torch.tensor([6.0, 8.0, 10.0, 12.0]) / 40).double())
    # every third cell of the canvas
    torch.testing.assert_close(token_centers(1, 3, 4, 4, 12), (torch.tensor([1.5, 4.5, 7.5, 10.5]) / 12).double())


def test_outside_of_the_canvas_the_border_repeats():
    assert bilinear_weights(torch.tensor([-0.2, 1.3]), 4).tolist() == [[1, 0, 0, 0], [0, 0, 0, 1]]


def test_a_batch_of_regions_and_images_is_region_major():
    values = torch.randn(2, 6, 5, 7)
    rows, columns = torch.rand(3, 4, 6), torch.rand(3, 2, 5)
    together = attended_region(values, rows, columns)
    assert together.shape == (6, 8, 7)
    for n in range(3):
        for b in range(2):
            alone = attended_region(values[b : b + 1], rows[n : n + 1], columns[n : n + 1])
            torch.testing.assert_close(together[n * 2 + b], alone[0])

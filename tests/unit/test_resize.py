import pytest
import torch
import torch.nn.functional as F
from loupe.methods import resize
from loupe.methods.resize import area_resize, averages

pytestmark = pytest.mark.numerics

SIZES = [((16, 24), (8, 12)), ((17, 13), (5, 4)), ((9, 31), (9, 7)), ((5, 6), (13, 12)), ((64, 3), (63, 1)), ((1, 1), (4, 2))]


@pytest.mark.parametrize("before, after", SIZES)
def test_is_adaptive_average_pooling(before, after):
    x = torch.randn(2, 4, 3, *before, generator=torch.Generator().manual_seed(0))
    pooled = F.adaptive_avg_pool2d(x.flatten(0, 2)[:, None], after).view(2, 4, 3, *after)
    assert torch.equal(area_resize(x, *after), pooled)
    assert torch.equal(area_resize(x[:, :, 0], *after), F.interpolate(x[:, :, 0], after, mode="area"))
    torch.testing.assert_close(resize._by_matrices(x, *after), pooled, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_matrix_of_an_axis_is_the_pooled_identity(dtype):
    like = torch.zeros(1, dtype=dtype)
    for length in range(1, 24):
        for count in range(1, 24):
            pooled = F.adaptive_avg_pool1d(torch.eye(length, dtype=dtype)[None], count)[0].mT
            assert torch.equal(averages(length, count, like), pooled)

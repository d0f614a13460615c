import cv2
import numpy as np
import pytest
import torch
from loupe.training.images import report, scan, shrink_bicubic, to_unit_tensor
from loupe.training.plots import plot_log, sheet
from PIL import Image


def weights(length, factor):
    """Row i: what each pixel gives to pixel i of the line shrunk by `factor`; Keys' cubic, a = -1/2, symmetric border."""
    table = np.zeros((length // factor, length))
    for i in range(length // factor):
        center = (i + 0.5) * factor - 0.5
        reached = np.arange(int(np.floor(center - 2 * factor)), int(np.ceil(center + 2 * factor)) + 1)
        x = np.abs(reached - center) / factor
        w = np.where(x <= 1, 1.5 * x**3 - 2.5 * x**2 + 1, np.where(x < 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0))
        mirrored = np.where(reached < 0, -1 - reached, np.where(reached >= length, 2 * length - 1 - reached, reached))
        np.add.at(table[i], mirrored, w / w.sum())
    return table


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_shrink_is_antialiased_bicubic_truncated(factor):
    image = np.random.RandomState(factor).randint(0, 256, (8 * factor, 11 * factor, 3)).astype(np.uint8)
    exact = np.einsum("ya,xb,abc->yxc", weights(image.shape[0], factor), weights(image.shape[1], factor), image.astype(float))
    small = shrink_bicubic(image, factor)
    assert small.shape == (8, 11, 3) and small.dtype == np.uint8
    # float32 may fall to the other side of a whole number
    assert (small == np.floor(exact.clip(0, 255))).mean() > 0.999
    assert np.abs(small - exact.clip(0, 255)).max() < 1 + 1e-3


def test_flat_images_stay_flat():
    assert (shrink_bicubic(np.full((24, 24, 3), 200, np.uint8), 4) >= 199).all()


def test_a_image_is_turned_as_its_exif_says(tmp_path):
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, :20] = (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    found = scan(tmp_path, 20).usable["turned.png"].read()
    assert found.shape == (40, 20, 3) and found[0, 0, 0] == 255 and found[-1, 0, 0] == 0


def test_what_a_folder_holds(tmp_path, capsys):
    (tmp_path / "sub").mkdir()
    cv2.imwrite(str(tmp_path / "b.png"), np.zeros((30, 50), np.uint8))
    cv2.imwrite(str(tmp_path / "sub" / "A.JPG"), np.zeros((30, 30, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "flat.png"), np.zeros((29, 300, 3), np.uint8))
    (tmp_path / "cut.png").write_bytes((tmp_path / "b.png").read_bytes()[:20])
    (tmp_path / "notes.txt").write_text("no image", encoding="utf-8")
    np.save(tmp_path / "stack.npy", np.zeros((3, 40, 40, 3), np.uint8))
    np.save(tmp_path / "numbers.npy", np.zeros(5))
    found = scan(tmp_path, 30)
    assert list(found.usable) == ["b.png", "stack.npy#0", "stack.npy#1", "stack.npy#2", "sub/A.JPG"]
    assert found.unreadable == ["cut.png", "numbers.npy"] and found.small == 1
    assert found.usable["b.png"].read().shape == (30, 50, 3)
    report(tmp_path, found, 30)
    assert "cut.png" in capsys.readouterr().out


def test_pixels_keep_their_places():
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert torch.equal(to_unit_tensor(image[:, ::-1]), to_unit_tensor(image).flip(-1))


def test_curves_and_sheets_are_images(tmp_path):
    (tmp_path / "log.csv").write_text("step,seconds,lr,loss\n100,1.0,1e-3,0.5\n200,2.0,5e-4,0.5\n300,3.0,1e-4\n", encoding="utf-8")
    plot_log(tmp_path / "log.csv", tmp_path / "log.png")
    assert cv2.imread(str(tmp_path / "log.png")).shape == (360, 900, 3)  # lr and loss
    red = torch.zeros(2, 3, 16, 16)
    red[:, 0] = 1
    sheet(tmp_path / "sheet.png", {"small": red[..., :8, :8], "large": red})
    image = cv2.imread(str(tmp_path / "sheet.png"))[..., ::-1]
    assert image.shape == (24 + 32, 32, 3) and (image[24:] == (255, 0, 0)).all()

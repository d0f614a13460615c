"""The image that is given, and the images of the page."""

import base64
import io

from PIL import Image, ImageFilter, ImageOps, ImageStat

from ..jobs import UsageError

SMALLEST = 64
CROP, WHOLE = 512, 1024  # pixels


def read(file, longest):
    """(image, its own size), no larger than `longest`, without metadata."""
    try:
        with Image.open(file) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGB")
    except FileNotFoundError as error:
        raise UsageError(f"--image {file}: no such file") from error
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UsageError(f"--image {file}: this is no image that can be read. Give a PNG, JPEG or WebP file") from error
    size = image.size
    if min(size) < SMALLEST:
        raise UsageError(f"--image {file} has {size[0]} x {size[1]} pixels; expected at least {SMALLEST} on each side")
    image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    clean = Image.new("RGB", image.size)
    clean.paste(image)
    return clean, size


def busiest(image):
    """The box of CROP pixels that has most to see."""
    width, height = (min(CROP, side) for side in image.size)
    edges = image.convert("L").filter(ImageFilter.FIND_EDGES)

    def starts(side, part):
        return sorted({*range(0, side - part + 1, max(part // 4, 1)), side - part})

    boxes = [(x, y, x + width, y + height) for y in starts(image.height, height) for x in starts(image.width, width)]
    return max(boxes, key=lambda box: ImageStat.Stat(edges.crop(box)).mean[0])


def whole(image):
    image = image.copy()
    image.thumbnail((WHOLE, WHOLE), Image.Resampling.LANCZOS)
    return image


def data_uri(image, quality):
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=quality, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()

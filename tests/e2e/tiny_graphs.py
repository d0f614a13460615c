"""API workflows of the templates for a server with tests/e2e/tiny_loaders: stand-ins for loaders, small sizes, all else as it is."""

import copy
import math

from loupe.tools.graph import ancestors, is_link

TEXT = {"CLIPLoader", "DualCLIPLoader"}
STAND_INS = {"CheckpointLoaderSimple", "UNETLoader", "VAELoader", "ControlNetLoader", "LoupeLoadClearSR", "LoupeLoadImplicitDecoder"} | TEXT
NO_FILE = "pixel_space"  # a VAE that ComfyUI has itself

# how the names of files begin, and the tiny network of tests/comfyui/families.py for them; a VAE is that of its latents
FILES = {
    "sd_xl_": "sdxl",
    "v1-5-": "sd15",
    "v2-1_512": "sd15",  # it predicts noise, as SD 1.5 does
    "clearsr": "sd15",
    "implicit_decoder_sd_xl": "sdxl",
    "control_v11f1e_sd15": "sd15",
    "TTPLANET_": "sdxl",
    "z_image": "zimage",
    "krea2": "krea2",
    "qwen_image_vae": "qwen",
    "qwen_image_edit": "qwen_edit",
    "qwen_image": "qwen",
    "flux-2-klein": "flux2_klein",
    "flux2-vae": "flux2_klein",
    "seedvr2": "seedvr2_3b",
    "pid_flux1": "pid",
    "ae.": "flux",
}

# pixels to the side of an image of the native size: the least that there are regions of, and that Scale Image to Total
# Pixels makes
LEAST, LEAST_AREA = 64, 128
NATIVE = 1024
REGION = {"region_width", "region_height", "patch_size"}
SIDES = {"EmptyLatentImage": {"width", "height"}}
TILES = {"tile_size": 64, "overlap": 0}  # of VAEs, and their least; the overlap of regions is a share


def family_of(file):
    """Raises LookupError for a file that `FILES` does not have."""
    found = [family for start, family in FILES.items() if file.startswith(start)]
    if not found:
        raise LookupError(f"FILES has no tiny network for {file}; add how its name begins")
    return found[0]


def is_file(name):
    return name.rstrip("0123456789").endswith("_name")


def stands_in(node):
    return node["class_type"] in STAND_INS and NO_FILE not in node["inputs"].values()


def smaller(kind, name, value, side):
    """The value of an input where images of the native size have `side` pixels to theirs."""
    if is_link(value):
        return value
    if kind == "ImageScaleToTotalPixels" and name == "megapixels":
        return side**2 / 2**20
    if name in TILES and isinstance(value, int):
        return max(value * side // NATIVE, TILES[name])
    return side if name in REGION | SIDES.get(kind, set()) else value


def tiny(workflow, image):
    """`workflow` on tiny networks. image: the name of a small one, for Load Image."""
    made = copy.deepcopy(workflow)
    side = LEAST_AREA if any(node["class_type"] == "ImageScaleToTotalPixels" for node in made.values()) else LEAST
    for node in made.values():
        kind, inputs = node["class_type"], node["inputs"]
        if stands_in(node):
            files = [inputs.pop(name) for name in list(inputs) if is_file(name)]
            node["class_type"] = f"Tiny{kind}"
            if kind not in TEXT:
                inputs["family"] = family_of(files[0])
        elif kind == "LoadImage":
            inputs["image"] = image
        else:
            node["inputs"] = {name: smaller(kind, name, value, side) for name, value in inputs.items()}
    return made


def with_figures(workflow):
    """And ask for the figures of what each Save Image gets, by the id of it."""
    asked = {f"figures of {key}": {"class_type": "TinyFigures", "inputs": {"images": node["inputs"]["images"]}} for key, node in workflow.items() if node["class_type"] == "SaveImage"}
    return {**workflow, **asked}


def without(workflow, key):
    """`workflow` less node `key`, whose first output is its input `model`."""
    made = {other: copy.deepcopy(node) for other, node in workflow.items() if other != key}
    for node in made.values():
        node["inputs"] = {name: workflow[key]["inputs"]["model"] if value == [key, 0] else value for name, value in node["inputs"].items()}
    return made


def enlarging(workflow):
    """(id, factor) of the one node that says how much an image is enlarged."""
    ((key, factor),) = [(key, node["inputs"]["scale_by"]) for key, node in workflow.items() if "scale_by" in node["inputs"]]
    return key, factor


def size_of_native_area(size, megapixels, steps):
    """As ComfyUI's Scale Image to Total Pixels has it."""
    width, height = size
    factor = math.sqrt(megapixels * 2**20 / (width * height))
    return tuple(round(side * factor / steps) * steps for side in (width, height))


def on_the_way(workflow, key):
    """The nodes that lead to node `key`."""
    return [workflow[found] for found in ancestors(workflow, key)]


def factor(workflow, key):
    """How many times what node `key` saves is enlarged."""
    return math.prod(node["inputs"].get("scale_by", 1) for node in on_the_way(workflow, key))


def promised_size(workflow, key, image):
    """(width, height) of what node `key` saves. image: the size of the image that is loaded."""
    inputs = {node["class_type"]: node["inputs"] for node in on_the_way(workflow, key)}
    if "ImageScaleToTotalPixels" in inputs:
        native = inputs["ImageScaleToTotalPixels"]
        image = size_of_native_area(image, native["megapixels"], native["resolution_steps"])
    elif "LoadImage" not in inputs:
        image = inputs["EmptyLatentImage"]["width"], inputs["EmptyLatentImage"]["height"]
    return tuple(round(side * factor(workflow, key)) for side in image)

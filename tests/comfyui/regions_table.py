"""The table of docs/regions.md: which test proves a kind of conditioning on a model family, or why there is none."""

import functools

import families
import local
from loupe.engine.families import FAMILIES
from loupe.engine.views import Canvas

UNETS, TRANSFORMERS = ("sd15", "sdxl"), ("sd3", "flux", "pixart", "qwen", "wan", "zimage")
COLUMNS = {"sd15": "SD 1.5", "sdxl": "SDXL", "sd3": "SD 3", "flux": "Flux", "pixart": "PixArt", "qwen": "Qwen-Image", "wan": "Wan", "zimage": "Z-Image, Lumina 2"}
LOCAL = "test_local.py::test_regions_equal_the_whole"


def every(cell, families=tuple(COLUMNS)):
    return {family: cell.format(family=family) for family in families}


# cells that other tests prove, or that are refused; LOCAL proves the rest
ROWS = {
    "a prompt for each region": every("test_local.py::test_prompts_of_regions_are_seen_by_their_regions[{family}]"),
    **{kind: {} for kind in local.KINDS},
    "ControlLora": {
        **every("test_conditioning.py::test_control_loras[{family}]", UNETS),
        **every("ComfyUI applies them to UNets", TRANSFORMERS),
    },
    "size conditioning": {
        **every("the family is told no size"),
        "sdxl": "test_conditioning.py::test_sdxl_is_told_the_region_or_the_canvas",
        "pixart": "test_local.py::test_pixart_is_told_the_region_or_the_canvas",
    },
    "positions on the canvas": {
        **every("refused: test_families.py::test_canvas_positions_are_refused_where_the_model_has_none[{family}]", ("sd15", "sdxl", "sd3", "pixart")),
        **every("test_families.py::test_canvas_positions_are_comfyui_s_shifted_ones[{family}]", ("flux", "zimage")),
        "qwen": "test_families.py::test_shifted_positions_are_those_of_the_canvas[qwen-False]",
        "wan": "test_families.py::test_canvas_positions_change_nothing_where_only_distances_count",
    },
    "style model masks": {
        **every("made for Flux"),
        "flux": "refused: test_regional.py::test_style_model_masks_are_refused_before_sampling",
    },
    "camera rays, VACE frames": {
        **every("made for Wan"),
        "wan": "test_engine.py::test_camera_rays_are_cut_in_pixels, test_engine.py::test_vace_and_other_tensors_of_the_canvas_are_cut",
    },
}


def cell(row, family):
    if family in ROWS[row]:
        return ROWS[row][family]
    return local.REFUSED.get((row, family)) or f"{LOCAL}[{row}-{family}]"


def names(text):
    """The tests that a cell names."""
    return [name.removeprefix("refused: ") for name in text.split(", ") if "::" in name]


def table() -> str:
    """Markdown; a number stands for a test or a reason in the list below it."""
    notes = []

    def short(row, family):
        text = cell(row, family)
        if text == f"{LOCAL}[{row}-{family}]":
            return "`L`"
        generic = text.replace(f"[{family}]", "[…]")
        if generic not in notes:
            notes.append(generic)
        return f"{'no' if not names(text) or text.startswith('refused') else 'yes'} {notes.index(generic) + 1}"

    lines = ["| | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    lines += [f"| {row} | " + " | ".join(short(row, family) for family in COLUMNS) + " |" for row in ROWS]
    lines += ["", f"`L`: `{LOCAL}[row-family]`, families " + ", ".join(f"`{family}`" for family in COLUMNS) + ".", ""]
    lines += [f"{i}. " + (f"`{note}`" if "::" in note and not note.startswith("refused") else note) for i, note in enumerate(notes, 1)]
    return "\n".join(lines)


FAMILY_COLUMNS = ("family", "region, pixels", "multiples of", "positions: canvas", "told of a region by more than crops", "tiny networks")
POSITIONS = {None: "refused", "relative": "nothing to move", "post_input": "moved", "post_input_centered": "moved", "post_input_halved": "moved", "rope_options": "moved, one by one", "rope_options_stretched": "moved, one by one"}
TOLD = {"pixels": "{} in pixels", "coarse": "{} by its own cells"}


def shown_families():
    """Records of models that make images."""
    configs = {family.config for family in families.FAMILIES.values()}
    return [family for family in FAMILIES if configs & set(family.configs)]


def networks_of(family):
    return [name for name, tiny in families.FAMILIES.items() if tiny.config in family.configs]


@functools.cache
def multiple_of(name):
    """Pixels to the side of what regions of a tiny network are multiples of."""
    model = families.build(name).model
    canvas = Canvas.of(model, 1, 1)
    return canvas.patch * canvas.pixels_per_cell


def told(family):
    parts = ["size"] if family.sizes else []
    parts += [TOLD[how].format(f"`{name}`") for name, how in family.crops.items()]
    parts += ["tokens laid out anew"] if family.rebuilt else []
    return ", ".join(parts)


def family_table() -> str:
    """Markdown."""
    lines = ["| " + " | ".join(FAMILY_COLUMNS) + " |", "|---" * len(FAMILY_COLUMNS) + "|"]
    for family in shown_families():
        names = networks_of(family)
        multiples = " or ".join(map(str, sorted({multiple_of(name) for name in names})))
        lines.append(f"| {family.name} | {family.native} | {multiples} | {POSITIONS[family.positions]} | {told(family)} | " + ", ".join(f"`{name}`" for name in names) + " |")
    return "\n".join(lines)


CACHE_COLUMNS = ("regions", "images of two sizes", "PixelSmith")
REFUSED_BY_PIXELSMITH = "test_caches.py::test_pixelsmith_refuses_what_remembers[{name}]"
# what other nodes keep: the test that proves a place beside it, "refused: " before one that proves the refusal
CACHES = {
    "EasyCache": ("test_neighbors.py::test_caches_reuse_region_batches[EasyCacheNode-False]", "test_caches.py::test_easycache_keeps_images_of_each_size_apart", "refused: " + REFUSED_BY_PIXELSMITH.format(name="EasyCache")),
    "LazyCache": ("test_neighbors.py::test_caches_reuse_region_batches[LazyCacheNode-False]", "test_caches.py::test_lazycache_keeps_the_whole_canvas", "refused: " + REFUSED_BY_PIXELSMITH.format(name="LazyCache")),
    "Flux KV Cache": ("refused: test_caches.py::test_a_kv_cache_is_refused_beside_several_views[regions]", "refused: test_caches.py::test_a_kv_cache_is_refused_beside_several_views[dilated views]", "refused: test_caches.py::test_a_kv_cache_is_refused_by_pixelsmith"),
    "caches of other packs around the network (TeaCache and the like)": ("test_other_packs.py::test_every_region_has_its_own_cache", "test_other_packs.py::test_a_dilated_view_has_its_own_cache_too", "test_other_packs.py::test_a_patch_of_pixelsmith_has_its_own_cache"),
    "Adaptive Projected Guidance with momentum": ("test_caches.py::test_guidance_with_momentum_sees_the_whole_canvas", "test_caches.py::test_guidance_with_momentum_sees_the_whole_canvas", "refused: " + REFUSED_BY_PIXELSMITH.format(name="APG")),
    "Self-Attention Guidance": tuple(f"refused: test_caches.py::test_guidance_that_records_attention_is_refused_beside_several_views[{name}]" for name in ("regions", "DemoFusion")) + ("refused: " + REFUSED_BY_PIXELSMITH.format(name="SelfAttentionGuidance"),),
    "guidance of other packs that remembers": ("test_caches.py::test_guidance_that_averages_sees_the_whole_canvas",) * 2 + ("refused: " + REFUSED_BY_PIXELSMITH.format(name="Average"),),
}


def cache_table() -> str:
    """Markdown, as `table`."""
    notes = []

    def short(text):
        if text not in notes:
            notes.append(text)
        return f"{'refused' if text.startswith('refused') else 'yes'} {notes.index(text) + 1}"

    lines = ["| | " + " | ".join(CACHE_COLUMNS) + " |", "|---" * (len(CACHE_COLUMNS) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(map(short, cells)) + " |" for name, cells in CACHES.items()]
    return "\n".join([*lines, "", *(f"{i}. " + (f"`{note.removeprefix('refused: ')}`" if "::" in note else note) for i, note in enumerate(notes, 1))])

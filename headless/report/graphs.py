"""The graphs of one template "Upscale your image": Loupe's own, core's way, a tiled upscaler's, and questions about them."""

from ..client import find_node
from ..jobs import UsageError

IMAGE, FRESH, RESULT = "report image", "report fresh", "report result"
CANVAS, SCHEDULE = "report canvas", "report schedule"
TILED = "UltimateSDUpscaleNoUpscale"
TILED_DENOISE = 0.35
DENOISES = [percent / 100 for percent in range(5, 101)]
ENLARGE, CREATIVITY, SAMPLER = "LoupeEnlargeImage", "LoupeCreativity", "SamplerCustom"
LATENT, LARGE = 0, 2  # outputs of Enlarge Image


def is_link(value):
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def sources(node):
    return [value[0] for value in node["inputs"].values() if is_link(value)]


def kept(graph, *ends):
    """What `ends` need of the graph."""
    found = list(ends)
    for node_id in found:
        found += [other for other in dict.fromkeys(sources(graph[node_id])) if other not in found]
    return {node_id: node for node_id, node in graph.items() if node_id in found}


def copied(graph):
    return {node_id: {**node, "inputs": dict(node["inputs"])} for node_id, node in graph.items()}


def is_template(workflow):
    """Whether it is a graph "Upscale your image"."""
    classes = [node["class_type"] for node in workflow.values()]
    return all(classes.count(one) == 1 for one in (ENLARGE, CREATIVITY, SAMPLER)) and classes.count("LoadImage") <= 1


def result_of(graph):
    """The link of the image that comes from the sampler."""
    sampler = find_node(graph, SAMPLER)
    saved = [node["inputs"]["images"] for node_id, node in graph.items() if node["class_type"] == "SaveImage" and sampler in kept(graph, node_id)]
    if len(saved) != 1:
        raise UsageError(f"the workflow saves {len(saved)} images of its sampler; expected one")
    return saved[0]


def loupe(workflow):
    """The template with an image from outside, without what it draws itself. FRESH makes every run a new one."""
    graph = copied(workflow)
    result = result_of(graph)
    loaders = [node_id for node_id, node in graph.items() if node["class_type"] == "LoadImage"]
    for node in graph.values():
        node["inputs"] = {name: [FRESH, 0] if is_link(value) and value[0] in loaders and value[1] == 0 else value for name, value in node["inputs"].items()}
    graph[find_node(graph, ENLARGE)]["inputs"]["image"] = [FRESH, 0]
    graph[IMAGE] = {"class_type": "LoadImage", "inputs": {"image": ""}}
    # an image has no second one: any length gives the same, and the server's cache does not know
    graph[FRESH] = {"class_type": "ImageFromBatch", "inputs": {"image": [IMAGE, 0], "batch_index": 0, "length": 1}}
    graph[RESULT] = {"class_type": "PreviewImage", "inputs": {"images": result}}
    return kept(graph, RESULT)


def plain(graph, link, name):
    """What stands before Loupe's nodes on the line of inputs `name` that ends in `link`."""
    while graph[link[0]]["class_type"].startswith("Loupe") and is_link(graph[link[0]]["inputs"].get(name)):
        link = graph[link[0]]["inputs"][name]
    return link


def scheduler(graph, steps, denoise):
    creativity = graph[find_node(graph, CREATIVITY)]["inputs"]
    inputs = {"model": creativity["model"], "scheduler": creativity["scheduler"], "steps": steps, "denoise": denoise}
    return {"class_type": "BasicScheduler", "inputs": inputs}


def core(graph, steps, denoise):
    """ComfyUI's own sampling of the whole canvas: without Loupe's nodes on the model and the prompts."""
    out = copied(graph)
    inputs = out[find_node(out, SAMPLER)]["inputs"]
    inputs["model"] = plain(out, inputs["model"], "model")
    inputs["positive"] = plain(out, inputs["positive"], "conditioning")
    inputs["negative"] = plain(out, inputs["negative"], "conditioning")
    inputs["sigmas"] = [SCHEDULE, 0]
    out[SCHEDULE] = scheduler(graph, steps, denoise)
    return kept(out, RESULT)


def defaults(definition):
    """The values of all required inputs that have any, by a node's entry in /object_info."""
    found = {}
    for name, (kind, *options) in definition["input"]["required"].items():
        options = options[0] if options else {}
        choices = kind if isinstance(kind, list) else options.get("options")
        if "default" in options:
            found[name] = options["default"]
        elif choices:
            found[name] = choices[0]
    return found


def tiled(graph, definition, steps, tile):
    """A tiled upscaler at its defaults on the enlarged image. definition: of TILED in /object_info. tile: (width, height)."""
    plain_graph = core(graph, 1, 1.0)
    sampling = plain_graph[find_node(plain_graph, SAMPLER)]["inputs"]
    enlarge = find_node(plain_graph, ENLARGE)
    inputs = {
        **defaults(definition),
        "upscaled_image": [enlarge, LARGE],
        **{name: sampling[name] for name in ("model", "positive", "negative", "cfg")},
        "vae": plain_graph[enlarge]["inputs"]["vae"],
        "seed": sampling["noise_seed"],
        "steps": steps,
        "sampler_name": plain_graph[sampling["sampler"][0]]["inputs"]["sampler_name"],
        "scheduler": graph[find_node(graph, CREATIVITY)]["inputs"]["scheduler"],
        "denoise": TILED_DENOISE,
        "tile_width": tile[0],
        "tile_height": tile[1],
    }
    upscaler = {"class_type": TILED, "inputs": inputs}
    shown = {"class_type": "PreviewImage", "inputs": {"images": [TILED, 0]}}
    return kept({**plain_graph, TILED: upscaler, RESULT: shown}, RESULT)


def fresh(graph, image, seed, number):
    """The graph for one run: nothing that depends on the image is taken from the server's cache."""
    out = copied(graph)
    out[IMAGE]["inputs"]["image"] = image
    out[FRESH]["inputs"]["length"] = number
    for node in out.values():
        for name in ("noise_seed", "seed"):
            if node["class_type"] in (SAMPLER, TILED) and name in node["inputs"]:
                node["inputs"][name] = seed
    return out


def about_canvas(graph, image):
    """Shows the enlarged image (CANVAS) and the noise levels of Creativity (SCHEDULE)."""
    out = fresh(graph, image, 0, 1)
    out[CANVAS] = {"class_type": "PreviewImage", "inputs": {"images": [find_node(graph, ENLARGE), LARGE]}}
    out[SCHEDULE] = {"class_type": "PreviewAny", "inputs": {"source": [find_node(graph, CREATIVITY), 0]}}
    return kept(out, CANVAS, SCHEDULE)


def about_denoise(graph, steps):
    """Shows the noise levels of BasicScheduler for all DENOISES, each under its number."""
    out = copied(graph)
    for denoise in DENOISES:
        out[f"schedule {denoise}"] = scheduler(graph, steps, denoise)
        out[str(denoise)] = {"class_type": "PreviewAny", "inputs": {"source": [f"schedule {denoise}", 0]}}
    return kept(out, *map(str, DENOISES))

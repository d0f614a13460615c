"""The workflow that shows one image enlarged in every way."""

import json
from pathlib import Path

import numpy as np
import pytest
from loupe.headless.client import find_node

WORKFLOW = Path(__file__).resolve().parents[2] / "workflows" / "api" / "compare.json"
SAMPLERS = ("LoupeDemoFusionSampler", "LoupePixelSmithSampler")
SHEET = ["Enlarge", "LSR", "Regions alone", "LSRNA-DemoFusion", "PixelSmith", "C-Upscale"]


@pytest.fixture
def workflow():
    """With a few steps each."""
    workflow = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    for node in workflow.values():
        changed = {"preset": "custom", "steps": 4, "strength": 0.5, "guided_steps": 2} if node["class_type"] in SAMPLERS else {"steps": 8, "start_at_step": 5}
        node["inputs"].update({name: value for name, value in changed.items() if name in node["inputs"]})
    return workflow


def test_the_sheet_holds_all_images_in_the_order_of_its_title(client, workflow):
    (sheet,) = [key for key, node in workflow.items() if node["class_type"] == "PreviewImage"]
    workflow["enlarged"] = {"class_type": "SaveImage", "inputs": {"images": [find_node(workflow, title="Enlarge"), 0], "filename_prefix": "enlarged"}, "_meta": {"title": "Enlarge"}}
    run = client.run(workflow)
    image = np.asarray(client.images(run, sheet)[0])
    assert image.shape == (2 * 256 + 8, 3 * 256 + 2 * 8, 3)
    seen = []
    for place, title in enumerate(SHEET):
        y, x = (place // 3) * 264, (place % 3) * 264
        single = np.asarray(client.images(run, find_node(workflow, "SaveImage", title))[0])
        assert np.array_equal(image[y : y + 256, x : x + 256], single), title
        assert not any(np.array_equal(single, other) for other in seen)
        seen.append(single)
    words = workflow[sheet]["_meta"]["title"].lower().replace(";", ",").split(": ")[1].split(", ")
    assert [word[:4] for word in words] == [title[:4].lower() for title in SHEET]

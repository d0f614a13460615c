"""C-Upscale's workflow of the mini world."""

import json
from pathlib import Path

import numpy as np
import pytest
from loupe.headless.client import WorkflowError, find_node

WORKFLOW = Path(__file__).resolve().parents[2] / "workflows" / "api" / "cupscale.json"


@pytest.fixture
def workflow():
    return json.loads(WORKFLOW.read_text(encoding="utf-8"))


def picture(client, run, workflow, title):
    return client.images(run, find_node(workflow, "SaveImage", title))[0]


def test_the_workflow_enlarges_its_reference(client, workflow, likeness):
    run = client.run(workflow)
    reference, plain, out = (picture(client, run, workflow, title) for title in ("Reference", "Regions alone", "C-Upscale"))
    assert reference.size == (128, 128) and out.size == plain.size == (256, 256)
    assert likeness(out, reference) > 0.8
    assert np.abs(np.asarray(out, float) - np.asarray(plain, float)).mean() > 1


def test_switched_off_it_is_regional_denoise_to_the_bit(client, workflow):
    def inputs(cls):
        (node,) = (node["inputs"] for node in workflow.values() if node["class_type"] == cls)
        return node

    inputs("LoupeStructurePrior")["weight"] = 0.0
    inputs("LoupeAttentionPrior").update(weight=0.0, weight_alone=0.0)
    inputs("LoupeRegionPrompts")["prompts"] = ""
    run = client.run(workflow)
    assert np.array_equal(*(np.asarray(picture(client, run, workflow, title)) for title in ("Regions alone", "C-Upscale")))


def test_a_wrong_number_of_prompts_names_the_node_and_the_entry(client, workflow):
    node = find_node(workflow, "LoupeRegionPrompts")
    workflow[node]["inputs"]["prompts"] += "\none too many"
    with pytest.raises(WorkflowError, match="10 lines, regions has 9 regions; entry 10 is 'one too many'"):
        client.run(workflow)

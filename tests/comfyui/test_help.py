"""Every node is described: tooltips on all inputs and outputs, what to search for, and a help page."""

import re
from pathlib import Path

import pytest
from loupe.nodes import NODES

PAGES = Path(__file__).resolve().parents[2] / "js" / "docs"
SCHEMAS = {schema.node_id: schema for schema in (node.GET_SCHEMA() for node in NODES)}
HEADINGS = ["Inputs", "Connections", "Paper", "Limits"]


@pytest.mark.parametrize("node_id", SCHEMAS)
def test_node_is_described(node_id):
    schema = SCHEMAS[node_id]
    assert len(schema.description) > 40 and schema.description.endswith(".")
    assert schema.search_aliases
    lacks = [f"input {item.id}" for item in schema.inputs if not item.tooltip]
    lacks += [f"output {item.display_name}" for item in schema.outputs if not item.tooltip or not item.display_name]
    assert lacks == []


@pytest.mark.parametrize("node_id", SCHEMAS)
def test_node_has_a_help_page(node_id):
    schema, file = SCHEMAS[node_id], PAGES / f"{node_id}.md"
    assert file.is_file(), f"write js/docs/{node_id}.md"
    page = file.read_text(encoding="utf-8")
    assert page.startswith(f"# {schema.display_name}\n")
    assert re.findall(r"^## (.+)$", page, re.MULTILINE) == HEADINGS
    inputs = page.split("## Inputs")[1].split("## Connections")[0]
    assert [item.id for item in schema.inputs if f"**{item.id}**" not in inputs] == []
    assert re.search(r"!\[.+\]\(images/", page), "show an image"
    assert "\n|" not in page, "a table does not fit beside the graph; write a list"
    assert len(page.split()) < 900


def test_help_pages_belong_to_nodes_and_link_what_is_there():
    assert {file.stem for file in PAGES.glob("*.md")} == set(SCHEMAS)
    images = set()
    for file in PAGES.glob("*.md"):
        for link in re.findall(r"\]\((?!https?://)([^)]+)\)", file.read_text(encoding="utf-8")):
            assert (PAGES / link).is_file(), f"{file.name}: {link}"
            images.add(PAGES / link)
    assert images == set(PAGES.glob("images/*"))
    assert sum(image.stat().st_size for image in images) < 1_000_000


def test_tooltips_are_a_short_sentence():
    lengths = sorted(len(entry.tooltip) for node in NODES for schema in [node.define_schema()] for entry in (*schema.inputs, *schema.outputs) if entry.tooltip)
    assert len(lengths) > 200 and lengths[len(lengths) // 2] <= 60 and lengths[-1] <= 120


@pytest.mark.parametrize("typed", ["tile", "tiled", "4k", "8k", "hires fix", "upscale", "ultimate", "detail", "seam"])
def test_what_people_type_finds_a_node(typed):
    assert any(typed in " ".join([schema.display_name, *schema.search_aliases]).lower() for schema in SCHEMAS.values())

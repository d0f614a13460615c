"""Translations hold every name and tooltip of every node, and nothing else."""

import json
import re
from pathlib import Path

import pytest
from loupe.nodes import NODES

LOCALES = Path(__file__).resolve().parents[2] / "locales"
SCRIPTS = {"zh": r"[\u4e00-\u9fff]", "ja": r"[\u3040-\u30ff]", "ko": r"[\uac00-\ud7a3]"}


def english():
    """Every text that a node shows, in the layout of nodeDefs.json."""
    texts = {}
    for schema in (node.GET_SCHEMA() for node in NODES):
        texts[schema.node_id] = {"display_name": schema.display_name, "description": schema.description}
        for section, items in (("inputs", {item.id: item for item in schema.inputs}), ("outputs", {str(i): item for i, item in enumerate(schema.outputs)})):
            if items:
                texts[schema.node_id][section] = {key: {"name": item.display_name or item.id, "tooltip": item.tooltip} for key, item in items.items()}
    return texts


def flat(tree, path=""):
    if not isinstance(tree, dict):
        return {path: tree}
    return {key: text for name, branch in tree.items() for key, text in flat(branch, f"{path}/{name}").items()}


def read(language, file):
    return json.loads((LOCALES / language / file).read_text(encoding="utf-8"))


def test_the_languages_are_these():
    assert {folder.name for folder in LOCALES.iterdir()} == set(SCRIPTS)


@pytest.mark.parametrize("language", SCRIPTS)
def test_keys_are_those_of_the_nodes(language):
    expected, found = flat(english()), flat(read(language, "nodeDefs.json"))
    assert sorted(set(expected) - set(found)) == [], "not translated"
    assert sorted(set(found) - set(expected)) == [], "of no node"


@pytest.mark.parametrize("language", SCRIPTS)
def test_texts_are_translated_and_can_be_shown(language):
    source = flat(english())
    for key, text in flat(read(language, "nodeDefs.json")).items():
        assert text and not re.search(r"[{}@|]", text), f"{key}: these characters are the page's own"
        if key.endswith(("tooltip", "description")):
            assert re.search(SCRIPTS[language], text), key
            numbers = set(re.findall(r"\d+\.\d+|\b\d{2,}\b", source[key]))
            assert numbers <= set(re.findall(r"\d+\.\d+|\d+", text)), f"{key}: a number differs from the English text"


@pytest.mark.parametrize("language", SCRIPTS)
def test_categories_are_translated(language):
    categories = {part for node in NODES for part in node.GET_SCHEMA().category.split("/")}
    own = categories - {"loaders", "latent", "samplers"}  # the page translates these itself
    assert set(read(language, "main.json")["nodeCategories"]) == own

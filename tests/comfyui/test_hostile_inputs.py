"""Nodes refuse what they cannot use by a ValueError that names an input, whatever comes by link."""

import re
import warnings

import hostile
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loupe.nodes import NODES

pytestmark = pytest.mark.newest

EXAMPLES = 50
LOADERS = {"LoupeLoadLSR", "LoupeLoadClearSR", "LoupeLoadImplicitDecoder"}  # their file names are ComfyUI's to check


@pytest.fixture(scope="module")
def world():
    return hostile.World()


@pytest.mark.parametrize("node", [node for node in NODES if node.define_schema().node_id not in LOADERS])
@settings(max_examples=EXAMPLES, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_every_refusal_names_an_input(world, node, data):
    given = data.draw(hostile.values(world, node))
    names = [declared.id for declared in node.define_schema().inputs]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            node.execute(**given)
        except ValueError as error:
            assert any(re.search(rf"\b{name}\b", str(error)) for name in names), f"{error} names none of {names}"

import json

import pytest
from loupe.methods.region_prompts import (
    clean_caption,
    format_prompts,
    instruction,
    parse_prompts,
    replace_prompt,
)


@pytest.mark.parametrize("answer, prompt", [
    ("A red star on grass.", "A red star on grass."),
    ('"The image shows a red star\non grass."\n', "a red star on grass."),
    ("In this crop, there is a fox.", "a fox."),
    ("Sure! Here is a description of the crop: wet stones, moss", "wet stones, moss"),
    ("Caption: 'wet stones'", "wet stones"),
    ("<think>The crop is a sky.\nNothing else.</think>\n\nPale blue sky", "Pale blue sky"),
    ("<think>cut off in the mid", ""),
    ("**The image depicts** a wall", "a wall"),
    ("The photographer holds a camera", "The photographer holds a camera"),
    ("  ", ""),
])
def test_captions_are_cleaned(answer, prompt):
    assert clean_caption(answer) == prompt


def test_the_instruction_carries_the_global_prompt():
    assert "The whole image shows: a {red} star, on grass. Describe" in instruction(" a {red} star,\non grass. ")
    assert "shows: not described." in instruction("")
    assert instruction("fox", "Say {prompt}!") == "Say fox!"


def test_prompts_are_read_in_every_form():
    prompts = ["a fox", "", 'a "quoted", ünïcode wall']
    assert parse_prompts(format_prompts(prompts), 3) == prompts
    assert parse_prompts("a fox\n\na wall\n", 3) == ["a fox", "", "a wall"]
    assert parse_prompts("\na fox\n", 3) == ["", "a fox", ""]
    assert parse_prompts(json.dumps({"3": " a wall "}), 3) == ["", "", "a wall"]
    assert parse_prompts("", 4) == parse_prompts("\n  \n", 4) == [""] * 4


@pytest.mark.parametrize("text, message", [
    ("a\nb", r"2 lines, regions has 3 regions; the last is 'b'"),
    ('["a", "b", "c", "d"]', r"4 entries, regions has 3 regions; entry 4 is 'd'"),
    ('["a", 5, "c"]', r"entry 2 is 5, not a text"),
    ('["a", ["b"], "c"]', r'entry 2 is \["b"\], not a text'),
    ('[\n "a",\n "b" "c"\n]', r"not valid JSON.*line 3, column 6, near '\"b\" \"c\"'"),
    ('["a"', r"not valid JSON"),
    ('{"4": "a"}', r"region '4'; regions are numbered from 1 to 3"),
    ('{"first": "a"}', r"region 'first'"),
    ('{"1": null}', r"entry 1 is null"),
])
def test_what_is_wrong_is_named(text, message):
    with pytest.raises(ValueError, match=message):
        parse_prompts(text, 3)


@pytest.mark.parametrize("text, replaced", [
    ("", "\nnew\n"),
    ("a\nb\nc", "a\nnew\nc"),
    ('["a", "b", "c"]', '[\n "a",\n "new",\n "c"\n]'),
    ('{"1": "a"}', '{\n "1": "a",\n "2": "new"\n}'),
    ('\n\nc', "\nnew\nc"),
])
def test_a_prompt_is_replaced_in_the_form_of_the_text(text, replaced):
    assert replace_prompt(text, 3, 2, " new\n") == replaced
    assert parse_prompts(replaced, 3)[1] == "new"


@pytest.mark.parametrize("prompt", ["[x]", "{x", 'say "a", b', "", "ü 中"])
@pytest.mark.parametrize("text", ["", "a\nb\nc", '["a", "", "c"]', '{"3": "c"}'])
def test_any_prompt_can_be_read_again(text, prompt):
    wanted = parse_prompts(text, 3)
    wanted[0] = prompt
    assert parse_prompts(replace_prompt(text, 3, 1, prompt), 3) == wanted


def test_a_region_that_is_not_there_has_no_prompt():
    with pytest.raises(ValueError, match="region is 4; regions are numbered from 1 to 3"):
        replace_prompt("", 3, 4, "x")
    with pytest.raises(ValueError, match="prompts has 2 lines"):
        replace_prompt("a\nb", 3, 1, "x")


def test_a_region_named_twice_is_refused_and_a_byte_order_mark_is_not_text():
    with pytest.raises(ValueError, match="prompts names region '2' twice"):
        parse_prompts('{"2": "a", "2": "b"}', 3)
    assert parse_prompts('\ufeff["a", "b"]', 2) == parse_prompts("\ufeffa\nb", 2) == ["a", "b"]

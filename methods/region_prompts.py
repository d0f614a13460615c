"""Prompts of regions (C-Upscale's regional semantic prior, RSP; Qian et al., IJCV 2025), as text."""

import json
import re

# the paper's own wording is not published
INSTRUCTION = (
    "The image is one crop of a larger image. The whole image shows: {prompt}. "
    "Describe only what is visible in this crop: objects, materials, textures, lighting, style. "
    "Do not mention things that are not in the crop. One sentence, at most 50 words, no preamble."
)

THOUGHT = r"(?s)<think>.*?(</think>|$)"
QUOTES = "\"'`“”‘’ "
LABEL = r"(?i)^(?:(?:sure|certainly|of course)\b[^.:]{0,40}[,.:!]\s*)?(?:here(?:'s| is)[^.:]{0,60}:|(?:caption|description|answer)\s*:)\s*"
PREAMBLE = (
    r"(?i)^(?:in (?:this|the) (?:image|crop|image|photo),?\s+(?:there (?:is|are)\s+|we (?:can )?see\s+)?"
    r"|(?:the|this) (?:image|crop|image|photo)(?: is| of)?(?: a crop of)?\s*(?:shows|depicts|features|displays|contains|captures|of)\s+)"
)


def instruction(prompt: str, template: str = INSTRUCTION) -> str:
    """What a language model is asked about a crop of the image that `prompt` describes."""
    return template.replace("{prompt}", " ".join(prompt.split()).rstrip(". ") or "not described")


def clean_caption(text: str) -> str:
    """A model's answer as a prompt: one line without quotes, thoughts and phrases like "The image shows"."""
    text = " ".join(re.sub(THOUGHT, " ", text).replace("**", "").split())
    text = re.sub(LABEL, "", text.strip(QUOTES)).strip(QUOTES)
    return re.sub(PREAMBLE, "", text)


def format_prompts(prompts: list[str]) -> str:
    """Prompts as an editable JSON list, one line a region."""
    return json.dumps(prompts, indent=1, ensure_ascii=False)


def parse_prompts(text: str, count: int | None) -> list[str]:
    """The prompts of `count` regions in row-major order, "" where the global prompt is to be used.

    `text` is a JSON list of strings, a JSON object from region numbers (from 1) to strings, in which
    regions may be missing, or plain text with one line a region. Empty text leaves all to the global
    prompt. Raises ValueError that names the entry at fault. With a count of None, for text alone, all numbers of
    regions will do.
    """
    text = text.removeprefix("\ufeff")
    if not text.strip():
        return [""] * (count or 0)
    if not text.lstrip().startswith(("[", "{")):
        lines = [line.strip() for line in text.split("\n")]
        while count is not None and len(lines) > count and not lines[-1]:
            lines.pop()
        return _counted(lines, count, "lines")
    try:
        entries = json.loads(text, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("prompts is JSON that is nested too deeply; expected a list of texts, or an object. Correct it, or write one line for each region.") from None
    except json.JSONDecodeError as error:
        line = text.splitlines()[min(error.lineno, len(text.splitlines())) - 1].strip()
        raise ValueError(f"prompts is not valid JSON: {error.msg} in line {error.lineno}, column {error.colno}, near {line[:60]!r}. Correct it, or write one line for each region.") from error
    if isinstance(entries, dict):
        return _numbered(entries, count)
    for i, entry in enumerate(entries, 1):
        _check(entry, i)
    return _counted([entry.strip() for entry in entries], count, "entries")


def fill_prompts(prompts: list[str], captions: str) -> list[str]:
    """`prompts`, and for each empty one that of the text `captions`. Raises ValueError as `parse_prompts` does."""
    try:
        return [prompt or caption for prompt, caption in zip(prompts, parse_prompts(captions, len(prompts)), strict=True)]
    except ValueError as error:
        raise ValueError(str(error).replace("prompts", "captions", 1) + " Caption Regions should get the same regions.") from None


def _once(pairs):
    keys = [key for key, _ in pairs]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise ValueError(f"prompts names region {twice!r} twice. Leave one.")
    return dict(pairs)


def _counted(prompts, count, what):
    if not prompts:
        regions = "" if count is None else f", regions has {count} regions"
        raise ValueError(f"prompts is an empty list{regions}. Write one for each region, row by row, or leave the text empty; an empty one uses the global prompt.")
    if count is not None and len(prompts) != count:
        last = f"the last is {prompts[-1][:60]!r}" if len(prompts) < count else f"entry {count + 1} is {prompts[count][:60]!r}"
        raise ValueError(f"prompts has {len(prompts)} {what}, regions has {count} regions; {last}. Write one for each region, row by row; an empty one uses the global prompt.")
    return prompts


def _numbered(entries, count):
    if count is None:
        count = max((int(key) for key in entries if key.isdecimal()), default=0)
    prompts = [""] * count
    for key, entry in entries.items():
        if not key.isdecimal() or not 1 <= int(key) <= count:
            raise ValueError(f"prompts names region {key!r}; regions are numbered from 1 to {count}, row by row.")
        _check(entry, key)
        prompts[int(key) - 1] = entry.strip()
    return prompts


def _check(entry, name):
    if not isinstance(entry, str):
        raise ValueError(f"prompts entry {name} is {json.dumps(entry)[:60]}, not a text in quotes.")


def replace_prompt(text: str, count: int, number: int, prompt: str) -> str:
    """`text` with the prompt of region `number` (from 1) exchanged; a JSON object or list stays one, and
    so does plain text. Raises as `parse_prompts` does, and for a number outside 1 to `count`."""
    text = text.removeprefix("\ufeff")
    prompts = parse_prompts(text, count)
    if not 1 <= number <= count:
        raise ValueError(f"region is {number}; regions are numbered from 1 to {count}, row by row.")
    prompts[number - 1] = " ".join(prompt.split())
    if text.lstrip().startswith("{"):
        return json.dumps({str(i): entry for i, entry in enumerate(prompts, 1) if entry}, indent=1, ensure_ascii=False)
    return format_prompts(prompts) if text.lstrip().startswith("[") else _lines(prompts)


def _lines(prompts):
    text = "\n".join(prompts) if any(prompts) else ""
    # the first prompt may look like JSON
    return format_prompts(prompts) if text.lstrip().startswith(("[", "{")) else text

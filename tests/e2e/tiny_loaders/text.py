"""A text encoder by the methods that ComfyUI's and Loupe's nodes call."""

import zlib

import families
import tiny


class Text:
    """The same text and images give the same conditioning, others another."""

    def tokenize(self, text, image=None, images=(), **options):
        pictures = [*images, *([] if image is None else [image])]
        words = zlib.crc32(text.encode())
        return {"tiny": [[(words, 1.0), *(({"type": "image", "data": each}, 1.0) for each in pictures)]]}

    def encode_from_tokens_scheduled(self, tokens, **options):
        ((words, _), *pictures), *_ = tokens["tiny"]
        seen = sum(float(token["data"].mean()) for token, _ in pictures)
        return tiny.conditioning((words + int(seen * 1e6)) % 2**31, families.TOKENS)

    def generate(self, tokens, **options):
        return [tokens["tiny"][0][-1][0]["data"].mean()]

    def decode(self, ids, **options):
        return f"an image of brightness {float(ids[0]):.3f}"

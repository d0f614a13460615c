"""Describing images with ComfyUI's language models, or with a local `transformers` model."""

from collections.abc import Iterable, Iterator

import comfy.model_management
import comfy.utils
import torch
from PIL import Image

from ..methods.region_prompts import clean_caption
from .loaded import Loaded


def caption_with_clip(clip, images: list[torch.Tensor], instruction: str, max_tokens: int) -> Iterator[str]:
    """Answers of a CLIP that generates text from images (1, h, w, 3), greedily, one by one.

    Raises ValueError for a text encoder that does not look at images.
    """
    for image in images:
        comfy.model_management.throw_exception_if_processing_interrupted()
        tokens = clip.tokenize(instruction, image=image[..., :3], skip_template=False, min_length=1, thinking=False)
        rows = tokens.values() if isinstance(tokens, dict) else [tokens]
        if not any(isinstance(token[0], dict) for chunks in rows for chunk in chunks for token in chunk):
            raise ValueError("clip is a text encoder that does not look at images. Load a vision-language model (Qwen3-VL, Gemma 3 or 4, ...) with Load CLIP, choose a folder in model, or write the prompts yourself.")
        yield clip.decode(clip.generate(tokens, do_sample=False, max_length=max_tokens))


class LocalCaptioner(Loaded):
    """A `transformers` image-text-to-text model of a local folder, under ComfyUI's memory manager.

    Only safetensors weights and code of `transformers` itself are used; nothing is downloaded.
    """

    def __init__(self, folder: str, name: str):
        # heavy, and only this class needs it
        import transformers

        # its name changed in transformers 4.56
        dtype = "dtype" if tuple(map(int, transformers.__version__.split(".")[:2])) >= (4, 56) else "torch_dtype"
        local = {"local_files_only": True, "trust_remote_code": False}
        try:
            self.processor = transformers.AutoProcessor.from_pretrained(folder, **local)
            network = transformers.AutoModelForImageTextToText.from_pretrained(folder, **{dtype: "auto"}, use_safetensors=True, **local)
        except (OSError, ValueError) as error:
            raise ValueError(f"model {name} cannot be loaded as an image-text-to-text model: {error}. Choose a folder with config.json, the processor's files and .safetensors weights of an architecture that transformers {transformers.__version__} knows.") from error
        if getattr(self.processor, "chat_template", None) is None:
            raise ValueError(f"model {name} has no chat template, so it cannot be given an instruction. Choose an instruction-tuned model.")
        self.processor.tokenizer.padding_side = "left"
        # ComfyUI writes attributes that a PreTrainedModel does not let it write
        outer = torch.nn.Module()
        outer.inner = network.train(False)
        super().__init__(outer, name, comfy.model_management.text_encoder_offload_device(), comfy.model_management.text_encoder_device())

    def answer(self, images: list[torch.Tensor], instruction: str, max_tokens: int) -> list[str]:
        """Answers about images (1, h, w, 3) in 0..1, in one batch, greedily."""
        question = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": instruction}]}]
        text = self.processor.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
        start = self.processor.tokenizer.bos_token
        inputs = self.processor(
            text=[text] * len(images),
            images=[[_image(image)] for image in images],
            padding=True,
            add_special_tokens=start is None or not text.startswith(start),
            return_tensors="pt",
        )
        network = self.network.inner
        inputs = inputs.to(self.device, dtype=network.dtype)
        self.load(self._memory(inputs["input_ids"].shape, max_tokens))

        def interrupted(ids, scores, **kwargs):
            comfy.model_management.throw_exception_if_processing_interrupted()
            return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)

        ids = network.generate(**inputs, max_new_tokens=max_tokens, do_sample=False, stopping_criteria=[interrupted])
        return self.processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

    def _memory(self, shape, max_tokens):
        """Keys and values, and as much again for activations."""
        config = self.network.inner.config.get_text_config()
        rows, tokens = shape
        return 4 * rows * (tokens + max_tokens) * config.num_hidden_layers * config.hidden_size * self.network.inner.dtype.itemsize


def _image(image):
    return Image.fromarray((image[0, ..., :3].clamp(0, 1) * 255).round().byte().cpu().numpy())


def caption_with_folder(folder: str, name: str, images: list[torch.Tensor], instruction: str, max_tokens: int, batch: int) -> Iterator[str]:
    """Answers of the model in `folder` about images (1, h, w, 3), `batch` at a time."""
    captioner = LocalCaptioner(folder, name)
    for start in range(0, len(images), batch):
        comfy.model_management.throw_exception_if_processing_interrupted()
        yield from captioner.answer(images[start : start + batch], instruction, max_tokens)


def captions(answers: Iterable[str], count: int) -> list[str]:
    """The `count` answers as prompts, with a progress bar."""
    bar = comfy.utils.ProgressBar(count)
    prompts = []
    for answer in answers:
        prompts.append(clean_caption(answer))
        bar.update(1)
    return prompts

import gc
import json
import weakref

import comfy.model_management
import comfy.sd
import comfy.sdxl_clip
import comfy.supported_models_base
import pytest
import tiny
import torch
from loupe.engine.conditioning import REGION
from loupe.engine.evaluation import with_parts
from loupe.methods.region_prompts import INSTRUCTION
from loupe.methods.regions import Region, RegionLayout
from loupe.models.captioner import LocalCaptioner, caption_with_folder
from loupe.nodes import region_prompts
from loupe.nodes.region_prompts import (
    CONNECTED,
    CaptionRegions,
    RegionCrops,
    RegionPrompts,
)
from loupe.patches.region_prompts import encode_regions, tokens_within
from loupe.patches.regional_denoise import RegionalDenoise
from tolerance import close

LAYOUT = RegionLayout.from_overlap(8, 12, 8, 8)
X = tiny.noise((2, 4, 8, 12), 9) * 2


@pytest.fixture(scope="module")
def clip():
    """SDXL's two text encoders, a few numbers wide, with their real tokenizers."""
    config = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 77, "vocab_size": 49408, "hidden_act": "gelu", "eos_token_id": 49407}
    target = comfy.supported_models_base.ClipTarget(comfy.sdxl_clip.SDXLTokenizer, comfy.sdxl_clip.SDXLClipModel)
    clip = comfy.sd.CLIP(target, model_options={"clip_l_model_config": {**config, "projection_dim": 32}, "clip_g_model_config": {**config, "projection_dim": 32}})
    tiny.randomize(clip.cond_stage_model)
    return clip


def encoded(clip, text, **keys):
    (cond, options), = clip.encode_from_tokens_scheduled(clip.tokenize(text))
    return [[cond, {**options, **keys}]]


def regional(model, **settings):
    return with_parts(model, RegionalDenoise((8, 8), **settings))


def parts(prediction):
    return torch.cat([prediction[0][..., :4], (prediction[0][..., 4:] + prediction[1][..., :4]) / 2, prediction[1][..., 4:]], -1)


@pytest.mark.numerics
@pytest.mark.parametrize("batch", [0, 1])
def test_every_region_sees_its_own_prompt_alone(clip, batch):
    model = tiny.sdxl()
    negative = encoded(clip, "blurry")
    positive = RegionPrompts.execute(clip, LAYOUT, encoded(clip, "a street"), "a red fox\na wet wall", 75).result[0]
    assert [options.get(REGION) for _, options in positive] == [None, Region(0, 0, 8, 8), Region(0, 4, 8, 8)]
    fused = tiny.evaluate(regional(model, regions_per_call=batch), X, (positive, negative))
    crops = [tiny.evaluate(model, X[..., x : x + 8], (encoded(clip, text), negative)) for x, text in ((0, "a red fox"), (4, "a wet wall"))]
    for branch, (left, right) in enumerate(zip(*crops)):
        torch.testing.assert_close(fused[branch], parts((left, right)), rtol=1e-4, atol=1e-4)


def test_pooled_text_is_the_regions_too(clip):
    positive = RegionPrompts.execute(clip, LAYOUT, encoded(clip, "a street"), "a red fox\na wet wall", 75).result[0]
    for (_, options), text in zip(positive[1:], ("a red fox", "a wet wall")):
        torch.testing.assert_close(options["pooled_output"], encoded(clip, text)[0][1]["pooled_output"])
        torch.testing.assert_close(options["mask"].float().sum(), torch.tensor(64.0))


def test_masks_lie_on_their_regions_and_share_their_memory(clip):
    layout = RegionLayout.from_overlap(20, 28, 8, 8)
    positive = encode_regions(clip, [f"word {i}" for i in range(layout.count)], layout, encoded(clip, "a street"))[1:]
    assert len(positive) == layout.count
    for (_, options), region in zip(positive, layout.regions):
        expected = torch.zeros(1, 20, 28)
        region.crop(expected).fill_(1)
        assert torch.equal(options["mask"].float(), expected)
    assert len({options["mask"].untyped_storage().data_ptr() for _, options in positive}) == 1


@pytest.mark.numerics
def test_an_empty_prompt_is_the_global_one(clip):
    model, negative = tiny.sdxl(), encoded(clip, "")
    whole = encoded(clip, "a street")
    assert RegionPrompts.execute(clip, LAYOUT, whole, "\n", 75).result[0] is whole
    positive = RegionPrompts.execute(clip, LAYOUT, whole, '{"2": "a wet wall"}', 75).result[0]
    fused = tiny.evaluate(regional(model), X, (positive, negative))
    crops = [tiny.evaluate(model, X[..., x : x + 8], (cond, negative)) for x, cond in ((0, whole), (4, encoded(clip, "a wet wall")))]
    torch.testing.assert_close(fused[0], parts([crop[0] for crop in crops]), rtol=1e-4, atol=1e-4)


@pytest.mark.numerics
@pytest.mark.parametrize("sigma, text", [(10.0, "a street"), (0.3, "a field")])
def test_an_empty_prompt_follows_a_global_one_that_changes(clip, sigma, text):
    model, negative = tiny.sdxl(), encoded(clip, "")
    masked = encoded(clip, "a sign", mask=torch.ones(1, 8, 12))
    changing = masked + encoded(clip, "a street", end_percent=0.5) + encoded(clip, "a field", start_percent=0.5)
    positive = encode_regions(clip, ["", "a wet wall"], LAYOUT, changing)
    expected = encode_regions(clip, ["", "a wet wall"], LAYOUT, encoded(clip, text))
    out, expected = (tiny.evaluate(regional(model), X, (conds, negative), sigma)[0] for conds in (positive, expected))
    close(out, expected, 2e-5)


def test_controls_and_inpaint_latents_reach_every_region(clip):
    model = tiny.sdxl(in_channels=9)
    hint = torch.rand(1, 3, 64, 96)
    image, mask = tiny.noise((2, 4, 8, 12), 1), (tiny.noise((2, 1, 8, 12), 2) > 0).float()

    def conds(text, start=0, end=12):
        cut = {"concat_latent_image": image[..., start:end], "concat_mask": mask[..., start:end]}
        return encoded(clip, text, control=tiny.controlnet(hint[..., start * 8 : end * 8]), **cut), encoded(clip, "", **cut)

    whole, negative = conds("a street")
    positive = encode_regions(clip, ["a red fox", "a wet wall"], LAYOUT, whole)
    fused = tiny.evaluate(regional(model), X, (positive, negative))
    crops = [tiny.evaluate(model, X[..., x : x + 8], conds(text, x, x + 8)) for x, text in ((0, "a red fox"), (4, "a wet wall"))]
    for branch, (left, right) in enumerate(zip(*crops)):
        torch.testing.assert_close(fused[branch], parts((left, right)), rtol=1e-4, atol=1e-4)


def test_prompts_of_other_lengths_go_through_apart(clip):
    model, negative = tiny.sdxl(), encoded(clip, "")
    long = " ".join(["very"] * 90) + " long"
    positive = encode_regions(clip, ["a red fox", long], LAYOUT, encoded(clip, "a street"), max_tokens=0)
    assert positive[2][0].shape[1] == 2 * positive[1][0].shape[1]
    fused = tiny.evaluate(regional(model), X, (positive, negative))
    crops = [tiny.evaluate(model, X[..., x : x + 8], (encoded(clip, text), negative))[0] for x, text in ((0, "a red fox"), (4, long))]
    torch.testing.assert_close(fused[0], parts(crops), rtol=1e-4, atol=1e-4)


def test_moved_regions_take_the_prompt_that_they_show_most_of(clip):
    model = tiny.sdxl()
    layout = RegionLayout.from_overlap(16, 24, 8, 8)
    positive = encode_regions(clip, [f"thing {i}" for i in range(15)], layout, encoded(clip, "a street"))
    latent = tiny.noise((1, 4, 16, 24))
    moved = tiny.sample(regional(model, jitter=True), latent, positive=positive)
    assert moved.isfinite().all() and not torch.equal(moved, tiny.sample(regional(model, jitter=True), latent, positive=positive[:1]))
    single = tiny.sample(regional(model, jitter=True, regions_per_call=1), latent, positive=positive)
    assert tiny.relative(moved, single) < 1e-4


def test_one_region_has_its_prompt_and_the_global_one_has_no_part(clip):
    model, negative = tiny.sdxl(), encoded(clip, "")
    layout = RegionLayout.from_overlap(8, 12, 16, 16)
    positive = encode_regions(clip, ["a red fox"], layout, encoded(clip, "a street"))
    out = tiny.evaluate(with_parts(model, RegionalDenoise((16, 16))), X, (positive, negative))
    close(out[0], tiny.evaluate(model, X, (encoded(clip, "a red fox"), negative))[0], 1e-5)


def test_samplers_without_regions_mix_by_mask(clip):
    model, negative = tiny.sdxl(), encoded(clip, "")
    positive = encode_regions(clip, ["a red fox", "a wet wall"], LAYOUT, encoded(clip, "a street"))
    masked = [entry if REGION not in entry[1] else [entry[0], {key: value for key, value in entry[1].items() if key != REGION}] for entry in positive]
    mixed = tiny.evaluate(model, X, (positive, negative))[0]
    assert torch.equal(mixed, tiny.evaluate(model, X, (masked, negative))[0])
    street, fox, wall = (tiny.evaluate(model, X, (encoded(clip, text), negative))[0] for text in ("a street", "a red fox", "a wet wall"))
    torch.testing.assert_close(mixed[..., :4], ((street + fox) / 2)[..., :4], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(mixed[..., 4:8], ((street + fox + wall) / 3)[..., 4:8], rtol=1e-4, atol=1e-4)


def test_prompts_are_cut_at_a_word(clip):
    text = "extraordinarily " * 60
    full = tokens_within(clip, text, 0)
    cut = tokens_within(clip, text, 75)
    assert [len(chunks) for chunks in full.values()] != [1, 1] and [len(chunks) for chunks in cut.values()] == [1, 1]
    words = sum(token[2] != 0 for token in clip.tokenize("extraordinarily", return_word_ids=True)["l"][0])
    assert sum(token[0] not in (49406, 49407, 0) for token in cut["g"][0]) == 75 // words * words
    assert tokens_within(clip, "a fox", 75) == clip.tokenize("a fox")


def test_wrong_counts_name_the_entry(clip):
    with pytest.raises(ValueError, match="prompts has 3 lines, regions has 2 regions; entry 3 is 'c'"):
        RegionPrompts.execute(clip, LAYOUT, encoded(clip, ""), "a\nb\nc", 75)


def test_captions_stand_where_nothing_is_typed(clip):
    whole = encoded(clip, "a street")

    def texts(prompts, **given):
        out = RegionPrompts.execute(clip, LAYOUT, whole, prompts, 75, **given).result[0]
        return [next((text for text in ("a fox", "a wall", "a door") if torch.equal(cond, encoded(clip, text)[0][0])), None) for cond, _ in out[1:]]

    said = '["a fox", "a wall"]'
    assert texts("", captions=said) == ["a fox", "a wall"]
    assert texts("\na door", captions=said) == ["a fox", "a door"]
    assert texts("", captions=said, use_captions=False) == []
    assert texts("\na door", captions=None) == [None, "a door"]
    with pytest.raises(ValueError, match="captions has 1 entries, regions has 2 regions.*Caption Regions should get the same regions"):
        texts("", captions='["a fox"]')


@pytest.mark.parametrize("given, wanted", [
    ({}, []),
    ({"captions": None}, ["captions"]),
    ({"captions": "[]"}, []),
    ({"captions": None, "use_captions": False}, []),
    ({"captions": None, "prompts": "a fox\n"}, ["captions"]),
    ({"captions": None, "prompts": "a fox\na wall"}, []),
])
def test_captions_are_made_only_where_they_are_needed(given, wanted):
    assert RegionPrompts.check_lazy_status(**{"regions": LAYOUT, "prompts": "", "clip": None, "conditioning": [], "max_tokens": 75, **given}) == wanted


def test_crops():
    image = torch.rand(2, 64, 96, 3)
    crops = RegionCrops.execute(image, LAYOUT).result[0]
    assert torch.equal(crops[0], image[:, :, :64]) and torch.equal(crops[1], image[:, :, 32:])
    with pytest.raises(ValueError, match="image is 64x64 pixels and regions covers 12x8 latent cells"):
        RegionCrops.execute(torch.rand(1, 64, 64, 3), LAYOUT)


WORDS = ["[PAD]", "[UNK]", "[END]", "<image>", *"a the red blue star wall grass house fox sky on and of . , : the image crop larger".split()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A vision-language model of two layers with random weights, as transformers saves it."""
    transformers = pytest.importorskip("transformers")
    import tokenizers

    path = tmp_path_factory.mktemp("models") / "tiny-llava"
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: i for i, word in enumerate(dict.fromkeys(WORDS))}, unk_token="[UNK]"))
    core.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", eos_token="[END]", additional_special_tokens=["<image>"])
    images = transformers.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    template = "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}"
    processor = transformers.LlavaProcessor(image_processor=images, tokenizer=tokenizer, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1, chat_template=template)
    vision = transformers.CLIPVisionConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14, projection_dim=16)
    text = transformers.LlamaConfig(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, pad_token_id=0, eos_token_id=2, bos_token_id=None)
    torch.manual_seed(0)
    model = transformers.LlavaForConditionalGeneration(transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=3, vision_feature_layer=-1))
    with torch.inference_mode(False):
        for parameter in model.parameters():
            parameter.data.mul_(12)  # the usual start is too small to tell images apart
    model.save_pretrained(path, safe_serialization=True)
    processor.save_pretrained(path)
    return path


@pytest.fixture
def installed(folder, monkeypatch):
    monkeypatch.setattr(region_prompts.folder_paths, "get_folder_paths", lambda name: [str(folder.parent)])
    return folder.name


IMAGE = torch.rand(1, 64, 96, 3, generator=torch.Generator().manual_seed(1))
IMAGE[:, :, 48:] *= torch.tensor([1.0, 0.1, 0.1])


def captions(model, clip=None, batch=1, image=IMAGE):
    text = CaptionRegions.execute(image, LAYOUT, "a red star", model, INSTRUCTION, 12, batch, clip).result[0]
    return json.loads(text)


def test_a_local_model_describes_the_crops(installed):
    single = captions(installed)
    assert len(single) == 2 and all(single) and single[0] != single[1]
    assert captions(installed) == captions(installed, batch=2) == single
    first = captions(installed, image=torch.cat([IMAGE, 1 - IMAGE]))
    assert first == single


def test_the_model_is_comfyui_s_to_place_and_gone_afterwards(installed, monkeypatch):
    placed = []
    load = comfy.model_management.load_models_gpu

    def watch(models, **kwargs):
        placed.append((weakref.ref(models[0].model), kwargs["memory_required"]))
        load(models, **kwargs)

    monkeypatch.setattr(comfy.model_management, "load_models_gpu", watch)
    captions(installed)
    assert len(placed) == 2 and all(memory > 0 for _, memory in placed)
    gc.collect()
    comfy.model_management.cleanup_models()
    assert all(model() is None for model, _ in placed)


@pytest.mark.parametrize("version, name", [("4.50.3", "torch_dtype"), ("4.56.0", "dtype"), ("5.24.0", "dtype")])
def test_a_local_model_keeps_the_dtype_of_its_file(folder, monkeypatch, version, name):
    transformers = pytest.importorskip("transformers")
    load, asked = transformers.AutoModelForImageTextToText.from_pretrained, {}
    monkeypatch.setattr(transformers, "__version__", version)
    monkeypatch.setattr(transformers.AutoModelForImageTextToText, "from_pretrained", lambda folder, **options: asked.update(options) or load(folder))
    LocalCaptioner(str(folder), "tiny")
    assert {option: value for option, value in asked.items() if "dtype" in option} == {name: "auto"}


def test_cancel_stops_within_an_answer(folder, monkeypatch):
    images, words = [IMAGE[:, :, :64]], []
    check = comfy.model_management.throw_exception_if_processing_interrupted

    def interrupt_in_time():
        words.append(None)
        if len(words) == 4:
            comfy.model_management.interrupt_current_processing()
        check()

    monkeypatch.setattr(comfy.model_management, "throw_exception_if_processing_interrupted", interrupt_in_time)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        list(caption_with_folder(str(folder), "tiny", images, "a star", 12, 1))
    assert len(words) == 4


def test_progress_counts_regions(installed, monkeypatch):
    sent = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, preview, node_id=None: sent.append((value, total)))
    monkeypatch.setattr(comfy.utils, "PROGRESS_THROTTLE_MIN_INTERVAL", 0)
    captions(installed)
    assert sent == [(1, 2), (2, 2)]


def test_folders_that_are_no_captioners_are_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    with pytest.raises(ValueError, match="model broken cannot be loaded as an image-text-to-text model"):
        LocalCaptioner(str(tmp_path), "broken")
    (tmp_path / "config.json").write_text('{"auto_map": {"AutoConfig": "evil.Config", "AutoProcessor": "evil.P"}, "model_type": "evil"}', encoding="utf-8")
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')", encoding="utf-8")
    with pytest.raises(ValueError, match="model evil cannot be loaded"):
        LocalCaptioner(str(tmp_path), "evil")


@pytest.mark.parametrize("family, size", [("qwen3vl", "4b"), ("krea2", "4b"), ("ideogram4", "8b"), ("boogu", "8b")])
def test_comfyui_s_language_models_describe_the_crops(monkeypatch, family, size):
    """ComfyUI's Qwen3-VL classes at a few numbers wide, by themselves and as the text encoders of image models."""
    qwen = pytest.importorskip("comfy.text_encoders.qwen3vl", reason="this ComfyUI has none")
    from comfy.text_encoders import llama

    name = f"qwen3vl_{size}"
    monkeypatch.setitem(qwen.QWEN3VL_VISION, name, {"hidden_size": 32, "intermediate_size": 64, "depth": 2, "deepstack_visual_indexes": [0]})
    monkeypatch.setitem(qwen.QWEN3VL_VISION_COMMON, "num_heads", 2)
    small = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = getattr(llama, f"Qwen3VL_{size.upper()}Config")
    monkeypatch.setitem(qwen.QWEN3VL_CONFIGS, name, lambda **kwargs: config(**{**kwargs, **small}))
    target = comfy.supported_models_base.ClipTarget(*classes_of(family, name))
    clip = comfy.sd.CLIP(target, model_options={"dtype": torch.float32})
    tiny.randomize(clip.cond_stage_model)
    first = captions(CONNECTED, clip)
    assert len(first) == 2 and first[0] != first[1]
    assert captions(CONNECTED, clip) == first


def classes_of(family, name):
    """The tokenizer and the text encoder that ComfyUI takes for a Qwen3-VL file of this CLIP type."""
    module = pytest.importorskip(f"comfy.text_encoders.{family}", reason="this ComfyUI has none")
    if family == "qwen3vl":
        return module.tokenizer(name), module.te(torch.float32, model_type=name)
    tokenizers = {"krea2": "Krea2Tokenizer", "ideogram4": "Ideogram4Qwen3VLTokenizer", "boogu": "BooguTokenizer"}
    return getattr(module, tokenizers[family]), (module.te_qwen3vl if family == "ideogram4" else module.te)(torch.float32)


def test_a_text_encoder_without_eyes_is_refused(clip):
    with pytest.raises(ValueError, match="clip is a text encoder that does not look at images"):
        captions(CONNECTED, clip)
    with pytest.raises(ValueError, match="clip is not connected"):
        captions(CONNECTED)

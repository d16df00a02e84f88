"""Attention maps are the model's own weights of cross-attention, by word and patch."""

from collections.abc import Callable

import pytest
import torch
from helpers import make_clips
from tokenizers import Tokenizer
from tokenizers.models import BPE, WordPiece
from tokenizers.pre_tokenizers import ByteLevel, Whitespace
from tokenizers.processors import RobertaProcessing
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from egovlpv2.checkpoints.weights import resize_frames
from egovlpv2.model.attention_maps import attend_words, captured, read_words, text_layers
from egovlpv2.model.backbone import Backbone
from egovlpv2.tokenization import load_tokenizer

TEXT = "w10 w20 w30"


def by_letters(trim: bool) -> PreTrainedTokenizerFast:
    """RoBERTa's kind, each byte a token; offsets begin with a word or, untrimmed, with the space before it."""
    vocab = {token: i for i, token in enumerate(["<s>", "</s>", "<pad>", *sorted(ByteLevel.alphabet())])}
    raw = Tokenizer(BPE(vocab, []))
    raw.pre_tokenizer = ByteLevel(add_prefix_space=False)
    raw.post_processor = RobertaProcessing(("</s>", 1), ("<s>", 0), trim_offsets=trim, add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def by_pieces() -> PreTrainedTokenizerFast:
    """BERT's kind."""
    raw = Tokenizer(WordPiece({"[CLS]": 0, "[SEP]": 1, "[UNK]": 2, "un": 3, "##ties": 4, "jar": 5, "#": 6, "C": 7},
                              unk_token="[UNK]"))
    raw.pre_tokenizer = Whitespace()
    raw.post_processor = RobertaProcessing(("[SEP]", 1), ("[CLS]", 0), trim_offsets=True, add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=raw, cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]")


@pytest.mark.parametrize("trim", [True, False])
def test_words_are_what_spaces_part(trim: bool) -> None:
    words = read_words(by_letters(trim), "#C C unties it", 40)
    assert words.labels == ["#C", "C", "unties", "it"]
    # <s> # C _C _unties _it </s>: the byte of a space belongs to the word after it
    assert words.tokens == [[1, 2], [3, 4], list(range(5, 12)), [12, 13, 14]]
    assert words.text["input_ids"].shape == (1, 16) and words.text["attention_mask"].all()
    cut = read_words(by_letters(trim), "#C C unties it", 9)
    assert cut.labels == ["#C", "C", "unties"] and cut.tokens[2] == [5, 6, 7]
    assert read_words(by_letters(trim), "  ", 9).labels == []


def test_pieces_of_a_word_are_one_word() -> None:
    words = read_words(by_pieces(), "#C  unties a jar", 40)
    assert words.labels == ["#C", "unties", "a", "jar"] and words.tokens == [[1, 2], [3, 4], [5], [6]]


@torch.no_grad()
@pytest.mark.parametrize("kind", [{"text_attends_to": "current"}, {"text_attends_to": "previous"},
                                  {"fusion": "stacked"}])
def test_the_weights_make_what_the_layer_gives(make_backbone: Callable[..., Backbone], tokenizer: str,
                                               kind: dict[str, str]) -> None:
    backbone, clip = make_backbone(**kind), make_clips(1)["video"]
    words, layers = read_words(load_tokenizer(tokenizer), TEXT, 9), text_layers(backbone)
    stacked = "fusion" in kind
    theirs = ({i: layer.cross for i, layer in enumerate(backbone.stack.text)} if stacked else
              {i: backbone.text_tower.blocks[i].fusion for i in (1, 2)})
    assert layers.keys() == theirs.keys() and all(layer is theirs[number] for number, layer in layers.items())
    ran: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
    for number, layer in layers.items():
        layer.register_forward_hook(lambda _, args, out, number=number: ran.update({number: (*args[:2], out)}))
    with captured(layers, range(4)) as found:
        alone = backbone.vtm_logits(clip, words.text)
    for number, layer in layers.items():
        x, context, out = ran[number]
        weights = found[number]  # (B, heads, L, S)
        assert weights.shape == (1, 4, words.text["input_ids"].shape[1], 1 + 4 * 4) and (weights > 0).all()
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:3]))
        value = layer.key_value(context)[..., 32:].unflatten(-1, (4, 8)).transpose(1, 2)  # (B, heads, S, d)
        heard = layer.out((weights @ value).transpose(1, 2).flatten(2))
        torch.testing.assert_close(out, heard if stacked else x + layer.alpha * heard, atol=1e-5, rtol=1e-4)
    assert torch.equal(backbone.vtm_logits(clip, words.text), alone)  # nothing changes for being watched


@torch.no_grad()
def test_chosen_heads_and_layers_alone(make_backbone: Callable[..., Backbone], tokenizer: str) -> None:
    backbone, clip = make_backbone(), make_clips(1)["video"]
    words, layers = read_words(load_tokenizer(tokenizer), TEXT, 9), text_layers(backbone)
    kept = []
    for some, heads in ((layers, range(4)), ({2: layers[2]}, [3, 0]), ({2: layers[2]}, None)):
        with captured(some, heads) as found:
            backbone.vtm_logits(clip, words.text)
        assert found.keys() == some.keys()
        kept.append(found)
    every, two, mean = (found[2][0] for found in kept)
    assert torch.equal(two, every[[3, 0]]) and torch.equal(mean[0], every.mean(0)) and len(mean) == 1
    with pytest.raises(RuntimeError, match="stop"), captured(layers, None):
        raise RuntimeError("stop")
    assert not any(layer._forward_pre_hooks for layer in layers.values())


def test_attention_is_split_by_word_frame_and_patch(make_backbone: Callable[..., Backbone], tokenizer: str) -> None:
    backbone = make_backbone()
    resize_frames(backbone, (32, 64))  # 2 rows and 4 columns
    clip = torch.randint(0, 256, (3, 3, 32, 64), dtype=torch.uint8)
    words, layers = read_words(load_tokenizer(tokenizer), TEXT, 9), text_layers(backbone)
    words = words._replace(labels=["a", "b"], tokens=[[0], [2, 1]])
    seen = attend_words(backbone, clip, words, layers, [1, 3])
    assert seen.cls.shape == (2, 4) and seen.patches.shape == (2, 4, 3, 2, 4)
    torch.testing.assert_close(seen.cls + seen.patches.sum((2, 3, 4)), torch.ones(2, 4))
    with torch.no_grad(), captured(layers, [1, 3]) as found:
        logits = backbone.vtm_logits(clip[None], words.text)
    assert seen.match == pytest.approx(logits.softmax(-1)[0, 1].item())
    for m, (layer, head) in enumerate([(1, 0), (1, 1), (2, 0), (2, 1)]):
        weights = found[layer][0, head]  # (L, S)
        assert torch.equal(seen.patches[0, m].flatten(), weights[0, 1:])
        torch.testing.assert_close(seen.cls[1, m], weights[1:3, 0].mean())
        torch.testing.assert_close(seen.patches[1, m, 2, 1, 3], weights[1:3, 1 + 2 * 8 + 1 * 4 + 3].mean())
    other = clip.clone()
    other[2, :, 16:, 48:] = 255 - other[2, :, 16:, 48:]  # the patch of frame 2, row 1, column 3
    with torch.no_grad():
        tokens = [backbone.video_tower.embed(video[None], backbone.video_tower.cls_token) for video in (clip, other)]
    assert (tokens[0] != tokens[1]).any(-1)[0].nonzero().flatten().tolist() == [1 + 2 * 8 + 1 * 4 + 3]


def test_attention_depends_on_the_text_and_on_the_clip(make_backbone: Callable[..., Backbone], tokenizer: str) -> None:
    backbone, words = make_backbone(), load_tokenizer(tokenizer)
    clips, layers = make_clips(2)["video"], text_layers(backbone)
    maps = [attend_words(backbone, clip, read_words(words, text, 9), layers, None).patches
            for clip, text in ((clips[0], TEXT), (clips[0], "w10 w21 w30"), (clips[1], TEXT), (clips[0], TEXT))]
    assert torch.equal(maps[0], maps[3])
    assert (maps[0] - maps[1]).abs().max() > 0.01 and (maps[0] - maps[2]).abs().max() > 0.01


@pytest.mark.parametrize("kind", ["backbone", "stacked"])
def test_weights_sum_to_one_in_bfloat16(make_backbone: Callable[..., Backbone], tokenizer: str, kind: str) -> None:
    backbone, clip = make_backbone(fusion=kind), make_clips(1)["video"][0]
    words, layers = read_words(load_tokenizer(tokenizer), TEXT, 9), text_layers(backbone)
    full = attend_words(backbone, clip, words, layers, range(4))
    with torch.autocast("cpu", torch.bfloat16):
        half = attend_words(backbone, clip, words, layers, range(4))
    torch.testing.assert_close(half.cls + half.patches.sum((2, 3, 4)), torch.ones(3, 8), atol=1e-5, rtol=0)
    assert 0 < (half.patches - full.patches).abs().max() < 0.1


def test_without_fusion_words_look_at_nothing(make_backbone: Callable[..., Backbone]) -> None:
    assert text_layers(make_backbone(num_fused_layers=0)) == {}

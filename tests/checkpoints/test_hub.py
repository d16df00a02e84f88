"""Backbones are saved, loaded, uploaded and fetched in the layout of the Hugging Face hub."""

import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fake_hub import TOKEN, FakeHub
from huggingface_hub import ModelCard, constants
from safetensors.torch import save_file

from egovlpv2 import load_backbone
from egovlpv2.checkpoints.conversion import convert_checkpoint
from egovlpv2.checkpoints.inference import fingerprint, open_tokenizer
from egovlpv2.checkpoints.weights import num_frames_of
from egovlpv2.io.folders import atomic_folder
from egovlpv2.model.backbone import Backbone
from egovlpv2.tools.ask import open_answer_model

METRICS = {"metrics": {"test/egomcq/dual/inter": 86.71234, "test/egomcq/dual/intra": None},
           "protocol": {"command": "fit", "checkpoint": "/home/jo smith/runs/a/best.ckpt", "devices": 1,
                        "weights": "runs/before/best.ckpt", "monitor": "val/egomcq/dual/inter", "val": "~/toy/val.json",
                        "evaluation": "frames of /mnt/disk/videos/a.mp4, whole", "counts": {"rows": [1, "/a/b|c"]}}}


@pytest.fixture
def backbone(make_backbone, tokenizer: str) -> Backbone:
    return make_backbone(tokenizer=tokenizer)


@pytest.fixture
def folder(backbone: Backbone, tmp_path: Path) -> Path:
    backbone.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub that the hub's library talks to, and an empty cache."""
    with FakeHub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE",
                            hub.url + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


def assert_same(one: Backbone, other: Backbone) -> None:
    state = other.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in one.state_dict().items()) and not other.training


def test_a_saved_folder_holds_the_hubs_files_and_loads_as_it_was(backbone: Backbone, folder: Path) -> None:
    assert sorted(os.listdir(folder)) == ["README.md", "config.json", "model.safetensors", "tokenizer"]
    assert_same(backbone, load_backbone(folder))
    assert_same(backbone, load_backbone(folder / "model.safetensors"))
    config = json.loads((folder / "config.json").read_text())
    assert config.pop("model_type") == "egovlpv2"
    assert config.pop("text") == {**backbone.config.to_dict()["text"], "tokenizer": "./tokenizer"}
    assert config == {key: value for key, value in backbone.config.to_dict().items() if key != "text"}
    assert fingerprint(folder) == fingerprint(folder / "model.safetensors")


def test_a_moved_folder_brings_its_tokenizer_and_no_path_of_the_machine(backbone: Backbone, folder: Path,
                                                                        tmp_path: Path) -> None:
    vocabulary = open_tokenizer(backbone).get_vocab()
    shutil.rmtree(backbone.config.text.tokenizer)
    moved = folder.rename(tmp_path / "moved")
    for source in (moved, moved / "model.safetensors"):
        assert open_tokenizer(load_backbone(source)).get_vocab() == vocabulary
    content = b"".join(path.read_bytes() for path in moved.rglob("*") if path.is_file())
    assert str(tmp_path.parent).encode() not in content and b"/tokenizer-" not in content
    assert backbone.config.text.tokenizer != "./tokenizer"


def test_commands_take_a_saved_folder(folder: Path, tmp_path: Path) -> None:
    report = convert_checkpoint(folder, tmp_path / "out.safetensors", num_frames=2)
    assert (num_frames_of(folder), num_frames_of(report.target)) == (4, 2)
    with pytest.raises(ValueError, match="saved has no head that answers"):
        open_answer_model(str(folder))


def test_the_card_has_the_runs_metrics_and_protocol_without_its_folders(backbone: Backbone, tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text(json.dumps(METRICS))
    backbone.save_pretrained(tmp_path / "out", metrics=tmp_path / "metrics.json", license="apache-2.0",
                             repo_id="me/small")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.license == "apache-2.0" and card.data.library_name == "egovlpv2"
    for row in ("| test/egomcq/dual/inter | 86.71 |", "| test/egomcq/dual/intra | n/a |", "| checkpoint | best.ckpt |",
                "| weights | best.ckpt |", "| val | val.json |", "| monitor | val/egomcq/dual/inter |",
                "| devices | 1 |", "| evaluation | frames of a.mp4, whole |", '| counts | {"rows": [1, "b/c"]} |',
                'load_backbone("me/small", num_frames=4)', "arxiv.org/abs/2307.05463",
                "@inproceedings{pramanick2023egovlpv2"):
        assert row in card.text
    assert not any(part in card.text for part in ("jo smith", "runs/", "/mnt", "~"))


def test_a_tokenizer_that_cant_be_had_is_an_error_if_it_is_a_local_one(make_backbone, tokenizer: str, tmp_path: Path,
                                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="the tokenizer '/nowhere/here' of the backbone can't be saved .*give"):
        make_backbone(tokenizer="/nowhere/here").save_pretrained(tmp_path / "out")
    assert not os.listdir(tmp_path)
    backbone = make_backbone(tokenizer="some-bert-base")
    backbone.save_pretrained(tmp_path / "named")
    assert load_backbone(tmp_path / "named").config.text.tokenizer == "some-bert-base"
    backbone.save_pretrained(tmp_path / "given", tokenizer=tokenizer)
    assert load_backbone(tmp_path / "given").config.text.tokenizer == str(tmp_path / "given" / "tokenizer")


def test_a_tokenizer_that_doesnt_fit_is_refused(make_backbone, tmp_path: Path) -> None:
    from egovlpv2.bench.made_up import made_up_tokenizer

    (tmp_path / "other").mkdir()
    other = made_up_tokenizer(tmp_path / "other", 300)
    with pytest.raises(ValueError, match="doesn't fit the weights"):
        make_backbone(tokenizer=other).save_pretrained(tmp_path / "out")
    assert os.listdir(tmp_path) == ["other"]


def test_a_folder_with_content_is_kept(backbone: Backbone, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="saved is not empty: give a new one, or remove it"):
        backbone.save_pretrained(folder)
    with pytest.raises(ValueError, match="config.json is a file or a link: give the name of a new folder"):
        backbone.save_pretrained(folder / "config.json")
    (tmp_path / "empty").mkdir()
    backbone.save_pretrained(tmp_path / "empty")
    assert_same(backbone, load_backbone(tmp_path / "empty"))


def test_a_failure_leaves_nothing_and_a_save_removes_what_a_kill_left(backbone: Backbone, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="license='MIT License'"):
        backbone.save_pretrained(tmp_path / "out", license="MIT License")
    assert not os.listdir(tmp_path)
    left = tmp_path / f".out.{'0' * 32}.tmp"
    (left / "tokenizer").mkdir(parents=True)
    with atomic_folder(tmp_path / "other") as draft:
        assert not left.exists()
        with atomic_folder(tmp_path / "third"):
            assert draft.exists()  # that of another process is locked
    assert sorted(os.listdir(tmp_path)) == ["other", "third"]


@pytest.mark.parametrize(("config", "message"), [
    ({"model_type": "bert", "hidden_size": 384}, r"transformers' bert"),
    ({"architecture": "vit_base_patch16_224", "num_classes": 1000}, r"timm's vit_base_patch16_224"),
    ({}, "of an unknown kind")])
def test_somebody_elses_folder_is_named(folder: Path, config: dict, message: str) -> None:
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=rf"saved holds another model \({message}\)") as error:
        load_backbone(folder)
    assert "\n" not in str(error.value)


def test_folders_without_config_or_weights_are_named(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="model.safetensors is missing"):
        load_backbone(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match="saved is a folder without config.json: give a weights file, or a folder"):
        load_backbone(folder)


def test_an_edited_config_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    edited = {**config, "video": {**config["video"], "num_frames": 8}}
    for content, message in ((edited, "video.num_frames is 8 in config.json and 4 in model.safetensors"),
                             ({**config, "extra": 1}, "extra is 1 in config.json and None in")):
        (folder / "config.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match=message):
            load_backbone(folder)


def test_what_is_pushed_is_one_commit_and_loads_by_name(backbone: Backbone, hub: FakeHub) -> None:
    url = backbone.push_to_hub("me/small", commit_message="First")
    assert url.startswith(f"{hub.url}/me/small/commit/") and hub.commits == ["First"]
    assert sorted(hub.repos["me/small"]["main"]) == [
        "README.md", "config.json", "model.safetensors", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"]
    loaded = load_backbone("me/small")
    assert_same(backbone, loaded)
    assert open_tokenizer(loaded).get_vocab() == open_tokenizer(backbone).get_vocab()
    assert b'load_backbone("me/small", num_frames=4)' in hub.repos["me/small"]["main"]["README.md"]


def test_a_revision_is_pushed_and_loaded(backbone: Backbone, hub: FakeHub) -> None:
    hub.add("me/small", {"notes.md": b"mine"})
    backbone.push_to_hub("me/small@v2")
    assert hub.repos["me/small"]["main"] == {"notes.md": b"mine"}
    assert_same(backbone, load_backbone("me/small@v2"))
    with pytest.raises(ValueError, match="me/small on the Hugging Face hub has no revision v3"):
        load_backbone("me/small@v3")
    with pytest.raises(ValueError, match="me/small on the Hugging Face hub has no config.json"):
        load_backbone("me/small")


def test_a_local_path_comes_before_the_hub(folder: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent.parent)
    load_backbone(f"{folder.parent.name}/saved")
    with pytest.raises(ValueError, match="runs/best.ckpt is missing: give a weights file"):
        load_backbone("runs/best.ckpt")
    assert not hub.requests


def test_offline_a_cached_copy_is_used(backbone: Backbone, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone.push_to_hub("me/small")
    load_backbone("me/small")
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_same(backbone, load_backbone("me/small"))
    assert not hub.requests
    with pytest.raises(ValueError, match="me/other is neither .* nor in the cache of the Hugging Face hub, and "
                                         "HF_HUB_OFFLINE is set: load it once with a network"):
        load_backbone("me/other")
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE is set"):
        backbone.push_to_hub("me/small")


def test_without_a_network_a_cached_copy_is_used(backbone: Backbone, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
                                                 ) -> None:
    backbone.push_to_hub("me/small")
    load_backbone("me/small")
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # before the library tries again
    with socket.socket() as nobody:  # a port at which nobody listens
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
        assert_same(backbone, load_backbone("me/small"))
        with pytest.raises(ValueError, match="me/other is neither .* it can't be reached"):
            load_backbone("me/other")
        with pytest.raises(ValueError, match="me/small: the Hugging Face hub can't be reached"):
            backbone.push_to_hub("me/small")


def test_other_repositories_are_refused_before_their_weights_are_fetched(hub: FakeHub) -> None:
    hub.add("google/bert", {"config.json": b'{"model_type": "bert"}', "model.safetensors": b"weights"})
    hub.add("me/bare", {"config.json": b'{"model_type": "egovlpv2"}', "pytorch_model.bin": b"pickle"})
    with pytest.raises(ValueError, match=r"google/bert holds another model \(transformers' bert\)"):
        load_backbone("google/bert")
    with pytest.raises(ValueError, match="me/bare has no model.safetensors"):
        load_backbone("me/bare")
    with pytest.raises(ValueError, match="me/none is neither a file or folder here nor a model on the Hugging"):
        load_backbone("me/none")
    assert not any("safetensors" in request or ".bin" in request for request in hub.requests)


@pytest.mark.parametrize("name", ["small", "me/sm all", "me/small/x", "me/small--x", "../me", "me/..", "me/small.", ""])
def test_names_that_cant_be_are_refused(backbone: Backbone, hub: FakeHub, name: str) -> None:
    with pytest.raises(ValueError, match="repo_id=.*: give `owner/name`"):
        backbone.push_to_hub(name)
    assert not hub.requests


def test_a_missing_or_wrong_token_is_named(backbone: Backbone, hub: FakeHub, monkeypatch: pytest.MonkeyPatch,
                                           tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"me/small: the Hugging Face hub refused it \(401\): the token is not valid"):
        backbone.push_to_hub("me/small", token="hf_wrong")
    with pytest.raises(ValueError, match=r"you/small: .* \(403\): the token has no right to write there"):
        backbone.push_to_hub("you/small")
    hub.requests.clear()
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(ValueError, match="to the Hugging Face hub needs a token: run `hf auth login`"):
        backbone.push_to_hub("me/small")
    assert not hub.requests


def test_weights_of_another_config_in_a_repository_are_refused(folder: Path) -> None:
    save_file({"x": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match="model.safetensors holds no EgoVLPv2 weights"):
        load_backbone(folder)

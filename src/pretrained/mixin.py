"""Methods that save a backbone in the layout of the Hugging Face hub."""

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from torch import nn

from egovlpv2.io.folders import atomic_folder, require_new_folder
from egovlpv2.pretrained.card import write_card
from egovlpv2.pretrained.files import CARD, CONFIG, MODEL_TYPE, OWN_TOKENIZER, WEIGHTS, refuse_locations, write_weights
from egovlpv2.pretrained.hub import is_hub_name, require_repo_id, require_token, upload
from egovlpv2.tokenization import TokenEmbeddings, check_tokenizer, load_tokenizer

StrPath = str | os.PathLike[str]


class _Config(Protocol):
    def to_dict(self) -> dict[str, Any]: ...


class _Backbone(Protocol):
    """The parts of a backbone that are needed to save it."""

    @property
    def config(self) -> _Config: ...

    @property
    def text_tower(self) -> TokenEmbeddings: ...


class PretrainedMixin:
    """The methods `save_pretrained` and `push_to_hub` of a backbone."""

    def save_pretrained(self: _Backbone, folder: StrPath, *, tokenizer: str | None = None,
                        metrics: StrPath | None = None, license: str = "mit", repo_id: str | None = None) -> None:
        """Save the backbone as a folder in the layout of the Hugging Face hub, which `load_backbone` reads.

        It holds `model.safetensors`, `config.json`, the folder `tokenizer` and a model card, `README.md`. It is
        complete or absent, and can be moved.

        Args:
            folder: A new or an empty folder.
            tokenizer: The text tower's, a name or a local folder; that of the configuration if not given. The name of
                one on the hub that can't be fetched now stays a name.
            metrics: The `metrics.json` of the run that trained it, for the card.
            license: The weights' licence, by the hub's identifier.
            repo_id: `owner/name` on the hub, for the card.

        Raises:
            ValueError: The folder is not empty, the tokenizer doesn't exist or doesn't fit, `metrics` is not a
                `metrics.json`, or weights are damaged.
        """
        require_new_folder(Path(folder))
        config = self.config.to_dict()
        refuse_locations(config, "the configuration")
        with atomic_folder(Path(folder)) as draft:
            config["text"]["tokenizer"] = _save_tokenizer(tokenizer or config["text"]["tokenizer"], self.text_tower,
                                                          draft)
            assert isinstance(self, nn.Module)
            parameters = sum(parameter.numel() for parameter in self.parameters())
            card = write_card(config, parameters, repo_id, license, None if metrics is None else Path(metrics))
            (draft / CARD).write_text(card, encoding="utf-8")
            (draft / CONFIG).write_text(json.dumps({"model_type": MODEL_TYPE, **config}, indent=2) + "\n",
                                        encoding="utf-8")
            write_weights(self.state_dict(), config, draft / WEIGHTS)

    def push_to_hub(self: _Backbone, repo_id: str, *, tokenizer: str | None = None, metrics: StrPath | None = None,
                    license: str = "mit", private: bool = False, token: str | None = None,
                    commit_message: str = "Upload backbone") -> str:
        """Upload the backbone to the Hugging Face hub, as one commit with the files of `save_pretrained`.

        Args:
            repo_id: `owner/name`, or `owner/name@branch`; what is missing is created.
            tokenizer: As for `save_pretrained`.
            metrics: As for `save_pretrained`.
            license: As for `save_pretrained`.
            private: Whether a new repository can be read by its owner alone.
            token: Of the hub; that of `hf auth login` or `HF_TOKEN` if not given.
            commit_message: Title of the commit.

        Returns:
            The address of the commit.

        Raises:
            ValueError: The name can't be one, there is no token, the hub refuses it or can't be reached, or as for
                `save_pretrained`.
        """
        repository = require_repo_id(repo_id)
        found = require_token(token)
        with TemporaryDirectory() as folder:
            PretrainedMixin.save_pretrained(self, folder, tokenizer=tokenizer, metrics=metrics, license=license,
                                            repo_id=repository.repo_id)
            return upload(Path(folder), repository, found, private, commit_message)


def _save_tokenizer(name: str, tower: TokenEmbeddings, folder: Path) -> str:
    """Save a tokenizer that fits a text tower into a folder.

    Returns:
        Its name for the configuration: the folder itself, or the name on the hub of one that can't be fetched.

    Raises:
        ValueError: It doesn't fit, or it is a local folder that holds none.
    """
    try:
        tokenizer = load_tokenizer(name)
    except ValueError as error:
        if is_hub_name(name) and not Path(name).exists():
            return name
        raise ValueError(f"the tokenizer {name!r} of the backbone can't be saved with it: give `tokenizer`, its folder "
                         f"or its name ({error})") from error
    check_tokenizer(tokenizer, tower, name)
    tokenizer.save_pretrained(folder / OWN_TOKENIZER)
    return OWN_TOKENIZER

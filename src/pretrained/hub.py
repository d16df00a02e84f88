"""Backbones on the Hugging Face hub: fetch one into the hub's cache, and upload one."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import HfApi, constants, get_token, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HTTPError,  # of the HTTP library that this version of the hub's library uses
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from egovlpv2.pretrained.files import CONFIG, WEIGHTS, read_config

_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", re.ASCII)
_FILES = [CONFIG, WEIGHTS, "tokenizer/*"]

_HINTS = {401: "the token is not valid: run `hf auth login`", 429: "too many requests: wait a while",
          403: "the token has no right to write there: give another, or your own name as owner"}


class Repository(NamedTuple):
    """A repository on the hub."""

    repo_id: str  # `owner/name`
    revision: str | None  # a branch, a tag or a commit; None: the main branch

    def __str__(self) -> str:
        return f"{self.repo_id}@{self.revision}" if self.revision else self.repo_id


def parse_name(name: str) -> Repository | None:
    """Parse `owner/name` or `owner/name@revision`; None for a text that is neither."""
    found = _NAME.fullmatch(name)
    if found is None or name.startswith(".") or ".." in name or "--" in found[1] or name.endswith("."):
        return None
    return Repository(found[1], found[2])


def is_hub_name(name: str) -> bool:
    """Tell if a text can be the name of a model or a tokenizer on the hub, of an owner (`owner/name`) or without."""
    return parse_name(name if "/" in name else f"owner/{name}") is not None


def fetch(repository: Repository) -> Path:
    """Fetch a backbone's folder into the hub's cache, or find it there.

    Without a network, or with `HF_HUB_OFFLINE=1`, the copy in the cache is used.

    Returns:
        The folder.

    Raises:
        ValueError: There is no such repository or revision, it can't be read, it is not a backbone's, or the hub can't
            be reached and the cache has no copy.
    """
    with _in_words(repository):
        path = hf_hub_download(repository.repo_id, CONFIG, revision=repository.revision)
    folder = Path(path).parent
    read_config(folder, str(repository))  # before gigabytes of another model are fetched
    with _in_words(repository):  # of the same commit
        fetched = Path(snapshot_download(repository.repo_id, revision=folder.name, allow_patterns=_FILES))
    if not (fetched / WEIGHTS).exists():
        raise ValueError(f"{repository} has no {WEIGHTS}: the weights are read from that file alone; upload them with "
                         "`push_to_hub`")
    return fetched


def require_token(token: str | None) -> str:
    """Return the token to upload with: the one that is given, or that of the machine.

    Raises:
        ValueError: There is none.
    """
    found = token or get_token()
    if not found:
        raise ValueError("uploading to the Hugging Face hub needs a token: run `hf auth login`, set HF_TOKEN, "
                         "or give `token`")
    return found


def require_repo_id(repo_id: str) -> Repository:
    """Parse the name of a repository to upload to, `owner/name` or `owner/name@branch`.

    Raises:
        ValueError: It is not one.
    """
    repository = parse_name(repo_id)
    if repository is None:
        raise ValueError(f"repo_id={repo_id!r:.100}: give `owner/name`, with letters, digits, single `-`, `_` and `.`")
    return repository


def upload(folder: Path, repository: Repository, token: str, private: bool, message: str) -> str:
    """Upload a folder as one commit; the repository is created where it is missing.

    Returns:
        The address of the commit.

    Raises:
        ValueError: The hub refuses it or can't be reached.
    """
    api = HfApi(token=token, library_name="egovlpv2")
    with _in_words(repository):
        api.create_repo(repository.repo_id, private=private, exist_ok=True)
        if repository.revision:
            api.create_branch(repository.repo_id, branch=repository.revision, exist_ok=True)
        commit = api.upload_folder(repo_id=repository.repo_id, folder_path=folder, revision=repository.revision,
                                   commit_message=message)
    return commit.commit_url


@contextmanager
def _in_words(repository: Repository) -> Iterator[None]:
    """Turn the errors of the hub's library into one line."""
    try:
        yield
    except RevisionNotFoundError as error:
        raise ValueError(f"{repository.repo_id} on the Hugging Face hub has no revision {repository.revision}: give a "
                         "branch, a tag or a commit") from error
    except RepositoryNotFoundError as error:
        raise ValueError(f"{repository} is neither a file or folder here nor a model on the Hugging Face hub that you "
                         "may read: check the name; for a private or gated one, run `hf auth login`") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "it can't be reached"
        raise ValueError(f"{repository} is neither a file or folder here nor in the cache of the Hugging Face hub, and "
                         f"{reason}: load it once with a network, or copy its folder and give that") from error
    except EntryNotFoundError as error:
        raise ValueError(f"{repository} on the Hugging Face hub has no {CONFIG}: it is not a backbone that "
                         "`push_to_hub` wrote") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        hint = _HINTS.get(status, "try later")
        raise ValueError(f"{repository}: the Hugging Face hub refused it ({status}): {hint}") from error
    except HTTPError as error:
        raise ValueError(f"{repository}: the Hugging Face hub can't be reached ({str(error) or type(error).__name__}): "
                         "check the network") from error

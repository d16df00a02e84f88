"""Model cards: the `README.md` of a backbone's folder, with the YAML header of the Hugging Face hub."""

import json
import re
from pathlib import Path
from string import Template
from typing import Any, TypedDict

from huggingface_hub import ModelCardData

from egovlpv2.io.schema import read_json

PAPER = "https://arxiv.org/abs/2307.05463"
_CITATION = """@inproceedings{pramanick2023egovlpv2,
  title = {{EgoVLPv2}: Egocentric Video-Language Pre-training with Fusion in the Backbone},
  author = {Pramanick, Shraman and Song, Yale and Nag, Sayan and Lin, Kevin Qinghong and Shah, Hardik and
            Shou, Mike Zheng and Chellappa, Rama and Zhang, Pengchuan},
  booktitle = {Proceedings of the IEEE/CVF International Conference on Computer Vision (ICCV)},
  year = {2023}
}"""
_CARD = Template(f"""---
$header
---

# $title

A video-language backbone for first-person video, after [EgoVLPv2]({PAPER}) (ICCV 2023):
a dual encoder with its gate closed, a fusion encoder with its gate open. It was saved with the
Python package `egovlpv2`.

## Use

```python
from egovlpv2 import load_backbone
from egovlpv2.tokenization import load_tokenizer

backbone = load_backbone("$name", num_frames=$frames)
tokenizer = load_tokenizer(backbone.config.text.tokenizer)
```

`backbone.embed_video` takes uint8 frames (B, T, 3, H, W), `backbone.embed_text` token ids and their mask; their
embeddings are compared by cosine.

## Model

$model

All settings are in `config.json`.

## Results

$results

## Licence

The weights are under the licence `$licence`. Data that they were trained on may have terms of their own.

## Citation

```bibtex
{_CITATION}
```
""")
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_SPLIT = re.compile(r"(train|val|test)/")  # names of metrics have slashes too
_FOLDERS = re.compile(r"(?<![\w/])(?:~|\.{1,2})?/(?:[^\s/,;]+/)+")  # of an absolute path within a sentence


class _Run(TypedDict):
    """A run's `metrics.json`."""

    metrics: dict[str, float | None]
    protocol: dict[str, Any]


def write_card(config: dict[str, Any], parameters: int, repo_id: str | None, licence: str, metrics: Path | None) -> str:
    """Write a model card.

    Args:
        config: The configuration of the backbone, plain values.
        parameters: Of the backbone.
        repo_id: `owner/name` on the hub, if it is known.
        licence: The weights' licence, by the hub's identifier.
        metrics: The run's `metrics.json`, if there is one.

    Raises:
        ValueError: The licence is not an identifier, or `metrics` is not a run's `metrics.json`.
    """
    if not _LICENCE.fullmatch(licence):
        raise ValueError(f"license={licence!r}: give an identifier of the hub, such as mit, apache-2.0 or other")
    data = ModelCardData(library_name="egovlpv2", license=licence, language="en", pipeline_tag="feature-extraction",
                         tags=["egovlpv2", "egocentric-video", "video-language", "video-text-retrieval"])
    results = "No `metrics.json` was given for these weights." if metrics is None else _results(metrics)
    return _CARD.substitute(header=data.to_yaml().strip(), title=repo_id or "EgoVLPv2 backbone",
                            name=repo_id or "path/to/this/folder", frames=config["video"]["num_frames"],
                            model=_table(_model(config, parameters)),
                            results=results, licence=licence)


def _model(config: dict[str, Any], parameters: int) -> dict[str, Any]:
    video, text = config["video"], config["text"]
    return {"parameters": f"{parameters / 1e6:.1f} M", "video": video["name"], "frames of a clip": video["num_frames"],
            "text": text["arch"].get("model_type") if isinstance(text["arch"], dict) else text["arch"],
            "fusion": config["fusion"], "fused layers": config["num_fused_layers"],
            "width of the embeddings": config["projector"][-1]}


def _results(path: Path) -> str:
    run = read_json(path, _Run)
    metrics = {name: "n/a" if value is None else f"{value:.4g}" for name, value in sorted(run["metrics"].items())}
    protocol = {name: without_folders(value) for name, value in run["protocol"].items()}
    return "\n\n".join([_table(metrics, "metric"), "They were measured under this protocol; the files of the run are "
                        "named without their folders.", _table(protocol)])


def without_folders(value: Any) -> Any:
    """Leave the folders of all paths out of plain values: they are those of somebody's machine."""
    if isinstance(value, dict):
        return {key: without_folders(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_folders(inner) for inner in value]
    if not isinstance(value, str) or "/" not in value or _SPLIT.match(value):
        return value
    is_path = value.startswith(("/", "~", "./", "../")) or not re.search(r"\s", value)
    return Path(value).name if is_path else _FOLDERS.sub("", value)


def _table(rows: dict[str, Any], title: str = "setting") -> str:
    """Format a table in Markdown."""
    lines = [f"| {title} | value |", "|---|---|"]
    for name, value in rows.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        lines.append(f"| {name} | {' '.join(text.split()).replace('|', '/')} |")
    return "\n".join(lines)

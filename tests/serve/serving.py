"""A small index with a head, and the application over it."""

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from features.test_extract import write
from helpers import WORDS, draw_parameters, make_config
from search.searching import index
from starlette.testclient import TestClient
from video.numbered_videos import write_video

from egovlpv2.bench.made_up import made_up_tokenizer
from egovlpv2.checkpoints.weights import save_backbone
from egovlpv2.features.extract import make_recipe
from egovlpv2.heads.vslnet import SmallVSLNet
from egovlpv2.model.backbone import Backbone
from egovlpv2.serve.app import make_app
from egovlpv2.serve.asking import ModelOptions
from egovlpv2.serve.library import video_id
from egovlpv2.serve.service import Service

QUERY = "w17 w203 w41"
NASTY = '<img src=x onerror=alert(1)> "&'
OPTIONS = ModelOptions(device="cpu")
IDS = {name: video_id(name) for name in ("a", "old", "parts", NASTY)}


def write_videos(folder: Path) -> Path:
    """A video that browsers play, one that they don't, one in chunks and one of a nasty name."""
    write(folder / "a.mp4", 0, 60)
    write(folder / f"{NASTY}.mp4", 90, 30)
    write_video(folder / "old.avi", count=40, fps=10, codec="mpeg4")
    for number in range(2):
        write(folder / "parts" / f"{number}.mp4", 200 + 20 * number, 20)
    return folder


def write_index(folder: Path, **changes: object) -> Path:
    """An index of four videos by a small backbone."""
    torch.manual_seed(0)
    backbone = Backbone(make_config(made_up_tokenizer(folder / "words", WORDS), **changes)).eval()
    draw_parameters(backbone)
    save_backbone(backbone, folder / "weights.safetensors")
    index(write_videos(folder / "videos"), folder / "weights.safetensors", folder / "index", "--chunk-seconds", 2)
    return folder / "index"


def write_head(folder: Path) -> Path:
    """A head of NLQ, untrained."""
    torch.manual_seed(0)
    weights = folder / "weights.safetensors"
    backbone = Backbone(make_config()).eval()
    recipe = make_recipe(backbone, str(weights), "fused", fps=10.0, window=8, stride=4, num_frames=4)
    sizes = {"video_dim": recipe.width, "query_dim": 32, "dim": 16, "num_heads": 4, "max_positions": 64}
    state = {f"head.{name}": value for name, value in SmallVSLNet(*sizes.values()).state_dict().items()}
    facts = sizes | {"variant": "small", "longest": 8.0, "averaged_to": 64}
    torch.save({"state_dict": state, "egovlpv2": {"task": "nlq", "nlq": facts, "features": asdict(recipe)}},
               folder / "head.ckpt")
    return folder / "head.ckpt"


def client_of(app: FastAPI, host: str = "127.0.0.1") -> TestClient:
    return TestClient(app, base_url=f"http://{host}", raise_server_exceptions=False)


def until(condition: Callable[[], Any]) -> None:
    """Wait for a condition."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@contextmanager
def opened(folder: Path, head: Path | None = None) -> Iterator[Service]:
    service = Service(folder, OPTIONS, head)
    try:
        yield service
    finally:
        service.close()


@contextmanager
def running(service: Service, token: str = "") -> Iterator[str]:
    """A real server of the application in a thread; its address."""
    listening = socket.create_server(("127.0.0.1", 0))
    app = make_app(service, {"127.0.0.1"}, token=token)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])))
    errors = _Errors(logging.WARNING)
    logging.getLogger("uvicorn.error").addHandler(errors)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        logging.getLogger("uvicorn.error").removeHandler(errors)
        assert not thread.is_alive()
    assert not errors.lines


class _Errors(logging.Handler):
    """Keep what the server logs."""

    lines: list[str]

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.lines = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))

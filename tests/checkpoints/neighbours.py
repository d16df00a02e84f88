"""Random weights in the layouts of EgoVLP, LaViLa and AVION at a small size, and their forward passes in plain torch.

Letters: `B` clips or texts, `T` frames, `N` patches of a frame, `L` tokens, `D` width.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]

DIM, TEXT_DIM, WIDTH, PATCH, SIDE, TOKENS, CONTEXT, LAYERS = 128, 64, 24, 8, 16, 90, 12, 2
TEXT_LAYERS, TEXT_MLP = 2, 96
SMALL = 0.03  # size of what the norm before the blocks takes: its epsilon then matters


def linear(name: str, rows: int, columns: int) -> State:
    return {f"{name}.weight": torch.randn(rows, columns) * columns**-0.5, f"{name}.bias": torch.randn(rows) * 0.1}


def matrix(rows: int) -> Tensor:
    return torch.randn(rows, WIDTH) * rows**-0.5


def norm(name: str, dim: int) -> State:
    return {f"{name}.weight": 1 + torch.randn(dim) * 0.1, f"{name}.bias": torch.randn(dim) * 0.1}


def space_time(prefix: str, frames: int, ln_pre: bool) -> State:
    """The video transformer of Frozen in Time."""
    size = SMALL if ln_pre else 1
    state = {"cls_token": torch.randn(1, 1, DIM) * size,
             "pos_embed": torch.randn(1, 1 + (SIDE // PATCH) ** 2, DIM) * size / 3,
             "temporal_embed": torch.randn(1, frames, DIM) * size / 3,
             "patch_embed.proj.weight": torch.randn(DIM, 3, PATCH, PATCH) * size / 15, **norm("norm", DIM)}
    state |= norm("ln_pre", DIM) if ln_pre else {"patch_embed.proj.bias": torch.randn(DIM) * 0.1}
    for i in range(LAYERS):
        for name in ("norm1", "norm2", "norm3"):
            state |= norm(f"blocks.{i}.{name}", DIM)
        for name in ("attn", "timeattn"):
            state |= linear(f"blocks.{i}.{name}.qkv", 3 * DIM, DIM) | linear(f"blocks.{i}.{name}.proj", DIM, DIM)
        state |= linear(f"blocks.{i}.mlp.fc1", 4 * DIM, DIM) | linear(f"blocks.{i}.mlp.fc2", DIM, 4 * DIM)
    return {prefix + name: tensor for name, tensor in state.items()}


def distilbert(prefix: str) -> State:
    state = {"embeddings.word_embeddings.weight": torch.randn(TOKENS, TEXT_DIM),
             "embeddings.position_embeddings.weight": torch.randn(CONTEXT, TEXT_DIM),
             "embeddings.position_ids": torch.arange(CONTEXT)[None], **norm("embeddings.LayerNorm", TEXT_DIM)}
    for i in range(TEXT_LAYERS):
        layer = f"transformer.layer.{i}."
        for name in ("q_lin", "k_lin", "v_lin", "out_lin"):
            state |= linear(f"{layer}attention.{name}", TEXT_DIM, TEXT_DIM)
        state |= norm(f"{layer}sa_layer_norm", TEXT_DIM) | norm(f"{layer}output_layer_norm", TEXT_DIM)
        state |= linear(f"{layer}ffn.lin1", TEXT_MLP, TEXT_DIM) | linear(f"{layer}ffn.lin2", TEXT_DIM, TEXT_MLP)
    return {prefix + name: tensor for name, tensor in state.items()}


def resblocks(dim: int, layers: int) -> State:
    """Blocks of OpenAI's CLIP."""
    state: State = {}
    for i in range(layers):
        block = f"transformer.resblocks.{i}."
        joined = linear("qkv", 3 * dim, dim)
        state |= {f"{block}attn.in_proj_weight": joined["qkv.weight"], f"{block}attn.in_proj_bias": joined["qkv.bias"]}
        state |= linear(f"{block}attn.out_proj", dim, dim) | norm(f"{block}ln_1", dim) | norm(f"{block}ln_2", dim)
        state |= linear(f"{block}mlp.c_fc", 4 * dim, dim) | linear(f"{block}mlp.c_proj", dim, 4 * dim)
    return state


def clip_text(prefix: str) -> State:
    state = {"token_embedding.weight": torch.randn(TOKENS, TEXT_DIM),
             "positional_embedding": torch.randn(CONTEXT, TEXT_DIM) * 0.3, **norm("ln_final", TEXT_DIM),
             **resblocks(TEXT_DIM, TEXT_LAYERS)}
    return {prefix + name: tensor for name, tensor in state.items()}


def avion_video(frames: int, fast: bool) -> State:
    state = {"class_embedding": torch.randn(DIM) * SMALL, "image_projection": matrix(DIM),
             "positional_embedding": torch.randn(1 + (SIDE // PATCH) ** 2, DIM) * SMALL / 3,
             "conv1.weight": torch.randn(DIM, 3, PATCH, PATCH) * SMALL / 15,
             **norm("ln_pre", DIM), **norm("ln_post", DIM), **resblocks(DIM, LAYERS)}
    if frames > 1:
        state["temporal_embedding"] = torch.randn(frames, DIM) * SMALL / 3
    if fast:  # their linear patch embedding and flash-attn's names
        state["conv1.weight"] = state["conv1.weight"].flatten(1)
        for theirs, flash in (("attn.in_proj_", "attn.Wqkv."), ("c_fc", "fc1"), ("c_proj", "fc2")):
            state = {name.replace(theirs, flash): tensor for name, tensor in state.items()}
    return {f"visual.{name}": tensor for name, tensor in state.items()}


def make(kind: str, frames: int) -> State:
    """Random weights of a neighbour."""
    torch.manual_seed(frames)
    sequential = kind in ("egovlp", "lavila of egovlp")
    if kind == "egovlp":
        state, names = space_time("video_model.", frames, False) | distilbert("text_model."), ("vid_proj", "txt_proj")
    elif kind.startswith("lavila"):
        text = distilbert("textual.") if "egovlp" in kind or "distilbert" in kind else clip_text("")
        state = space_time("visual.", frames, not sequential) | text | {"logit_scale": torch.tensor(2.6)}
        names = ("image_projection", "text_projection")
    else:
        return avion_video(frames, "flash" in kind) | clip_text("textual.") | {
            "textual.text_projection": matrix(TEXT_DIM), "logit_scale": torch.tensor(2.6)}
    if sequential:
        return state | linear(f"{names[0]}.0", WIDTH, DIM) | linear(f"{names[1]}.1", WIDTH, TEXT_DIM)
    return state | {names[0]: matrix(DIM), names[1]: matrix(TEXT_DIM)}


def _norm(state: State, name: str, x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)


def _linear(state: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Heads of 64 channels: (..., L, D) each, mask True where seen."""
    q, k, v = (x.unflatten(-1, (-1, 64)).transpose(-2, -3) for x in (query, key, value))  # (..., h, L, 64)
    scores = q @ k.transpose(-1, -2) / 8
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return (scores.softmax(-1) @ v).transpose(-2, -3).flatten(-2)


def _divided(state: State, name: str, x: Tensor, frames: int, by_time: bool) -> Tensor:
    """CLS sees all; a patch sees CLS and the patches of its place, or of its frame: (B, 1 + T * N, D)."""
    query, key, value = _linear(state, f"{name}.qkv", x).chunk(3, -1)

    def grouped(y: Tensor, cls: bool) -> Tensor:
        patches = y[:, 1:].unflatten(1, (frames, -1))  # (B, T, N, D)
        patches = patches.transpose(1, 2) if by_time else patches
        first = y[:, None, :1].expand(-1, patches.shape[1], -1, -1)
        return torch.cat([first, patches], 2) if cls else patches

    out = attention(grouped(query, False), grouped(key, True), grouped(value, True))
    out = (out.transpose(1, 2) if by_time else out).flatten(1, 2)
    return _linear(state, f"{name}.proj", torch.cat([attention(query[:, :1], key, value), out], 1))


def _patches(state: State, name: str, video: Tensor, cls: Tensor, place: Tensor, time: Tensor) -> Tensor:
    """Tokens with places, CLS's in space alone; `place` (1 + N, D), `time` (T, D): (B, 1 + T * N, D)."""
    weight = state[f"{name}.weight"].view(DIM, 3, PATCH, PATCH)
    x = F.conv2d(video.flatten(0, 1), weight, state.get(f"{name}.bias"), PATCH).flatten(2).transpose(1, 2)
    x = x.unflatten(0, video.shape[:2]) + place[1:] + time[:, None]  # (B, T, N, D)
    return torch.cat([(cls + place[0]).expand(len(video), 1, DIM), x.flatten(1, 2)], 1)


def space_time_forward(state: State, p: str, video: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
    x = _patches(state, f"{p}patch_embed.proj", video, state[f"{p}cls_token"], state[f"{p}pos_embed"][0],
                 state[f"{p}temporal_embed"][0])
    if f"{p}ln_pre.weight" in state:
        x = _norm(state, f"{p}ln_pre", x, 1e-5)
    for i in range(LAYERS):
        b, frames = f"{p}blocks.{i}.", video.shape[1]
        y = x + _divided(state, f"{b}timeattn", _norm(state, f"{b}norm3", x, 1e-6), frames, True)
        x = x + _divided(state, f"{b}attn", _norm(state, f"{b}norm1", y, 1e-6), frames, False)
        x = x + _linear(state, f"{b}mlp.fc2", act(_linear(state, f"{b}mlp.fc1", _norm(state, f"{b}norm2", x, 1e-6))))
    return _norm(state, f"{p}norm", x[:, 0], 1e-6)


def _resblocks(state: State, p: str, x: Tensor, act: Callable[[Tensor], Tensor], eps: float,
               mask: Tensor | None = None) -> Tensor:
    flash = f"{p}transformer.resblocks.0.mlp.fc1.weight" in state
    qkv, fc1, fc2 = ("attn.Wqkv.", "mlp.fc1", "mlp.fc2") if flash else ("attn.in_proj_", "mlp.c_fc", "mlp.c_proj")
    for i in range(LAYERS):
        b = f"{p}transformer.resblocks.{i}."
        joined = F.linear(_norm(state, f"{b}ln_1", x, eps), state[f"{b}{qkv}weight"], state[f"{b}{qkv}bias"])
        x = x + _linear(state, f"{b}attn.out_proj", attention(*joined.chunk(3, -1), mask))
        x = x + _linear(state, f"{b}{fc2}", act(_linear(state, f"{b}{fc1}", _norm(state, f"{b}ln_2", x, eps))))
    return x


def avion_forward(state: State, video: Tensor) -> Tensor:
    time = state.get("visual.temporal_embedding", torch.zeros(1, DIM))
    x = _patches(state, "visual.conv1", video, state["visual.class_embedding"], state["visual.positional_embedding"],
                 time)
    x = _resblocks(state, "visual.", _norm(state, "visual.ln_pre", x, 1e-6), F.gelu, 1e-6)
    return _norm(state, "visual.ln_post", x[:, 0], 1e-6)


def clip_text_forward(state: State, p: str, ids: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
    """The state of each text's highest id; ids (B, L) padded to the whole context."""
    x = state[f"{p}token_embedding.weight"][ids] + state[f"{p}positional_embedding"]
    causal = torch.ones(CONTEXT, CONTEXT, dtype=torch.bool).tril()
    x = _norm(state, f"{p}ln_final", _resblocks(state, p, x, act, 1e-5, causal), 1e-5)
    return x[torch.arange(len(ids)), ids.argmax(-1)]


def distilbert_forward(state: State, p: str, ids: Tensor, mask: Tensor) -> Tensor:
    e = f"{p}embeddings."
    x = state[f"{e}word_embeddings.weight"][ids] + state[f"{e}position_embeddings.weight"][: ids.shape[1]]
    x = _norm(state, f"{e}LayerNorm", x, 1e-12)
    for i in range(LAYERS):
        b = f"{p}transformer.layer.{i}."
        q, k, v = (_linear(state, f"{b}attention.{name}_lin", x) for name in "qkv")
        y = _linear(state, f"{b}attention.out_lin", attention(q, k, v, mask[:, None, None].bool()))
        x = _norm(state, f"{b}sa_layer_norm", x + y, 1e-12)
        y = _linear(state, f"{b}ffn.lin2", F.gelu(_linear(state, f"{b}ffn.lin1", x)))
        x = _norm(state, f"{b}output_layer_norm", x + y, 1e-12)
    return x[:, 0]


def forward(kind: str, state: State, video: Tensor, ids: Tensor, mask: Tensor) -> dict[str, Any]:
    """Features and embeddings of clips (B, T, 3, H, W) and texts (B, L), as the neighbour's own code has them."""
    if kind == "egovlp":
        clip, text = space_time_forward(state, "video_model.", video, F.gelu), distilbert_forward(
            state, "text_model.", ids, mask)
        return {"clip": clip, "text": text, "embed_clip": _linear(state, "vid_proj.0", clip),
                "embed_text": _linear(state, "txt_proj.1", text.relu())}
    if kind.startswith("avion"):
        clip, text = avion_forward(state, video), clip_text_forward(state, "textual.", ids, F.gelu)
        matrices = state["visual.image_projection"], state["textual.text_projection"]
        return {"clip": clip, "text": text, "embed_clip": clip @ matrices[0], "embed_text": text @ matrices[1]}
    quick = "visual.ln_pre.weight" in state
    clip = space_time_forward(state, "visual.", video, quick_gelu if quick else F.gelu)
    distil = "textual.embeddings.LayerNorm.weight" in state
    text = distilbert_forward(state, "textual.", ids, mask) if distil else clip_text_forward(
        state, "", ids, quick_gelu)
    if "image_projection" not in state:
        return {"clip": clip, "text": text, "embed_clip": _linear(state, "image_projection.0", clip),
                "embed_text": _linear(state, "text_projection.1", text.relu())}
    return {"clip": clip, "text": text, "embed_clip": clip @ state["image_projection"],
            "embed_text": text @ state["text_projection"]}

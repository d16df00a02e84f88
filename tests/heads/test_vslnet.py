"""VSLNet computes what the authors' computes, never answers with padding, and learns."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from golden.fill_state import fill_layout
from torch import Tensor

from egovlpv2.checkpoints import convert
from egovlpv2.heads import VSLNet
from egovlpv2.heads.vslnet import SmallVSLNet, best_spans, highlight_loss, span_loss

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    arrays = {k: torch.from_numpy(np.asarray(v)) for k, v in np.load(GOLDEN / "vslnet.npz").items()}
    noise = np.random.RandomState(int(arrays["input_seed"]))
    video, query = (torch.from_numpy(noise.standard_normal((3, n, 768)).astype(np.float32)) for n in (64, 30))
    masks = {"video_mask": torch.arange(64) < arrays["video_lengths"][:, None],
             "query_mask": torch.arange(30) < arrays["query_lengths"][:, None]}
    return arrays | {"video": video, "query": query} | masks


@pytest.fixture(scope="module")
def released() -> VSLNet:
    net = VSLNet().eval()
    net.load_state_dict(convert("vslnet", fill_layout(json.loads((GOLDEN / "vslnet_state_layout.json").read_text()))))
    return net


@torch.inference_mode()
def test_it_agrees_with_the_authors(golden: dict[str, Tensor], released: VSLNet) -> None:
    mask = golden["video_mask"]
    out = released(golden["video"], mask, golden["query"], golden["query_mask"])
    for ours, name in ((out.highlight, "highlight_scores"), (out.start_logits, "start_logits"),
                       (out.end_logits, "end_logits")):
        torch.testing.assert_close(ours[mask], golden[name][mask], atol=1e-4, rtol=1e-4)
    loss = highlight_loss(out.highlight, golden["highlight"], mask)
    torch.testing.assert_close(loss, golden["highlight_loss"], atol=1e-4, rtol=1e-4)
    loss = span_loss(out.start_logits, out.end_logits, golden["start"], golden["end"])
    torch.testing.assert_close(loss, golden["location_loss"], atol=1e-4, rtol=1e-4)
    first, last = best_spans(out.start_logits, out.end_logits)
    assert torch.equal(first, golden["start_top"]) and torch.equal(last, golden["end_top"])


@pytest.mark.parametrize("make", [VSLNet, SmallVSLNet])
def test_first_weights_are_the_authors(make: type[VSLNet]) -> None:
    """Xavier-uniform with the inputs and outputs of each layer, zero biases, positions from N(0, 1)."""
    torch.manual_seed(0)
    dim, fans = 128, {"depthwise.weight": 7 + 7 * 128, "of_both": 128 + 128}
    for name, parameter in make().state_dict().items():
        if "positions" in name:
            assert parameter.mean().abs() < 0.02 and parameter.std() == pytest.approx(1, abs=0.02)
        elif "norm" in name or name.endswith("bias"):
            assert (parameter == (1 if "norm" in name and name.endswith("weight") else 0)).all(), name
        else:
            fan = next((fan for part, fan in fans.items() if name.endswith(part)), sum(parameter.shape))
            bound = (6 / fan) ** 0.5
            assert 0.95 * bound < parameter.abs().max() <= bound, name
            assert parameter.std() == pytest.approx(bound / 3**0.5, rel=0.2 if parameter.numel() == dim else 0.05), name


@torch.inference_mode()
def test_padding_is_never_chosen(golden: dict[str, Tensor], released: VSLNet) -> None:
    out = released(golden["video"], golden["video_mask"], golden["query"], golden["query_mask"])
    for logits in (out.start_logits, out.end_logits):
        assert (logits.softmax(1)[~golden["video_mask"]] == 0).all()
    assert (out.highlight[~golden["video_mask"]] == 0).all()


def test_too_many_positions_are_named() -> None:
    net = VSLNet(8, 8, 16, 2, max_positions=4)
    with pytest.raises(ValueError, match="5 positions are more than max_positions=4"):
        net(torch.zeros(1, 5, 8), torch.ones(1, 5), torch.zeros(1, 2, 8), torch.ones(1, 2))


def test_windows_can_be_learned() -> None:
    torch.manual_seed(0)
    net = VSLNet(8, 8, 16, 2, max_positions=16, dropout=0.0)
    video, query, mask = torch.randn(6, 16, 8), torch.randn(6, 3, 8), torch.ones(6, 16)
    start = torch.arange(6)
    end = start + 4
    inside = (torch.arange(16) >= start[:, None]) & (torch.arange(16) <= end[:, None])
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    for _ in range(60):
        out = net(video, mask, query, torch.ones(6, 3))
        loss = span_loss(out.start_logits, out.end_logits, start, end) + highlight_loss(out.highlight, inside, mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    first, last = best_spans(out.start_logits, out.end_logits, 1)
    assert torch.equal(first[:, 0], start) and torch.equal(last[:, 0], end)
    assert ((out.highlight > 0.5) == inside).float().mean() > 0.9

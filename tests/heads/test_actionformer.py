"""ActionFormer computes what its authors' and OpenTAD's do, for any sizes, and attends to neighbours only."""

import pytest
import torch
from actionformer_figures import AUTHORS, OPENTAD, clips, figures, released_head
from torch import Tensor

from egovlpv2.heads import ActionFormer
from egovlpv2.heads.actionformer import make_points
from egovlpv2.heads.actionformer_layers import local_attention


def small(**options: int | float | str) -> ActionFormer:
    """A small head in evaluation mode, with the scales of its branches open."""
    torch.manual_seed(0)
    head = ActionFormer(**{"in_dim": 6, "num_classes": 3, "dim": 16, "num_levels": 3, "num_heads": 2, "window": 5,
                           "max_steps": 32} | options).eval()
    for name, parameter in head.named_parameters():
        if name.endswith(("attention_scale", "mlp_scale")):
            parameter.data.fill_(0.5)
    return head


@torch.inference_mode()
@pytest.mark.parametrize("name", [AUTHORS, OPENTAD])
def test_it_agrees_with_the_released_code(name: str) -> None:
    wanted, (features, mask) = figures(name), clips(0, 1)
    out = released_head(name)(features, mask)
    assert [int(n) for n in out.points[:, 3].unique_consecutive(return_counts=True)[1]] == wanted[
        "level_lengths"].tolist()
    torch.testing.assert_close(out.class_logits[:, ::9][out.mask[:, ::9]],
                               wanted["cls_logits_stride9"][out.mask[:, ::9]], atol=1e-4, rtol=0)
    torch.testing.assert_close(out.offsets[out.mask], wanted["offsets"][out.mask], atol=1e-4, rtol=0)
    if name == AUTHORS:
        assert torch.equal(out.points[::37], wanted["points_stride37"])
    else:
        assert torch.equal(out.points[-4:], wanted["points_last_level"])
        time, stride = out.points[:, 0, None], out.points[:, 3, None]
        segments = time + out.offsets[1] * torch.tensor([-1.0, 1.0]) * stride
        torch.testing.assert_close(segments[out.mask[1]][::5], wanted["proposals1_stride5"], atol=1e-3, rtol=1e-5)


@torch.inference_mode()
def test_positions_are_interpolated_for_a_longer_clip() -> None:
    wanted, head = figures(AUTHORS), released_head(AUTHORS).eval()
    assert head.padded_length(1300) == 2048 and head.padded_length(700) == head.padded_length(1024) == 1024
    out = head(*clips(2, length=2048))
    torch.testing.assert_close(out.class_logits[0, ::19], wanted["long_cls_logits_stride19"], atol=1e-4, rtol=0)
    torch.testing.assert_close(out.offsets[0, ::3], wanted["long_offsets_stride3"], atol=1e-4, rtol=0)
    assert released_head(OPENTAD).padded_length(1300) == 1536


@torch.inference_mode()
@pytest.mark.parametrize("wrong", ["window", "twice", "eps", "pool"])
def test_another_rule_does_not_agree(wrong: str) -> None:
    head, wanted = released_head(AUTHORS).eval(), figures(AUTHORS)["offsets"]
    for module in head.modules():
        if wrong == "window" and hasattr(module, "radius"):
            module.radius = 3
        if wrong == "twice" and hasattr(module, "masked_twice"):
            module.masked_twice = True
        if wrong == "eps" and hasattr(module, "eps"):
            module.eps = 1e-3
        if wrong == "pool" and isinstance(getattr(module, "pool", None), torch.nn.MaxPool1d):
            module.pool = torch.nn.AvgPool1d(3, 2, 1)
    out = head(*clips(0, 1))
    assert (out.offsets - wanted)[out.mask].abs().max() > 1e-3


@torch.inference_mode()
@pytest.mark.parametrize("length", [1, 2, 3, 20, 32, 45])
@pytest.mark.parametrize("options", [{}, {"num_levels": 1}, {"num_full_levels": 2}, {"window": 1}, {"dim": 18},
                                     {"num_levels": 6, "window": 19, "num_heads": 4}, {"variant": "opentad"}])
def test_any_sizes_fit(length: int, options: dict[str, int | str]) -> None:
    head = small(**options)
    mask = torch.arange(length) < torch.tensor([[length], [max(length // 2, 1)]])
    out = head(torch.randn(2, 6, length) * mask[:, None], mask)
    sizes = [-(-length // 2**level) for level in range(head.num_levels)]
    assert out.class_logits.shape == (2, sum(sizes), 3) and out.offsets.shape == (2, sum(sizes), 2)
    assert out.points.shape == (sum(sizes), 4) and out.mask.shape == (2, sum(sizes))
    assert all(torch.isfinite(x).all() for x in (out.class_logits, out.offsets)) and (out.offsets >= 0).all()
    assert out.mask[1].sum() == sum(-(-max(length // 2, 1) // 2**level) for level in range(head.num_levels))


def test_points_have_their_levels_ranges() -> None:
    points = make_points([4, 2, 1])
    assert points.tolist() == [[0, 0, 4, 1], [1, 0, 4, 1], [2, 0, 4, 1], [3, 0, 4, 1], [0, 2, 8, 2], [2, 2, 8, 2],
                               [0, 4, 10000, 4]]


@torch.inference_mode()
def test_what_stands_in_the_padding_changes_nothing_far_from_a_clips_end() -> None:
    head, features, mask = small(num_levels=1, window=3), torch.randn(1, 6, 32), torch.arange(32)[None] < 20
    clean, other = (head(features.where(mask[:, None], value), mask) for value in (0.0, 7.0))
    assert torch.equal(clean.class_logits[0, :10], other.class_logits[0, :10])
    assert torch.equal(clean.offsets[0, :10], other.offsets[0, :10])
    assert (clean.class_logits[0, 20:] == 0).all()


@torch.inference_mode()
@pytest.mark.parametrize("length, radius", [(1, 2), (7, 2), (32, 4), (33, 4), (100, 1), (100, 40)])
def test_local_attention_is_attention_within_a_band(length: int, radius: int) -> None:
    query, key, value = torch.randn(3, 2, 2, length, 4, dtype=torch.float64)
    mask = torch.arange(length) < torch.tensor([[length], [-(-length * 2 // 3)]])
    steps = torch.arange(length)
    near = (steps - steps[:, None]).abs() <= radius
    scores = query @ key.mT / 2 + torch.where(near & mask[:, None, None], 0.0, -torch.inf)
    wanted = scores.softmax(-1).nan_to_num() @ value
    found = local_attention(query, key, value, mask, radius)
    real = mask[:, None, :, None].expand_as(found)
    torch.testing.assert_close(found[real], wanted[real])
    assert torch.isfinite(found).all()


def test_a_gradient_reaches_all_parameters_and_is_finite_with_padding() -> None:
    head = small(num_full_levels=1).train()
    mask = torch.arange(32) < torch.tensor([[32], [3]])
    out = head(torch.randn(2, 6, 32) * mask[:, None], mask)
    (out.class_logits.sum() + (out.offsets + 1).square().sum()).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


def test_it_is_the_same_again_and_starts_with_rare_classes() -> None:
    first, again = small(), small()
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    mask = torch.ones(1, 32, dtype=torch.bool)
    features = torch.randn(1, 6, 32)
    assert torch.equal(first(features, mask).class_logits, again(features, mask).class_logits)
    fresh = ActionFormer(6, 3, dim=16, num_heads=2)
    assert all((bias == 0).all() for name, bias in fresh.named_parameters()
               if name.endswith("bias") and name != "class_head.out.bias")
    torch.testing.assert_close(fresh.class_head.out.bias.sigmoid(), torch.full((3,), 0.01))
    assert fresh.num_levels == 8 and ActionFormer(6, 3, variant="opentad").num_levels == 9


@pytest.mark.parametrize(("options", "problem"), [
    ({"dim": 15}, "dim=15 is not a multiple of num_heads=2"),
    ({"num_levels": 0}, "num_levels=0, num_full_levels=0: give 1 level or more"),
    ({"num_full_levels": 4}, "num_levels=3, num_full_levels=4"), ({"max_steps": 0}, "max_steps=0: give 1 or more"),
    ({"num_heads": 0}, "num_heads=0: give 1"), ({"dim": -32}, "dim=-32: give 1"), ({"in_dim": 0}, "in_dim=0: give 1"),
    ({"num_classes": -1}, "num_classes=-1: give 1"), ({"drop_path": 2.0}, "drop_path=2.0: give a share"),
    ({"dropout": float("nan")}, "dropout=nan: give a share"),
])
def test_settings_that_do_not_fit_are_named(options: dict[str, float], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        small(**options)


def test_inputs_of_another_shape_are_named() -> None:
    def run(features: Tensor, mask: Tensor) -> None:
        small()(features, mask.bool())

    with pytest.raises(ValueError, match="the features are 7 wide and the head takes 6"):
        run(torch.zeros(1, 7, 32), torch.ones(1, 32))
    with pytest.raises(ValueError, match=r"the mask is \(1, 30\) and the features are \(1, 6, 32\)"):
        run(torch.zeros(1, 6, 32), torch.ones(1, 30))

"""The optimizer as Lightning gets it: AdamW's settings, the groups' rates and the way that they take."""

import math

import pytest
import torch
from torch import nn

from egovlpv2.model.backbone import Backbone
from egovlpv2.optim import OptimizerConfig, lr_factor, make_optimizer, parameter_groups


class Model(nn.Module):
    """A tower's matrix and a head's."""

    def __init__(self) -> None:
        super().__init__()
        self.tower, self.answer_head = nn.Linear(3, 2), nn.Linear(2, 2)


def rates(config: OptimizerConfig, total: int, epochs: int) -> dict[str, list[float]]:
    """The learning rate of each group at each step of a run, as the optimizer has it."""
    made = make_optimizer(Model(), config, total, epochs, "tower")
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    assert made["lr_scheduler"]["interval"] == "step"
    found: dict[str, list[float]] = {group["name"]: [] for group in optimizer.param_groups}
    for _ in range(total + 1):
        for group in optimizer.param_groups:
            found[group["name"]].append(group["lr"])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize("decay, half", [("linear", 0.5), ("cosine", 0.5)])
def test_rates_rise_for_the_warm_up_and_end_at_the_last_step(decay: str, half: float) -> None:
    config = OptimizerConfig(lr=0.1, new_layer_factor=3.0, warmup_epochs=1.5, decay=decay, end_lr=0.02)
    found = rates(config, total=100, epochs=6)  # 25 steps of warm-up
    assert found.keys() == {"tower", "tower, no decay", "new layers", "new layers, no decay"}
    assert found["tower"][:3] == pytest.approx([0.1 / 26, 0.2 / 26, 0.3 / 26])
    assert found["tower"][24:26] == pytest.approx([0.1 * 25 / 26, 0.1])
    middle = [0.02 + (0.1 - 0.02) * x for x in (
        (1 - 15 / 75, 1 - 30 / 75) if decay == "linear"
        else (0.5 + 0.5 * math.cos(math.pi * 15 / 75), 0.5 + 0.5 * math.cos(math.pi * 30 / 75)))]
    assert [found["tower"][40], found["tower"][55]] == pytest.approx(middle)
    assert found["tower"][100] == pytest.approx(0.02)
    for kind in ("tower", "new layers"):
        factor = 3 if kind == "new layers" else 1
        for name in (kind, f"{kind}, no decay"):
            assert found[name] == pytest.approx([factor * rate for rate in found["tower"]])


def test_rates_fall_stepwise_at_the_beginnings_of_epochs() -> None:
    config = OptimizerConfig(lr=0.1, new_layer_factor=2.0, warmup_epochs=0, decay="step", step_epochs=3, gamma=0.5)
    found = rates(config, total=32, epochs=8)  # 4 steps an epoch
    steps = [0.1] * 12 + [0.05] * 12 + [0.025] * 8
    assert found["tower"][:32] == pytest.approx(steps)
    assert found["new layers"][:32] == pytest.approx([2 * rate for rate in steps])
    config = OptimizerConfig(lr=0.1, warmup_epochs=0.5, decay="step", step_epochs=3, gamma=0.5)
    assert rates(config, 32, 8)["tower"][:3] == pytest.approx([0.1 / 3, 0.2 / 3, 0.1])  # 2 steps of warm-up
    with pytest.raises(ValueError, match="optimizer.step_epochs=0: give 1 or more"):
        OptimizerConfig(step_epochs=0)


def test_adam_adds_the_decay_to_the_gradient() -> None:
    """The first step of Adam moves each number by the rate, in the direction of gradient plus decay."""
    config = OptimizerConfig("adam", 0.1, weight_decay=2.0, no_decay="none", warmup_epochs=0, new_layer_factor=1.0)
    model = Model()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = make_optimizer(model, config, 10, 1)["optimizer"]
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    optimizer.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, before[name] - 0.1 * (0.5 + 2 * before[name]).sign(), atol=1e-5, rtol=0)
    assert type(optimizer) is torch.optim.Adam and type(make_optimizer(
        model, OptimizerConfig(), 10, 1)["optimizer"]) is torch.optim.AdamW


def test_a_rate_stays_at_its_end_beyond_the_last_step_and_needs_no_room_behind_the_warm_up() -> None:
    for decay in ("linear", "cosine"):
        assert [lr_factor(step, 10, 100, decay, 0.1) for step in (100, 101, 150)] == pytest.approx([0.1] * 3)
        assert lr_factor(0, 0, 100, decay, 0.1) == 1  # without a warm-up
        assert [lr_factor(step, 10, 10, decay, 0.1) for step in (9, 10, 11)] == pytest.approx([10 / 11, 1, 0.1])


def test_eps_is_the_configurations() -> None:
    for kind in ("adamw", "adam"):
        for config, eps in ((OptimizerConfig(kind), 1e-8), (OptimizerConfig(kind, eps=1e-6), 1e-6)):
            groups = make_optimizer(Model(), config, 10, 1)["optimizer"].param_groups
            assert {group["eps"] for group in groups} == {eps}


def test_adamw_has_the_betas_and_the_decay_of_the_configuration() -> None:
    for config, betas in ((OptimizerConfig(), (0.9, 0.98)), (OptimizerConfig(betas=(0.8, 0.95)), (0.8, 0.95))):
        optimizer = make_optimizer(Model(), config, 10, 1)["optimizer"]
        assert isinstance(optimizer, torch.optim.AdamW) and optimizer.defaults["fused"]
        assert all(group["betas"] == betas for group in optimizer.param_groups)
    assert optimizer.param_groups[0]["name"] == "backbone"
    assert {group["name"]: group["weight_decay"] for group in optimizer.param_groups} == {
        "backbone": 0.01, "backbone, no decay": 0.0, "new layers": 0.01, "new layers, no decay": 0.0}
    optimizer = make_optimizer(Model(), OptimizerConfig(weight_decay=0.3), 10, 1)["optimizer"]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0, 0.3, 0.0]


@pytest.mark.parametrize("fusion", ["backbone", "stacked"])
def test_what_no_tower_brings_is_new_and_gates_have_their_own_rate(small_config, fusion: str) -> None:
    backbone = Backbone(small_config(fusion=fusion))
    names = {id(p): name for name, p in backbone.named_parameters()}
    config = OptimizerConfig(lr=1.0, new_layer_factor=2.0, alpha_lr_factor=5.0)
    groups = parameter_groups(backbone, config)
    assert {group["name"].split(",")[0]: group["lr"] for group in groups} == {
        "backbone": 1.0, "new layers": 2.0, **({"alphas": 5.0} if fusion == "backbone" else {})}
    new = {names[id(p)] for group in groups if group["name"].startswith("new") for p in group["params"]}
    gates = {name for name in names.values() if name.endswith(".alpha")}
    assert new == {name for name in names.values() if not name.startswith(("video_tower.", "text_tower."))
                   or ".fusion." in name} - gates
    flat = {names[id(p)] for group in groups if not group["weight_decay"] for p in group["params"]}
    assert flat == gates | {name for name, p in backbone.named_parameters() if p.squeeze().ndim < 2 or name in (
        "video_tower.pos_embed", "video_tower.temporal_embed",
        "text_tower.embeddings.position_embeddings.weight")}


def test_a_head_that_answers_is_new() -> None:
    groups = {group["name"]: group["params"] for group in parameter_groups(Model(), OptimizerConfig())}
    assert {name: [p.shape for p in params] for name, params in groups.items()} == {
        "backbone": [(2, 3)], "backbone, no decay": [(2,)], "new layers": [(2, 2)], "new layers, no decay": [(2,)]}


def test_defaults_are_the_papers() -> None:
    """Table D.1."""
    config = OptimizerConfig()
    assert (config.lr, config.end_lr, config.warmup_epochs, config.decay) == (3e-5, 1e-7, 2.0, "linear")
    assert (config.new_layer_factor, config.alpha_lr_factor, config.weight_decay) == (4.0, 4.0, 0.01)


def run(config: OptimizerConfig, steps: int, state: dict | None = None) -> tuple[nn.Module, dict, torch.Tensor]:
    """Trains `steps` steps of ten, from the beginning or a stored state: the model, its state, and the rates."""
    torch.manual_seed(0)
    model = Model()
    made = make_optimizer(model, config, 10, 2, "tower")
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    if state is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
    found = []
    for _ in range(steps):
        found.append([group["lr"] for group in optimizer.param_groups])
        for i, parameter in enumerate(model.parameters()):
            parameter.grad = torch.full_like(parameter, 0.1 * (i + 1) + len(found) % 2)
        optimizer.step()
        schedule.step()
    stored = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
    found.append([group["lr"] for group in optimizer.param_groups])
    assert schedule.get_last_lr() == found[-1]
    return model, stored, torch.tensor(found)


def test_a_run_goes_on_where_it_was_with_the_moments_of_then() -> None:
    config = OptimizerConfig(lr=0.1, warmup_epochs=0.4)
    whole, _, rates_of_whole = run(config, 10)
    _, stored, _ = run(config, 4)
    resumed, _, rates_of_rest = run(config, 6, stored)
    torch.testing.assert_close(rates_of_rest, rates_of_whole[4:])
    for name, parameter in resumed.named_parameters():
        torch.testing.assert_close(parameter, whole.get_parameter(name))


def test_a_run_that_goes_on_follows_its_present_settings() -> None:
    _, stored, _ = run(OptimizerConfig(lr=0.1), 4)
    config = OptimizerConfig(lr=0.02, warmup_epochs=0.4, decay="cosine", weight_decay=0.2,
                             betas=(0.5, 0.6), new_layer_factor=1.0)
    _, after, found = run(config, 6, stored)
    _, _, from_the_start = run(config, 10)
    torch.testing.assert_close(found, from_the_start[4:])
    groups = after["optimizer"]["param_groups"]
    assert [group["weight_decay"] for group in groups] == [0.2, 0.0, 0.2, 0.0]
    assert all(tuple(group["betas"]) == (0.5, 0.6) for group in groups)


def test_a_state_of_other_groups_is_refused() -> None:
    _, stored, _ = run(OptimizerConfig(), 1)
    other = nn.ModuleDict({"tower": nn.Linear(3, 2)})
    with pytest.raises(ValueError, match=r"other groups of parameters .*\[1, 1, 1, 1\] tensors before, \[1, 1\] now"):
        make_optimizer(other, OptimizerConfig(), 10, 2)["optimizer"].load_state_dict(stored["optimizer"])

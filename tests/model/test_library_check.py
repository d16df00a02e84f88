"""The check of a tower against the library's model that it is built from."""

import pytest
import torch
from torch import nn

from egovlpv2.model.library_check import check_all_used, check_same_outputs, check_same_values


def test_a_module_that_only_the_library_runs_is_named_even_if_it_changes_nothing() -> None:
    model, x = nn.Sequential(nn.Linear(4, 4), nn.Hardtanh(-100, 100)), torch.ones(1, 4)
    check_same_outputs(model, lambda: model(x), lambda: model(x), "it", "torch")
    with pytest.raises(ValueError, match="it is not supported: 1 of torch's model would be left out"):
        check_same_outputs(model, lambda: model(x), lambda: model[0](x), "it", "torch")
    check_same_outputs(model, lambda: model(x), lambda: model[0](x), "it", "torch", spare=("1",))


def test_a_parameter_or_a_buffer_that_was_not_taken_over_is_named() -> None:
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.BatchNorm1d(2)})
    check_all_used(model, nn.ModuleDict({"x": model["a"], "y": model["b"]}), (), "it", "torch")
    with pytest.raises(ValueError, match="b.weight, b.bias, b.running_mean, b.running_var of torch's model would be"):
        check_all_used(model, nn.ModuleDict({"x": model["a"]}), (), "it", "torch")
    check_all_used(model, nn.ModuleDict({"x": model["a"]}), ("weight", "bias", "mean", "var", "tracked"), "it", "torch")


@pytest.mark.parametrize("outputs", [torch.tensor([1.0, 1.001]), torch.tensor([1.0, float("nan")]), torch.ones(3)])
def test_other_values_are_an_error(outputs: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="it: its layers compute something else in torch than here"):
        check_same_values(torch.ones(2), outputs, "it", "torch")
    check_same_values(torch.full((2,), 1e3), torch.full((2,), 1e3 + 0.05), "it", "torch")  # relative above 1

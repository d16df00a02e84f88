"""A backbone's task looks at the tokenizer and the length of the texts before anything runs, if the data name them."""

from types import SimpleNamespace
from typing import Any

import pytest
from helpers import make_config

from egovlpv2.optim import OptimizerConfig
from egovlpv2.tasks.ek100 import EK100
from egovlpv2.tokenization import load_tokenizer


class Small(EK100):
    """A small task whose data module is given."""

    def __init__(self, **data: Any) -> None:
        super().__init__(make_config(), OptimizerConfig())
        self.given = SimpleNamespace(**data)

    @property
    def data(self) -> Any:
        return self.given


def test_texts_longer_than_the_positions_are_refused_in_training(tokenizer: str) -> None:
    known = load_tokenizer(tokenizer)
    most = Small().backbone.text_tower.max_tokens
    Small(tokenizer=known, max_tokens=most).setup("fit")
    problem = f"max_tokens is {most + 1}, but the text tower has {most} positions: lower it"
    with pytest.raises(ValueError, match=problem):
        Small(tokenizer=known, max_tokens=most + 1).setup("fit")
    Small(tokenizer=known, max_tokens=most + 1).setup("test")  # pads to the longest text only


@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
def test_data_that_name_no_tokenizer_or_length_pass(tokenizer: str, stage: str) -> None:
    Small().setup(stage)
    Small(tokenizer=None).setup(stage)
    Small(tokenizer=load_tokenizer(tokenizer)).setup(stage)

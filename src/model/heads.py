"""Pre-training heads on the towers: projectors for retrieval, video-text matching, masked language modelling."""

import torch
from torch import Tensor, nn


def projector(dim: int, widths: list[int], modality: str, matrix: bool = False) -> nn.Sequential:
    """Build a projector from CLS states (B, D) to the space shared by both modalities (B, P).

    Several widths give the paper's MLP with ReLU, whose first layer has no bias. One width gives the small projector of
    the released retrieval checkpoints: a linear layer, on the text side after a ReLU.

    Args:
        dim: Width of the CLS states, `D`.
        widths: Width of each layer; the last is `P`.
        modality: `video` or `text`.
        matrix: True for a linear layer without bias, and no ReLU, on both sides (CLIP's).
    """
    small = len(widths) == 1 and not matrix
    layers: list[nn.Module] = []
    for i, width in enumerate(widths):
        linear = nn.Linear(dim, width, bias=small or i > 0)
        nn.init.kaiming_normal_(linear.weight)  # default: a narrow cone of embeddings, training stalls
        layers += [nn.ReLU(), linear] if i or (small and modality == "text") else [linear]
        dim = width
    return nn.Sequential(*layers)


class VTMHead(nn.Module):
    """Video-text matching head: poolers on both transformed CLS states and a linear layer to (no match, match)."""

    def __init__(self, video_dim: int, text_dim: int) -> None:
        super().__init__()
        self.video_pooler = nn.Linear(video_dim, video_dim)
        self.text_pooler = nn.Linear(text_dim, text_dim)
        self.classifier = nn.Linear(text_dim + video_dim, 2)

    def forward(self, video_cls: Tensor, text_cls: Tensor) -> Tensor:
        """Compute logits of CLS states: (B, D), (B, D') -> (B, 2)."""
        pooled = [self.text_pooler(text_cls).tanh(), self.video_pooler(video_cls).tanh()]
        return self.classifier(torch.cat(pooled, dim=-1))


class MLMHead(nn.Module):
    """Masked-language-modelling head as BERT's, with a decoder that doesn't share the embeddings' weights."""

    def __init__(self, dim: int, vocab_size: int) -> None:
        super().__init__()
        self.transform = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim, eps=1e-12)
        self.decoder = nn.Linear(dim, vocab_size)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits over the vocabulary: (..., D) -> (..., V)."""
        return self.decoder(self.norm(nn.functional.gelu(self.transform(x))))


def init_linear(module: nn.Module) -> None:
    """Initialise a linear layer to preserve variance, std = fan_in ** -0.5; other modules are unchanged.

    With BERT's std of 0.02, matching starts to train late at a width of 192.
    """
    if isinstance(module, nn.Linear) and not module.weight.is_meta:
        nn.init.normal_(module.weight, std=module.in_features**-0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)

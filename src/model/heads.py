"""What stands on the towers: projectors for retrieval, a match head, a masked-word head."""

import torch
from torch import Tensor, nn


def projector(dim: int, widths: list[int], modality: str) -> nn.Sequential:
    """From a CLS state (B, D) to the space where video and text are compared (B, P).

    Several widths: the paper's MLP with ReLU, whose first layer has no bias. One width: the small projector of the
    released retrieval checkpoints, a linear layer, which on the text side follows a ReLU.
    """
    small = len(widths) == 1
    layers: list[nn.Module] = []
    for i, width in enumerate(widths):
        linear = nn.Linear(dim, width, bias=small or i > 0)
        nn.init.kaiming_normal_(linear.weight)  # clips that start apart: contrastive learning stalls on a narrow cone
        layers += [nn.ReLU(), linear] if i or (small and modality == "text") else [linear]
        dim = width
    return nn.Sequential(*layers)


class VTMHead(nn.Module):
    """Video-text matching: poolers on both transformed CLS states, and a linear layer to (no match, match)."""

    def __init__(self, video_dim: int, text_dim: int) -> None:
        super().__init__()
        self.video_pooler = nn.Linear(video_dim, video_dim)
        self.text_pooler = nn.Linear(text_dim, text_dim)
        self.classifier = nn.Linear(text_dim + video_dim, 2)

    def forward(self, video_cls: Tensor, text_cls: Tensor) -> Tensor:
        pooled = [self.text_pooler(text_cls).tanh(), self.video_pooler(video_cls).tanh()]
        return self.classifier(torch.cat(pooled, dim=-1))  # (B, D), (B, D') -> (B, 2)


class MLMHead(nn.Module):
    """BERT's prediction head, with a decoder of its own."""

    def __init__(self, dim: int, vocab_size: int) -> None:
        super().__init__()
        self.transform = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim, eps=1e-12)
        self.decoder = nn.Linear(dim, vocab_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.norm(nn.functional.gelu(self.transform(x))))  # (..., D) -> (..., V)

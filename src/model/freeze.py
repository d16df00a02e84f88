"""Freezing the parameters that a task doesn't depend on: DDP requires a gradient of every trainable one."""

from egovlpv2.model.backbone import Backbone


def freeze_fusion(backbone: Backbone) -> None:
    """Freeze the parameters that only the open gate uses."""
    for name, parameter in backbone.named_parameters():
        if ".fusion." in name or name.startswith(("stack.", "fused_", "match_head.", "masked_word_head.")):
            parameter.requires_grad_(False)


def freeze_all_but_fused_video(backbone: Backbone) -> None:
    """Freeze the parameters that `fused_video_cls` doesn't depend on."""
    last_text = (f"text_tower.blocks.{len(backbone.text_tower.blocks) - 1}." if backbone.stack is None
                  else f"stack.text.{len(backbone.stack.text) - 1}.")
    unused = ["text_projector.", "video_projector.", "fused_video_transform.", "fused_text_transform.",
              "match_head.", "masked_word_head.", last_text, "text_tower.head."]
    unused += ["text_tower.norm."] if backbone.stack is None else []
    if not backbone.shares_trunk:
        unused += ["video_tower.cls_token", "video_tower.norm."]
    for name, parameter in backbone.named_parameters():
        if name.startswith(tuple(unused)):
            parameter.requires_grad_(False)

"""Frames of another size: positions are interpolated, and sizes that patches don't fill are named."""

import pytest
import torch
import torch.nn.functional as F

from egovlpv2.checkpoints.weights import resize_frames
from egovlpv2.model.backbone import Backbone


@pytest.mark.parametrize("size", [(48, 48), (32, 64), (16, 16), (80, 32)])
def test_positions_are_interpolated_and_that_of_the_cls_token_stays(make_backbone, size: tuple[int, int]) -> None:
    backbone = make_backbone()
    before = backbone.video_tower.pos_embed.detach().clone()  # 2 x 2 patches
    resize_frames(backbone, size)
    after, rows, columns = backbone.video_tower.pos_embed, size[0] // 16, size[1] // 16
    assert isinstance(after, torch.nn.Parameter) and after.requires_grad and after.is_leaf
    assert after.shape == (1, 1 + rows * columns, 24) and torch.equal(after[:, 0], before[:, 0])
    grid = before[0, 1:].unflatten(0, (2, 2)).permute(2, 0, 1)[None]
    expected = F.interpolate(grid, (rows, columns), mode="bicubic", antialias=True)[0].flatten(1).T
    torch.testing.assert_close(after[0, 1:], expected)
    assert backbone.config.video.overrides["img_size"] == list(size)
    assert backbone.config.video.overrides["embed_dim"] == 24
    assert backbone.embed_video(torch.randn(1, 4, 3, *size)).shape == (1, 8)
    with pytest.raises(ValueError, match="clips are 20 x 20 px"):
        backbone.embed_video(torch.randn(1, 4, 3, 20, 20))


def test_where_the_cls_token_has_no_position_all_are_interpolated(small_config) -> None:
    config = small_config()
    config.video.overrides["no_embed_class"] = True
    backbone = Backbone(config)
    before = backbone.video_tower.pos_embed.detach().clone()
    resize_frames(backbone, (32, 64))
    after = backbone.video_tower.pos_embed
    expected = F.interpolate(before[0].unflatten(0, (2, 2)).permute(2, 0, 1)[None], (2, 4), mode="bicubic",
                             antialias=True)[0].flatten(1).T
    torch.testing.assert_close(after[0], expected)
    assert backbone.embed_video(torch.randn(1, 4, 3, 32, 64)).shape == (1, 8)


def test_the_same_size_changes_nothing(make_backbone) -> None:
    backbone, video = make_backbone(), torch.randn(1, 4, 3, 32, 32)
    before = backbone.embed_video(video)
    resize_frames(backbone, (32, 32))
    torch.testing.assert_close(backbone.embed_video(video), before)


@pytest.mark.parametrize("size, message", [
    ((40, 32), "frames of 40 x 32 px: patches of 16 px don't fill 40 px; give a multiple, such as 32 or 48"),
    ((32, 47), "frames of 32 x 47 px: patches of 16 px don't fill 47 px; give a multiple, such as 32 or 48"),
    ((8, 32), "frames of 8 x 32 px: patches of 16 px don't fill 8 px; give a multiple, such as 16"),
    ((32, 0), "frames of 32 x 0 px: patches of 16 px don't fill 0 px; give a multiple, such as 16"),
    ((-16, 32), "patches of 16 px don't fill -16 px; give a multiple, such as 16"),
])
def test_sizes_that_patches_do_not_fill_are_named(make_backbone, size: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resize_frames(make_backbone(), size)

"""Build a backbone from plain values."""

from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

from egovlpv2.model.backbone import Backbone
from egovlpv2.model.config import BackboneConfig


def build_backbone(config: Mapping[str, Any]) -> Backbone:
    """Build a backbone from plain values, such as the `backbone:` mapping of a YAML file.

    Args:
        config: See `BackboneConfig`; interpolations such as `${oc.env:NAME}` are resolved. Towers whose `init` is set
            get those first weights.

    Raises:
        ValueError: `config` is not a mapping, a key is unknown, or a value is of another type or out of bounds; names
            the key.
    """
    if not isinstance(config, Mapping):
        raise ValueError(f"config={config!r:.100}: give a mapping, such as the content of `backbone:` in a YAML "
                         "file")
    plain = OmegaConf.to_container(OmegaConf.create(dict(config)), resolve=True)
    assert isinstance(plain, dict)
    return Backbone(BackboneConfig.from_dict({str(key): value for key, value in plain.items()}))

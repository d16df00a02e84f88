"""The video-language backbone: towers, gated fusion and pre-training heads."""

"""The backbone: towers, gated fusion, heads, checkpoints."""

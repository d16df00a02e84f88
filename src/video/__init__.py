"""Video in: decoding, sampling of times, crops."""

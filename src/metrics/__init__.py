"""torchmetrics per benchmark over pure functions."""

"""One LightningModule per task: batch -> backbone -> loss and metric -> log."""

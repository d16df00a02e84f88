"""One LightningDataModule per data set, in its official file formats."""

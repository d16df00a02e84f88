"""Weights with their configuration: as a file, as a folder, and on the Hugging Face hub."""

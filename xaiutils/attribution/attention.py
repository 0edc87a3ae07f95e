"""Attention methods for transformers."""

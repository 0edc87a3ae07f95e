"""Guided Grad-CAM."""

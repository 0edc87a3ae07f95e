"""Prediction difference analysis."""

"""Degraded images of another data set."""

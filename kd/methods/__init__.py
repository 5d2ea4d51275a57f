"""Distillation methods, one a file; ``method.py`` holds the protocol."""

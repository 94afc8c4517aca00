"""Measurements of finished runs: overlap metrics, win rates, error tables (chapter 6)."""

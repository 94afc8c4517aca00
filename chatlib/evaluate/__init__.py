"""Measurements of finished runs: overlap metrics, win rates, intervals, error tables (chapter 6)."""

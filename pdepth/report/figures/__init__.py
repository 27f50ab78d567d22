"""Figures, drawn by matplotlib; nothing outside this package imports it."""

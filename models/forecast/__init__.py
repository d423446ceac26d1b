"""The recipe of forecast."""

"""Receiving alerts: what `holdover alerts` is made of."""

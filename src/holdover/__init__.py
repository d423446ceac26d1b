"""Stateful streaming inference on the edge: memory carried across samples, alerts over MQTT. Not a medical device."""

__version__ = "0.1.0"

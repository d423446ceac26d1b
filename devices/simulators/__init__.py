"""Devices that are not there: recordings played through the real protocols, on links as bad as is asked for."""

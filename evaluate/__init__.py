"""Scores of detectors against reference annotations, by the rules of the field (EC57)."""

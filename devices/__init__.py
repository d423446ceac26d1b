"""The two ends of the wire: sensors, files, boards."""

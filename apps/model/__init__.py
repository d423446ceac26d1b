"""The models that may be served: shipped, installed, and tried before they are loaded."""

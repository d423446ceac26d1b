"""The machine that holdover runs on."""

"""One method a file, in one table."""

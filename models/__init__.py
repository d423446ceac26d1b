"""The shipped models: data, each in a folder with its card and recipe."""

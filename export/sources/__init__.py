"""Where models come from: one file each, found by what the user names."""

"""Where alerts go, one file each."""

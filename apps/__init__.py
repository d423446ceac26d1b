"""The programs: command line, daemon, replay, subscriber."""

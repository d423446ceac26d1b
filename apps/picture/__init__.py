"""The picture of a recording: strips, beats, alarms, gates."""

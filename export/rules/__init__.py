"""How each operator streams, one file for each kind of memory."""

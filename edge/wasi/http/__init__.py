"""wasi:http 0.2 for guests. The HTTP messages that everyone hands on are in `message`."""

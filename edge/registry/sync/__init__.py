"""Keeps what a node runs at what is wanted of it."""

"""The fleet document: what the nodes of a fleet run, signed, at a tag of a registry."""

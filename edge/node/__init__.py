"""A node: what runs applications on a machine, and what people and fleets tell it."""

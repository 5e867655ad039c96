"""What a node measures of itself, and how that is told. Nothing is looked up before that."""

"""This node and its peers: who they are, how they find each other, what they tell each other."""

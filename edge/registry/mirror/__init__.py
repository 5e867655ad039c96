"""The node's own registry: what its content store holds, for peers and ordinary clients."""

from edge.registry.mirror.server import Mirror

__all__ = ["Mirror"]

"""Sharing on the LAN: content comes from neighbours first, over the uplink once for all of them."""

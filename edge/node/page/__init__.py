"""A page of this node for a browser: what runs, how it does, what it says; and a way back.

server    where it listens, and what it answers
access    who may see it: this machine, or who knows the password
contents  what of the node it is made of
assets    its files, and what a browser may do with them

It shows what the node API tells (`/v1/…`), and of what that can do offers a rollback alone. Only a
node that has a page loads it.
"""

from edge.node.page.contents import page_of
from edge.node.page.server import Page, Shown

__all__ = ["Page", "Shown", "page_of"]

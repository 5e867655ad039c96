"""Further processes that serve HTTP on the sockets of the first one, which starts them.

    shares     what one of them has of the node's limits
    wire       what both sides say to each other, and how
    crew       all of them, as the first process sees them: versions, counts, the drain
    worker     one of them, as the first process sees it: started, asked, watched, started anew
    counts     what they count becomes the node's
    process    one of them, as it sees itself
    desk       what the first process may ask of it
    records    its log is the first one's

The first process decides everything; a worker knows no configuration but what it is told. A node
with one process imports none of this.
"""

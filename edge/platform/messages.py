"""What happens to a node that an operator may want to be told of: MESSAGE_IDs of the journal.

`journalctl MESSAGE_ID=…` finds every such line, and `journalctl -x` explains it by the catalog in
systemd/edge.catalog. An identifier never changes its meaning.
"""

from __future__ import annotations

from typing import Final

READY: Final = "e45d9437bb6546b8b378812a57ce73c7"
RELOADED: Final = "84a657838131480dbe8a1b302f6703ba"
NOT_RELOADED: Final = "cdd18d53b22d4d30b1862c43b6a614db"
DRAINING: Final = "e8760c1752e34346a776ea17849c576d"
NOT_WELL: Final = "9cdffd5e2e604da6ba214213f9d864aa"
GUEST_FAILED: Final = "6630e007510b42de95c3ff5e54b41ca6"
LIVE: Final = "99cda65b5f1e4a74819f9fd58cf107cc"
FAILED: Final = "6ec76f08b1984d2396c013bd8356c6db"
ROLLED_BACK: Final = "5040bcd2a3fb46a09237101096332ad2"
CODE_ALTERED: Final = "8eca72c485f744aea578b519e04612fc"

"""Seeds that follow names, not positions."""

from __future__ import annotations

import hashlib
import json


def seed_of(*parts: object) -> int:
    """A seed in [0, 2^63) that depends on ``parts`` alone, so that reordering work changes no random number."""
    digest = hashlib.sha256(json.dumps(parts, default=str).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1

"""Arguments of the public functions, held against what an engine can take."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

INT64_MIN = -(1 << 63)
INT64_MAX = (1 << 63) - 1
KEY_SIZE = 16  # bytes of a stack's seed

# Index: log2 of the bit that the engine takes (Key).
KEYS = ("vlan", "interface", "tunnel")


def whole(name: str, value: int | None, least: int) -> int | None:
    """Return an integer that is `least` or more and fits 64 bits, or None for None."""
    if value is None:
        return None
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer or None, not {type(value).__name__}")
    value = value.__index__()
    if not least <= value <= INT64_MAX:
        raise ValueError(f"{name} must be {least} or more, and fit 64 bits: {value}")
    return value


def nanoseconds(name: str, seconds: float | None) -> int:
    """Return nanoseconds of seconds above 0, which fit 64 bits; 0 for None."""
    if seconds is None:
        return 0
    if isinstance(seconds, (bool, str, bytes)):
        raise TypeError(f"{name} must be a number or None, not {type(seconds).__name__}")
    try:
        value = round(seconds * 1_000_000_000)
    except (ValueError, OverflowError):  # not a number, infinity
        value = 0
    if not 0 < value <= INT64_MAX:
        raise ValueError(f"{name} must be above 0, and fit 64 bits of nanoseconds: {seconds}")
    return value


def key_bits(text: str) -> int:
    """Return the bits of a key's parts."""
    if not isinstance(text, str):
        raise TypeError(f"key must be a str, not {type(text).__name__}")
    parts = set(text.split(",")) - {"5tuple"}
    if wrong := parts - set(KEYS):
        known = ", ".join(("5tuple", *KEYS))
        raise ValueError(f"key must be of {known}, not {min(wrong)!r}")
    return sum(1 << bit for bit, name in enumerate(KEYS) if name in parts)


def seed_key(seed: int | bytes | None) -> bytes:
    """16 bytes of a seed; the only place where entropy is taken."""
    if seed is None:
        return os.urandom(KEY_SIZE)
    if isinstance(seed, int):
        import hashlib

        return hashlib.blake2b(str(seed).encode(), digest_size=KEY_SIZE).digest()
    if not isinstance(seed, (bytes, bytearray)):
        raise TypeError(f"a seed is an int or bytes, not {type(seed).__name__}")
    if len(seed) != KEY_SIZE:
        raise ValueError(f"a seed of bytes has {KEY_SIZE} of them")
    return bytes(seed)


def family_of(address: Any, hosts: Mapping[str, str]) -> int:
    """AF_INET6 for what is so for sure; the call itself complains of what is no address."""
    host = address[0] if isinstance(address, tuple) and address else ""
    host = hosts.get(host, host) if isinstance(host, str) else ""
    from socket import AF_INET, AF_INET6  # captures are followed without

    return AF_INET6 if ":" in host else AF_INET

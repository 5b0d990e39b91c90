"""Expressions to what a call takes: numbers, bytes, lists, structures."""

from __future__ import annotations

import ipaddress
import struct
from typing import Any

from tcpcore.packetdrill.constants import CONSTANTS
from tcpcore.packetdrill.lexer import ScriptError
from tcpcore.packetdrill.script import REST, Call, Inverse, Listing, Name, Or, Struct, Text

LENGTH_MAX = 1 << 30  # bytes of one call


def constant(name: str) -> int:
    """A constant by its name.

    Raises
    ------
    ScriptError
        If nobody knows it.
    """
    value = CONSTANTS.get(name)
    if value is None:
        raise ScriptError(f"unknown constant {name}")
    return value


def number(value: Any, what: str = "argument") -> int:
    """A whole number.

    Raises
    ------
    ScriptError
        If it is none.
    """
    if isinstance(value, int):
        return value
    if isinstance(value, Name):
        return constant(value.name)
    if isinstance(value, Or):
        made = 0
        for term in value.terms:
            made |= number(term, what)
        return made
    if isinstance(value, Inverse):
        return ~number(value.term, what)
    if isinstance(value, Call) and value.name in ("htons", "ntohs"):
        return number(value.argument, what)
    if isinstance(value, Call) and value.name in ("htonl", "ntohl"):
        return number(value.argument, what)
    raise ScriptError(f"{what} must be a number")


def boxed(value: Any, what: str = "argument") -> int:
    """A number in brackets, or one without."""
    if isinstance(value, Listing):
        if len(value.items) != 1:
            raise ScriptError(f"{what} must be one number in brackets")
        value = value.items[0]
    return number(value, what)


def listing(value: Any, what: str) -> list[Any]:
    """A list's items; of `...` none."""
    if value is REST:
        return []
    if not isinstance(value, Listing):
        raise ScriptError(f"{what} must be a list")
    return list(value.items)


def structure(value: Any, what: str, *names: str) -> Struct:
    """A structure with certain fields."""
    if not isinstance(value, Struct):
        raise ScriptError(f"{what} must be a structure")
    missing = [name for name in names if name not in value.fields]
    if missing:
        raise ScriptError(f"{what} lacks {', '.join(missing)}")
    return value


def iovec(value: Any, count: Any) -> list[int]:
    """Sizes of the pieces of [{..., N}, ...]."""
    sizes = []
    for one in listing(value, "an iovec"):
        items = structure(one, "an iovec's piece").items
        if len(items) != 2:
            raise ScriptError("an iovec's piece is {..., LENGTH}")
        sizes.append(length(items[1]))
    if sum(sizes) > LENGTH_MAX:
        raise ScriptError(f"an iovec of {sum(sizes)} bytes")
    if count is not None and count is not REST and number(count) != len(sizes):
        raise ScriptError(f"an iovec of {len(sizes)} pieces says it has {number(count)}")
    return sizes


def length(value: Any) -> int:
    """A length in bytes; those that could not be kept are an error."""
    made = number(value, "a length")
    if not 0 <= made <= LENGTH_MAX:
        raise ScriptError(f"a length of {made} bytes")
    return made


def address(value: Any) -> tuple[str, int] | None:
    """(address, port) of a structure; None of AF_UNSPEC; REST stays for the caller to fill in."""
    if isinstance(value, Struct):
        found = structure(value, "an address", "sa_family")
        if number(found.fields["sa_family"]) == CONSTANTS["AF_UNSPEC"]:
            return None
        host = found.fields.get("sin_addr", found.fields.get("sin6_addr"))
        port = found.fields.get("sin_port", found.fields.get("sin6_port", 0))
        if not isinstance(host, Call) or not isinstance(host.argument, Text):
            raise ScriptError('an address is written inet_addr("1.2.3.4")')
        try:
            ipaddress.ip_address(host.argument.text)
        except ValueError as error:
            raise ScriptError(str(error)) from None
        return host.argument.text, number(port) & 0xFFFF
    if number(value) == CONSTANTS["AF_UNSPEC"]:
        return None
    raise ScriptError("expected an address")


def option_value(value: Any) -> bytes | None:
    """What setsockopt is given; None for a null pointer."""
    if isinstance(value, Text):
        return octets(value.text)
    if isinstance(value, Struct) and "onoff" in value.fields:
        found = structure(value, "linger", "onoff", "linger")
        on, seconds = (number(found.fields[name]) for name in ("onoff", "linger"))
        return struct.pack("=II", on & 0xFFFFFFFF, seconds & 0xFFFFFFFF)
    if isinstance(value, Name) and value.name == "NULL":
        return None
    if isinstance(value, Listing) and len(value.items) > 1:
        return b"".join(_int(number(item)) for item in value.items)
    return _int(boxed(value, "the option's value"))


def integer(value: Any, what: str = "argument") -> int:
    """A number as a call takes it for an int: its lowest 32 bits, with a sign."""
    return ((number(value, what) + (1 << 31)) & 0xFFFFFFFF) - (1 << 31)


def octets(text: str) -> bytes:
    """A string's bytes: a character of the script's file may be several."""
    if text.isascii():
        return text.encode()
    return b"".join(
        bytes([ord(one)]) if ord(one) < 256 else one.encode("utf-8", "surrogateescape")
        for one in text
    )


def _int(value: int) -> bytes:
    return (value & 0xFFFFFFFF).to_bytes(4, "little")


def errno_name(value: int) -> str:
    """A negative result's errno by its name."""
    import errno

    return errno.errorcode.get(-value, str(-value))

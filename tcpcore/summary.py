"""What an engine tells of a replay, as the object of ``--json``."""

from __future__ import annotations

from tcpcore import report
from tcpcore.columns import (
    ANALYSIS_NAMES,
    DROP_NAMES,
    LINKTYPES,
    SCHEMA_VERSION,
    STATE_NAMES,
    address_text,
)
from tcpcore.mib import COUNTERS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

    from tcpcore.pcap import Input, PcapError

OPTIONAL = {"filtered", "analysis", "checksum_offload", "streams_given_up"}
TOP = 10  # busiest connections, and hosts that offload checksums, named in a summary


def summary(
    found: dict[str, Any],
    files: list[dict[str, Any]],
    cpu_seconds: float,
    checksum: str,
    options: dict[str, Any],
    module: ModuleType,
) -> dict[str, Any]:
    """Everything at a glance, from what the engine `module` found; `files` by `entry`, `options`
    the engine's: what nobody asked for is not told."""
    asked = {"filtered"} if options["filter"] else set()
    asked |= {"streams_given_up"} if options["streams"] else set()
    asked |= {"analysis"} if options["analysis"] else set()
    asked |= {"checksum_offload"} if checksum != "ignore" else set()
    states = sorted(found["states"].items(), key=lambda item: (-item[1], item[0]))
    told = {
        "schema_version": SCHEMA_VERSION,
        "files": files,
        "packets": found["packets"],
        "bytes": found["bytes"],
        "tcp_segments": found["tcp_segments"],
        "connections": found["connections"],
        "first_ns": found["first_ns"],
        "last_ns": found["last_ns"],
        "cpu_seconds": cpu_seconds,
        "packets_per_second": found["packets"] / cpu_seconds if cpu_seconds else 0.0,
        "bits_per_second": 8 * found["bytes"] / cpu_seconds if cpu_seconds else 0.0,
        "states": {f"{STATE_NAMES[a]}/{STATE_NAMES[b]}": n for (a, b), n in states},
        "top": [_top(one) for one in found["top"]],
        "analysis": _analysis(found["analysis"]),
        "filtered": found["filtered"],
        "drop_reasons": {DROP_NAMES[d]: n for d, n in sorted(found["drops"].items())},
        "bad_ip_checksums": found["bad_ip_checksums"],
        "bad_tcp_checksums": sum(found["bad_tcp_checksums"]),
        "checksum_offload": _offload(checksum, found["offload"]),
        "evicted": found["evicted"],
        "streams_given_up": found["streams_given_up"],
        "counters": dict(zip(COUNTERS, found["counters"], strict=True)),
        "engine": module.ENGINE,
        "isa": module.isa(),
    }
    return {key: value for key, value in told.items() if key in asked or key not in OPTIONAL}


def entry(one: Input, capture: dict[str, Any] | None, error: PcapError | None) -> dict[str, Any]:
    """One file of the summary; `capture` is None for one that was never begun."""
    if capture is None:
        capture = {"format": one.format, "link_types": [], "packets": 0, "bytes": 0}
    text = None
    if error is not None:
        text = f"byte {error.offset}: {error.reason}" if capture["format"] else error.reason
    return {
        "path": one.name,
        "format": capture["format"],
        "link_types": [LINKTYPES.get(n, f"LINKTYPE_{n}") for n in capture["link_types"]],
        "packets": capture["packets"],
        "bytes": capture["bytes"],
        "first_ns": capture.get("first_ns"),
        "last_ns": capture.get("last_ns"),
        "error": text,
    }


def _analysis(found: dict[str, Any]) -> dict[str, Any]:
    """What the analysis says of all segments, and how initial RTTs are spread."""
    rtts = sorted(found["rtts"].items())
    count = sum(n for _, n in rtts)
    spread: dict[str, Any] = {"count": count}
    for name, share in (("min_ns", 0), ("median_ns", 50), ("p95_ns", 95), ("max_ns", 100)):
        spread[name] = _percentile(rtts, -(-count * share // 100)) if count else None
    return {
        **dict(zip(ANALYSIS_NAMES, found["classes"], strict=True)),
        "retrans_bytes": found["retrans_bytes"],
        "initial_rtt": spread,
    }


def _percentile(rtts: list[tuple[int, int]], rank: int) -> int:
    """The middle of the bucket that has the time of a rank; engines say what a bucket holds."""
    bucket = rtts[0][0]
    for bucket, count in rtts:  # noqa: B007
        rank -= count
        if rank <= 0:
            break
    if bucket < 16:
        return bucket
    shift = bucket // 8 - 1
    return ((2 * (bucket % 8 + 8) + 1) << shift) // 2


def _offload(mode: str, found: dict[str, Any]) -> dict[str, Any]:
    """What was found of checksum offload; the hosts with the most segments, at most `TOP`."""
    hosts: list[dict[str, Any]] = []
    for one in found["hosts"]:
        host = {"address": address_text(one["addr"], one["ip"])}
        host |= {name: one[name] for name in ("interface", "partial", "zero", "tso", "other")}
        hosts.append(host)
    hosts.sort(key=lambda one: -(one["partial"] + one["zero"] + one["tso"] + one["other"]))
    decided: dict[str, Any] = {"mode": mode, "hosts": hosts}
    decided |= {name: found[name] for name in ("explained", "learnt", "damaged")}
    decided["decision"] = report.offload(decided)
    return decided | {"hosts": hosts[:TOP]}


def _top(one: dict[str, Any]) -> dict[str, Any]:
    return {
        "conn": one["conn"],
        "a": address_text(one["a_addr"], one["ip"]),
        "a_port": one["a_port"],
        "b": address_text(one["b_addr"], one["ip"]),
        "b_port": one["b_port"],
        "packets": one["packets"],
        "frame_bytes": one["frame_bytes"],
        "payload_bytes": one["payload_bytes"],
        "state_a": STATE_NAMES[one["state_a"]],
        "state_b": STATE_NAMES[one["state_b"]],
        "first_ns": one["first_ns"],
        "last_ns": one["last_ns"],
        "duration_ns": one["last_ns"] - one["first_ns"],
    }

"""Checksum offload: what explains a wrong checksum, who is known to offload, what state takes."""

from __future__ import annotations

import io
import random
import struct
from types import ModuleType
from typing import Any

import capgen
import lockstep
import pytest
from capgen import ACK, PSH, SEC, SYN

import tcpcore
from tcpcore import report
from tcpcore.columns import DROP_NAMES
from tcpcore.reference.tcp import Drop

A, B = "10.0.0.1", "10.0.0.2"
A6, B6 = "2001:db8::1", "2001:db8::2"


def partial(saddr: str, daddr: str, length: int) -> int:
    """What a host leaves in the field: the pseudo header's sum, not complemented."""
    pseudo = capgen.address(saddr) + capgen.address(daddr) + struct.pack(">II", length, 6)
    return capgen.checksum(pseudo) ^ 0xFFFF


def told(engine: ModuleType, frames: list[bytes], **options: Any) -> dict[str, Any]:
    records = [(SEC + i, data) for i, data in enumerate(frames)]
    return lockstep.outcome(engine, [capgen.pcap(records, fmt="pcap-ns")], **options)


def reasons(outcome: dict[str, Any]) -> list[str]:
    return [DROP_NAMES[drop] for drop in outcome["packets"]["drop_reason"]]


def data_frame(saddr: str = A, daddr: str = B, number: int = 0, **fields: Any) -> bytes:
    payload = bytes((number,)) * 10
    fields = {"flags": PSH | ACK, "seq": 1000 + 10 * number, "ack": 1, "payload": payload} | fields
    return capgen.frame(saddr, daddr, **fields)


SIGNS = {
    "partial": data_frame(csum=partial(A, B, 30)),
    "partial without a length": data_frame(csum=partial(A, B, 0)),
    "partial of IPv6": data_frame(A6, B6, csum=partial(A6, B6, 30)),
    "zero": data_frame(csum=0),
    "zeros of IP and TCP": data_frame(csum=0, ip={"csum": 0}),
    "zero of IP": data_frame(ip={"csum": 0}),
    "no length of IP": data_frame(csum=0x1234, ip={"total": 0, "csum": 0x5678}),
    "no length of IPv6": data_frame(A6, B6, csum=0x1234, ip={"length": 0}),
}


@pytest.mark.parametrize("sign", SIGNS)
def test_a_sign_explains_its_segment(engine: ModuleType, sign: str) -> None:
    """From the first one on, whatever is known of the host; it is counted as bad all the same."""
    frame = SIGNS[sign]
    auto = told(engine, [frame], auto=True)
    assert reasons(auto) == ["SKB_NOT_DROPPED_YET"]
    offload = auto["summary"]["offload"]
    assert (offload["explained"], offload["learnt"], offload["damaged"]) == (1, 0, 0)
    strict, ignore = told(engine, [frame], strict=True), told(engine, [frame])
    assert reasons(strict) in (["TCP_CSUM"], ["IP_CSUM"])
    assert reasons(ignore) == ["SKB_NOT_DROPPED_YET"]
    for other in (strict, ignore):
        for name in ("bad_checksum_ab", "packets_ab", "flags_ab"):
            assert other["connections"][name] == auto["connections"][name]
        for name in ("bad_tcp_checksums", "bad_ip_checksums", "counters", "offload"):
            if name != "counters" or other is ignore:
                assert other["summary"][name] == auto["summary"][name]


def test_too_long_for_its_receiver(engine: ModuleType) -> None:
    """A segment that is longer than its receiver's MSS was never on the wire."""
    syn = capgen.frame(B, A, 80, 40000, flags=SYN, seq=0, options=capgen.mss(8))
    assert reasons(told(engine, [syn, data_frame(csum=7)], auto=True))[1] == "SKB_NOT_DROPPED_YET"
    syn = capgen.frame(B, A, 80, 40000, flags=SYN, seq=0, options=capgen.mss(10))
    assert reasons(told(engine, [syn, data_frame(csum=7)], auto=True))[1] == "TCP_CSUM"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [({"csum": 7}, "TCP_CSUM"), ({"ip": {"csum": 7}}, "IP_CSUM")],
)
def test_what_nothing_explains(engine: ModuleType, fields: dict[str, Any], reason: str) -> None:
    outcome = told(engine, [data_frame(**fields)] * 5, auto=True)
    assert reasons(outcome) == [reason] * 5
    assert outcome["summary"]["offload"]["damaged"] == 5
    assert outcome["summary"]["drops"] == {int(Drop[reason]): 5}


def test_a_host_is_learnt(engine: ModuleType) -> None:
    """After four that explain themselves a host's other segments are taken, and only its own."""
    signs = [data_frame(number=i, csum=0) for i in range(4)]
    wrong = data_frame(number=4, csum=7)
    assert reasons(told(engine, [*signs[:3], wrong], auto=True))[3] == "TCP_CSUM"
    outcome = told(engine, [*signs, wrong, data_frame(A6, B6, csum=7)], auto=True)
    assert reasons(outcome)[4:] == ["SKB_NOT_DROPPED_YET", "TCP_CSUM"]
    offload = outcome["summary"]["offload"]
    assert (offload["explained"], offload["learnt"], offload["damaged"]) == (4, 1, 1)
    known, other = offload["hosts"]
    assert (known["addr"], known["ip"]) == (capgen.address16(A), 4)
    assert (known["zero"], known["other"], other["other"]) == (4, 1, 1)


def test_a_host_is_learnt_by_interface(engine: ModuleType) -> None:
    """What leaves a host on one side may come damaged on another."""
    head = capgen.section() + 2 * capgen.interface(resolution=9)
    frames = [data_frame(number=i, csum=0 if i < 4 else 7) for i in range(5)]
    for number, reason in ((0, "SKB_NOT_DROPPED_YET"), (1, "TCP_CSUM")):
        blocks = [capgen.enhanced(i, data) for i, data in enumerate(frames[:4])]
        blocks.append(capgen.enhanced(9, frames[4], number=number))
        outcome = lockstep.outcome(engine, [head + b"".join(blocks)], auto=True)
        assert reasons(outcome)[4] == reason
        interfaces = [host["interface"] for host in outcome["summary"]["offload"]["hosts"]]
        assert interfaces == ([0] if number == 0 else [0, 1])


def test_hosts_are_bounded(reference: ModuleType, compiled: ModuleType) -> None:
    """Where there is no room for a host, signs still explain their segments."""
    frames = [data_frame(f"10.1.{i >> 8}.{i & 255}", csum=0) for i in range(1500)]
    frames += [data_frame("10.2.0.0", number=i, csum=0) for i in range(5)]
    frames.append(data_frame("10.2.0.0", number=5, csum=7))
    one = told(compiled, frames, auto=True)
    lockstep.assert_same(one, told(reference, frames, auto=True))
    offload = one["summary"]["offload"]
    assert len(offload["hosts"]) == 1024
    assert (offload["explained"], offload["damaged"]) == (1505, 1)


@pytest.mark.parametrize("seed", range(20))
def test_lockstep(reference: ModuleType, compiled: ModuleType, seed: int) -> None:
    rng = random.Random(seed)
    records = []
    for time_ns, data, wirelen in lockstep.traffic(seed):
        if len(data) > 54 and data[12:14] == b"\x08\x00" and data[23] == 6 and rng.random() < 0.6:
            length = int.from_bytes(data[16:18], "big") - 20
            at = 14 + 4 * (data[14] & 15) + 16
            pseudo = data[26:34] + struct.pack(">II", max(length, 0), 6)
            field = rng.choice((0, capgen.checksum(pseudo) ^ 0xFFFF, rng.randrange(1 << 16)))
            data = data[:at] + field.to_bytes(2, "big") + data[at + 2 :]
        records.append((time_ns, data, max(wirelen, len(data))))
    capture = [capgen.pcap(records, fmt="pcap-ns")]
    for options in ({"auto": True}, {"strict": True}, {}):
        one = lockstep.outcome(reference, capture, **options)
        lockstep.assert_same(one, lockstep.outcome(compiled, capture, **options))


def replay(frames: list[bytes], **options: Any) -> tcpcore.Replay:
    records = [(SEC + i, data) for i, data in enumerate(frames)]
    return tcpcore.replay(io.BytesIO(capgen.pcap(records)), **{"checksum": "auto"} | options)


def test_replay_decides_and_says_so() -> None:
    frames = [data_frame(number=i, csum=0) for i in range(3)] + [data_frame(B, A, csum=7)]
    found = replay(frames).summary["checksum_offload"]
    assert found == {
        "mode": "auto",
        "hosts": [
            {"address": A, "interface": 0, "partial": 0, "zero": 3, "tso": 0, "other": 0},
            {"address": B, "interface": 0, "partial": 0, "zero": 0, "tso": 0, "other": 1},
        ],
        "explained": 3,
        "learnt": 0,
        "damaged": 1,
        "decision": f"checksum auto: offload by {A} explains 3 of 4 (zeros); "
        "1 is really wrong: state did not take it (with --checksum ignore it does)",
    }
    assert found["decision"] in repr(replay(frames))
    assert "checksum_offload" not in replay(frames, checksum="ignore").summary
    strict = replay(frames, checksum="strict").summary["checksum_offload"]
    assert "which state did not take either" in strict["decision"]
    assert replay([data_frame()]).summary["checksum_offload"]["decision"] == ""
    many = [data_frame(f"10.9.0.{i}", csum=0) for i in range(12)]
    summary = replay(many).summary
    assert len(summary["checksum_offload"]["hosts"]) == 10
    assert "10.9.0.2 and 9 more explains 12" in summary["checksum_offload"]["decision"]
    with pytest.raises(ValueError, match="'auto', 'strict' or 'ignore'"):
        replay(frames, checksum="lax")


@pytest.mark.parametrize("fmt", ["pcap", "pcap-ns", "pcap-modified", "pcapng"])
def test_a_wire_length_below_the_captured_is_flagged(engine: ModuleType, fmt: str) -> None:
    """T-23: the captured length is taken for both, and the report says how often."""
    frames = [(SEC, data_frame(), 5), (SEC, data_frame()), (SEC, data_frame(), 0)]
    frames.append((SEC, data_frame(), 1000))
    capture = capgen.pcapng(frames) if fmt == "pcapng" else capgen.pcap(frames, fmt=fmt)
    options: dict[str, Any] = {"engine": engine.ENGINE, "packets": True}
    found = tcpcore.replay([io.BytesIO(capture), io.BytesIO(capture)], **options)
    assert found.packets["wirelen"].tolist() == [64, 64, 64, 1000] * 2
    (line,) = report.warnings(found.summary, found._details)
    assert line.startswith("4 packets shorter on the wire than as captured")

"""Our own packetdrill scripts, on the engine; TCPCORE_KERNEL=1 runs them on this machine's kernel.

On Linux 7.3 all of them pass at default tolerance.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from tcpcore import packetdrill

FOLDER = Path(__file__).parent / "packetdrill"
SCRIPTS = sorted(FOLDER.rglob("*.pkt"))
NAMES = [path.relative_to(FOLDER).with_suffix("").as_posix() for path in SCRIPTS]
ENGINES = ("reference", "compiled")
# What older kernels do otherwise, or where their distributors have other defaults.
NEWER_NAMES = """
    badargs/defaults info/delivery_rate info/meminfo info/sndbuf local/drop_ack local/drop_data
    nagle/eor_again mss/tiny mss/tiny_knob mss/link_mtu
    window/over_waiting window/over_empty window/over_joined window/joined_mss
    window/shrinks_allowed window/no_memory window/behind_edge window/rcvbuf_small
    window/rcvbuf_scaled window/rcvbuf_max window/rmem_least window/rmem_larger
    window/beyond_bare window/clamp window/rcvbuf_late_least window/rcvbuf_late_more
    window/peer_small window/autotuned window/autotuned_holes window/joined_odd
    slow_start/app_limited slow_start/after_idle_off recovery/four_sacks
    slow_start/min_tso_segs slow_start/min_tso_segs_1 slow_start/tso_win_divisor
    recovery/dsack_delivered recovery/reordering_raises
    recovery/all_but_first recovery/old_blocks recovery/parts recovery/reneging
    recovery/not_agreed recovery/no_moderation recovery/after_timeout blocking/notsent
    blocking/notsent_knob blocking/epoll_out_edge blocking/write_lowat rto/synack_max
    ack/compressed_anew ack/compressed_lesser ack/compressed_percent ack/compressed_read
    ack/compressed_share ack/compressed_window
    ecn/active_4 ecn/active_5 ecn/echo ecn/echo_bare ecn/echo_end ecn/no_undo ecn/undo
    ecn/retransmitted recovery/prr_spreads recovery/prr_catches_up
    rack/lost_again rack/recovery_off rack/reo_timeout rack/reordered rack/two_holes
    errqueue/opt_stats window/rcvbuf_closed recovery/undo_late recovery/undo_late_more
    accecn/mode_active accecn/mode_passive accecn/mode_none accecn/mode_refused
"""
NEWER = dict.fromkeys(NEWER_NAMES.split(), (7, 0))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("path", SCRIPTS, ids=NAMES)
def test_engine(path: Path, engine: str) -> None:
    result = packetdrill.run(path, engine=engine)
    assert result.passed, result.report()


@pytest.mark.skipif(not os.environ.get("TCPCORE_KERNEL"), reason="TCPCORE_KERNEL is not set")
@pytest.mark.parametrize(("path", "name"), list(zip(SCRIPTS, NAMES, strict=True)), ids=NAMES)
def test_kernel(path: Path, name: str) -> None:
    release = tuple(int(part) for part in platform.release().split(".")[:2])
    if release < NEWER.get(name, (0, 0)):
        pytest.skip("needs a newer kernel")
    result = packetdrill.run(path, target="kernel")
    if result.kind == "skipped":
        pytest.skip(str(result.error))
    if not result.passed and str(result.error).startswith("time of"):  # the machine is busy
        result = packetdrill.run(path, target="kernel", options={"tolerance_usecs": 40000})
    assert result.passed, result.report()


def test_there_are_enough() -> None:
    assert len(SCRIPTS) >= 150
    areas = {path.parent.name for path in SCRIPTS}
    assert areas >= {
        "accept", "ack", "badargs", "blocking", "close", "errqueue", "handshake", "icmp",
        "keepalive", "nagle", "reset", "rto", "syncookies", "timestamps", "urgent", "window",
        "zero_window",
    }  # fmt: skip
    for path in SCRIPTS:
        assert path.read_text().lstrip().startswith("//"), f"{path.name} does not say what it shows"

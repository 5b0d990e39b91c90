"""Which test shows which requirement: docs/rfc-coverage.md, made of the ids that tests name.

`python tests/rfc_coverage.py > docs/rfc-coverage.md`. A test or packet script names in its
docstring what it shows: `9293:MUST-8, SHLD-1; RFC 6528; T-10`.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

TESTS = Path(__file__).parent
ROWS = TESTS / "data" / "rfc9293.txt"
ROW = re.compile(r"\b(?:MUST|SHLD|MAY|REC)-\d+\b")
RFCS = re.compile(r"\bRFC (\d{3,4}[^;:]*)")  # RFC 5681 3.2, 6582
RFC = re.compile(r"(?<![\d.])\d{3,4}(?![\d.])")
THREAT = re.compile(r"\bT-\d\d\b")
PASSIVE = re.compile(  # files of the other mode, which name threats and RFCs of theirs
    "analysis|arrow|captures|cli|columns|compression|conflicts|conntrack|cut|filter|follow|"
    "fragments|fuzz|libpcap|lockstep|offload|pcap|pcap_writer|replay|report|streams|synack|tables|"
    "tcb|threats|tunnels|where"
)

# Rows of RFC 9293 that no test shows, with the reason.
WAIVED = {
    "MUST-51": "source routes are filtered on today's networks; none can be asked for, and packets "
    "that carry one are dropped",
    "MUST-52": "with MUST-51",
    "MUST-53": "with MUST-51",
    "SHLD-24": "with MUST-51",
    "MAY-10": "the IP Timestamp option is passed over, not filled in",
    "MAY-11": "Record Route is passed over, not filled in",
    "SHLD-6": "a stack has one MTU; that of a path is told by its routers",
    "SHLD-13": "a word to applications: socket.md gives it",
    "SHLD-23": "a word to applications: socket.md gives it",
    "MAY-6": "a keep-alive of ours carries no octet, as Linux's",
    "MAY-9": "the received DSCP is not told",
    "MAY-14": "there is no FLUSH call",
    "MAY-17": "PSH is not told to the reader of a stream; a replay tells it",
}
# Rows that Linux's default deviates from, and what restores them.
DEVIATING = {
    "MUST-13": "TIME-WAIT lasts 60 s, as in Linux (TCP_TIMEWAIT_LEN), not 4 minutes; no sysctl",
    "MUST-23": "a SYN is tried for 2 minutes; `tcp_syn_retries` = 7 makes it more than 3",
    "MUST-56": "an attempt to connect ends for every ICMP error, an open connection for none; no "
    "sysctl",
    "MUST-8": "the clock of initial numbers ticks every 64 ns, as Linux's; no sysctl",
    "MUST-11": "a RST that ends a crossing SYN's attempt reads ECONNRESET, as in Linux; no sysctl",
    "SHLD-26": "hard errors end attempts alone (RFC 5927 advises so); IP_RECVERR tells of them",
}
# RFCs of a good endpoint beside 9293: what they are about, and why not where no test names one.
CORE = {
    "1071": "the checksum",
    "791": "IPv4 and its fragments",
    "8200": "IPv6 and its fragments",
    "5722": "fragments that overlap",
    "6864": "the identifier of a packet that is whole",
    "1122": "hosts: what is malformed is dropped",
    "5681": "congestion control",
    "6298": "the retransmission timeout",
    "6582": "NewReno",
    "2018": "selective acknowledgments",
    "2883": "D-SACK",
    "6675": "recovery by SACK",
    "3042": "limited transmit",
    "7323": "window scale, time stamps, PAWS",
    "6928": "the initial window",
    "9438": "CUBIC",
    "8985": "RACK-TLP",
    "9937": "PRR",
    "5961": "blind attacks",
    "6528": "initial sequence numbers",
    "6056": "ports that cannot be guessed",
    "4987": "SYN floods",
    "1191": "path MTU, IPv4",
    "8201": "path MTU, IPv6",
    "5927": "ICMP attacks",
    "6633": "Source Quench",
    "3168": "ECN",
    "3360": "resets for reserved bits",
    "1337": "TIME-WAIT assassination",
    "6191": "reuse of TIME-WAIT",
    "6994": "experimental options",
}
LATER = {
    "8985": "marking by time, its window and timer; tail loss probes",
    "9937": "`tests/packetdrill/recovery/prr_spreads.pkt`, `prr_catches_up.pkt`",
    "3168": "`tests/packetdrill/ecn/*.pkt`",
    "2883": "learned from by `tests/packetdrill/recovery/undo_dsack*.pkt`, `tlp_dsack*.pkt`",
    "6633": "9293:MUST-55",
    "3360": "the state x segment matrix has reserved bits among its flags",
    "6994": "9293:MUST-6: options that nobody knows are skipped, these among them",
    "5722": "the endpoint takes fragments by the code that a replay does: `test_fragments`",
    "8200": "the endpoint takes packets by the code that a replay does: `test_ip_input`",
    "791": "the endpoint takes packets by the code that a replay does: `test_ip_input`",
}
ENDPOINT_THREATS = {
    "T-01": "SYN floods",
    "T-02": "floods of keys that collide",
    "T-03": "SACK Panic: counts, queues that are cut to pieces",
    "T-04": "a tiny MSS",
    "T-05": "the challenge ACK as a side channel",
    "T-08": "blind resets, SYNs, data",
    "T-09": "ACKs that are divided, repeated, optimistic",
    "T-10": "sequence numbers that can be guessed",
    "T-11": "ports that can be guessed, and what tells of them",
    "T-12": "urgent pointers (URGENT/11)",
    "T-26": "connections that are held: shut windows, orphans",
    "T-27": "reflection and amplification",
    "T-28": "old duplicates, TIME-WAIT assassination",
    "T-29": "numbers that go round",
    "T-31": "threads, callbacks, sockets nobody closed",
}


def rows() -> dict[str, tuple[str, str]]:
    """Of each of RFC 9293's requirements its section and what it says."""
    found = {}
    for line in ROWS.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            row, section, words = line.split(" | ", 2)
            found[row] = section, words
    return found


def named() -> dict[str, list[str]]:
    """Who names a row, an RFC or a threat: tests as `file::function`, scripts by their file."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(TESTS.glob("*.py")):
        short = path.stem.removeprefix("test_")
        if PASSIVE.fullmatch(short) or not path.stem.startswith(("test_", "scripts_")):
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.FunctionDef):
                continue
            text = ast.get_docstring(node) or ""
            ids = set(ROW.findall(text)) if "9293:" in text else set()
            ids |= set(THREAT.findall(text))
            ids |= {rfc for words in RFCS.findall(text) for rfc in RFC.findall(words)}
            for one in ids:
                found[one].append(f"`{path.stem}::{node.name}`")
    # The matrix of states and segments makes its scripts by a loop.
    for rfc in ("9293", "5961"):
        found[rfc].append("`scripts_states::matrix_*`")
    return found


def state_of(row: str, shown: dict[str, list[str]]) -> tuple[str, str]:
    """(passed, deviates or waived; why or where)."""
    where = " ".join(shown.get(row, ()))
    if row in WAIVED:
        return "waived", WAIVED[row]
    if row in DEVIATING:
        return "deviates", f"{DEVIATING[row]}: {where}"
    return ("passed", where) if where else ("", "")


def page() -> str:
    """docs/rfc-coverage.md."""
    shown = named()
    states = {row: state_of(row, shown) for row in rows()}
    count = dict.fromkeys(("passed", "deviates", "waived"), 0)
    for word, _ in states.values():
        count[word] += 1
    lines = [
        "# Requirements and their tests",
        "",
        "Made of the ids that tests name, by `python tests/rfc_coverage.py`;"
        " `tests/test_rfc_coverage.py` holds it to them.",
        "A name of the kind `scripts_open::syn_options` is a packet script: it runs on both engines"
        " (`tests/test_endpoint_scripts.py`),",
        "and what it has to give is what Linux 7.3 gave (`tests/data/linux.txt`).",
        "",
        "## RFC 9293",
        "",
        f"Of {len(states)} requirements {count['passed']} are passed, {count['deviates']} deviate"
        f" as Linux's default does, and {count['waived']} are waived.",
        "",
        "| row | section | what must be true | state | shown by, or why |",
        "|---|---|---|---|---|",
    ]
    for row, (section, words) in rows().items():
        state, why = states[row]
        lines.append(f"| {row} | {section} | {words} | {state} | {why} |")
    lines += ["", "## Other RFCs", "", "| RFC | about | shown by, or why not |", "|---|---|---|"]
    for rfc, about in sorted(CORE.items(), key=lambda one: int(one[0])):
        why = " ".join(filter(None, (LATER.get(rfc, ""), *shown.get(rfc, ()))))
        lines.append(f"| {rfc} | {about} | {why} |")
    lines += ["", "## Threats to an endpoint", "", "| threat | shown by |", "|---|---|"]
    for threat, about in ENDPOINT_THREATS.items():
        lines.append(f"| {threat} {about} | {' '.join(shown.get(threat, ()))} |")
    lines += ["", "Those to who looks at captures: [hostile.md](hostile.md).", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    print(page(), end="")

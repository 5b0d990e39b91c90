"""The report of a replay, for people: text for a terminal, HTML for a notebook."""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

FILES_SHOWN = 8
STATES_SHOWN = 12

_FORMATS = {"pcap-ns": "pcap (ns)", "pcap-modified": "pcap (modified)", "": "no capture"}

_WHY = {
    "LINKTYPE_UNKNOWN": "link type not known",
    "PKT_TOO_SMALL": "a header is cut",
    "UNHANDLED_PROTO": "not IP",
    "IP_NOPROTO": "IP, but not TCP",
    "IP_INHDR": "IP header is wrong",
    "IPV6_BAD_EXTHDR": "IPv6 extension header is wrong",
    "IP_FRAGMENT": "part of a datagram in fragments",
    "ENCAP_DEPTH": "too many headers in each other",
    "ENCAP_MPLS": "MPLS: no packet in it",
    "ENCAP_PPPOE": "PPPoE: no session's frame",
    "ENCAP_LLC": "LLC: no packet in it",
    "ENCAP_GRE": "GRE: no packet in it",
    "ENCAP_ERSPAN": "ERSPAN: header is wrong",
    "ENCAP_IPIP": "IP in IP: no packet in it",
    "ENCAP_IP6": "IPv6 in IP: no packet in it",
    "ENCAP_VXLAN": "VXLAN: header is wrong",
    "ENCAP_GENEVE": "GENEVE: header is wrong",
    "ENCAP_GTPU": "GTP-U: no packet in it",
    "ENCAP_TEREDO": "Teredo: no packet in it",
    "IP_CSUM": "IP header checksum is bad",
    "TCP_CSUM": "TCP checksum is bad",
    "TCP_BAD_DOFF": "TCP data offset below 5",
    "TCP_RFC7323_PAWS": "time stamp too old (PAWS)",
    "TCP_OLD_DATA": "received before",
    "TCP_OVERWINDOW": "beyond the window",
    "TCP_TOO_OLD_ACK": "acknowledges too little",
    "TCP_ACK_UNSENT_DATA": "acknowledges what was not sent",
    "TCP_INVALID_SYN": "SYN inside a connection",
    "TCP_INVALID_ACK": "acknowledges another SYN",
    "TCP_INVALID_RST": "RST outside the window",
    "TCP_CLOSED": "connection is closed",
    "TCP_FLAGS": "neither SYN, RST nor ACK",
}


_CLASSES = {
    "retransmission": "sent again, of every kind",
    "fast_retransmission": "after duplicate ACKs",
    "spurious_retransmission": "had been acknowledged",
    "out_of_order": "late, but too soon to be sent again",
    "lost_segment": "something before it was not seen",
    "ack_lost_segment": "acknowledges what was not seen",
    "duplicate_ack": "repeats an ACK: something is missing",
    "keep_alive": "asks whether the other end is there",
    "keep_alive_ack": "answers that",
    "zero_window": "its sender cannot take more",
    "zero_window_probe": "asks whether it can again",
    "zero_window_probe_ack": "it cannot",
    "window_full": "fills the receiver's window",
    "window_update": "its sender can take more",
    "reused_ports": "a new connection on known ports",
}


def endpoint(host: str, port: int) -> str:
    """An address and a port: 10.0.0.1:80, [2001:db8::1]:80."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def printable(text: str) -> str:
    """Text with nothing in it that a terminal obeys."""
    if text.isprintable():
        return text
    return "".join(
        c
        if c.isprintable()
        else f"\\x{ord(c) & 0xFF:02x}"
        if ord(c) < 256 or 0xDC80 <= ord(c) <= 0xDCFF
        else f"\\u{ord(c):04x}"
        for c in text
    )


def size(count: int) -> str:
    """Bytes in units of 1000."""
    if count < 1000:
        return f"{count} B"
    value = float(count)
    for unit in ("kB", "MB", "GB", "TB", "PB"):
        value /= 1000
        if value < 999.95:
            return f"{value:.1f} {unit}"
    return f"{value:,.1f} PB"


def duration(ns: int) -> str:
    """A span of time, to about four digits."""
    if ns < 1000:
        return f"{ns} ns"
    if ns < 999_950:
        return f"{ns / 1e3:.1f} us"
    if ns < 999_950_000:
        return f"{ns / 1e6:.1f} ms"
    seconds = (ns + 500_000_000) // 1_000_000_000
    if seconds < 100:
        return f"{ns / 1e9:.2f} s"
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days:,} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def moment(ns: int) -> str:
    """A time, to the microsecond, in UTC."""
    seconds, rest = divmod(ns, 1_000_000_000)
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds)) + f".{rest // 1000:06d}"


def speed(per_second: float, unit: str) -> str:
    """A rate with a prefix that leaves one to three digits before the point."""
    prefixes = ["", "k", "M", "G", "T"]
    while per_second >= 999.5 and len(prefixes) > 1:
        per_second /= 1000
        del prefixes[0]
    return f"{per_second:.3g} {prefixes[0]} {unit}".replace("  ", " ")


def warnings(summary: dict[str, Any], details: dict[str, Any]) -> list[str]:
    """What the user should know, a line each."""
    lines = []
    bad_ip = summary["bad_ip_checksums"]
    bad = []
    if summary["bad_tcp_checksums"]:
        ab, ba = details["bad_tcp_checksums"]
        both = _plural(ab + ba, "bad TCP checksum")
        bad.append(f"{both} ({ab:,} from a to b, {ba:,} from b to a)")
    if bad_ip:
        bad.append(_plural(bad_ip, "bad IP header checksum"))
    if bad:
        decided = summary.get("checksum_offload", {}).get("decision") or (
            "usually the network card of the machine that captured fills in checksums after the "
            "tap (offload; --checksum auto tells)"
        )
        lines.append(f"{' and '.join(bad)}: {decided}")
    if details["time_clamped"]:
        lines.append(
            f"{_plural(details['time_clamped'], 'time')} outside 64 bits of nanoseconds: "
            "the nearest that fits is taken"
        )
    if details["repaired"]:
        lines.append(
            f"{_plural(details['repaired'], 'packet')} shorter on the wire than as captured: "
            "the captured length is taken for both"
        )
    return lines


def offload(found: dict[str, Any]) -> str:
    """Say in one line what was decided of wrong checksums, and why; empty if there are none.

    Parameters
    ----------
    found
        `summary['checksum_offload']`, with all hosts.
    """
    explained, learnt, damaged = found["explained"], found["learnt"], found["damaged"]
    if not explained + learnt + damaged:
        return ""
    parts = []
    if explained + learnt:
        hosts = [one for one in found["hosts"] if one["partial"] + one["zero"] + one["tso"]]
        senders = ", ".join(one["address"] for one in hosts[:3])
        if len(hosts) > 3:
            senders += f" and {len(hosts) - 3:,} more"
        signs = {
            "partial": "sums of the pseudo header alone",
            "zero": "zeros",
            "tso": "segments too long for the wire",
        }
        seen = [words for name, words in signs.items() if any(one[name] for one in hosts)]
        parts.append(
            f"offload by {senders} explains {explained + learnt:,} of "
            f"{explained + learnt + damaged:,} ({', '.join(seen)})"
        )
        if found["mode"] == "strict":
            parts[-1] += ", which state did not take either"
    if damaged:
        taken = "took" if found["mode"] == "ignore" else "did not take"
        what = "is really wrong" if damaged == 1 else "are really wrong"
        parts.append(f"{damaged:,} {what}: state {taken} {'it' if damaged == 1 else 'them'}")
        if found["mode"] == "auto":
            parts[-1] += " (with --checksum ignore it does)"
    return f"checksum {found['mode']}: {'; '.join(parts)}"


class _Style:
    """What the output can show."""

    def __init__(self, color: bool, unicode: bool) -> None:
        self.color = color
        self.bar = "█" if unicode else "#"
        self.cut = "…" if unicode else "~"

    def bold(self, text: str) -> str:
        return f"\x1b[1m{text}\x1b[0m" if self.color else text

    def red(self, text: str) -> str:
        return f"\x1b[31m{text}\x1b[0m" if self.color else text


def text(
    summary: dict[str, Any],
    details: dict[str, Any],
    *,
    width: int = 0,
    color: bool = False,
    unicode: bool = False,
) -> str:
    """Write the whole report.

    Parameters
    ----------
    summary, details
        `Replay.summary`, and what goes with it.
    width
        Columns of the terminal; 0: as wide as it comes.
    color, unicode
        What the terminal can show.
    """
    style = _Style(color, unicode)
    parts = [_facts_text(summary, details, style), _states_text(summary, style)]
    if summary["top"]:
        parts.append(_top_text(summary["top"], width, style))
    if rows := _analysis_rows(summary):
        parts.append([style.bold("Analysis"), *_aligned(rows, ">><<", width, style)])
    if summary["drop_reasons"]:
        rows = [[f"{n:,}", name, _WHY.get(name, "")] for name, n in _most(summary["drop_reasons"])]
        parts.append([style.bold("Dropped"), *_aligned(rows, "><<", width, style)])
    counters = [[f"{n:,}", name] for name, n in summary["counters"].items() if n]
    if counters:
        parts.append([style.bold("Counters"), *_columns(_aligned(counters, "><", 0, style), width)])
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def short(summary: dict[str, Any], details: dict[str, Any]) -> str:
    """Write the few lines that a prompt shows."""
    style = _Style(False, False)
    facts = _facts_text(summary, details, style)
    return "\n".join(["<tcpcore.Replay>", *facts, *_states_text(summary, style)])


def html(summary: dict[str, Any], details: dict[str, Any]) -> str:
    """Write the report as HTML, for a notebook."""
    from html import escape

    def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
        top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
        )
        return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"

    facts = "".join(
        f"<tr><th style='text-align:left;vertical-align:top'>{escape(label)}</th>"
        f"<td style='text-align:left'>{'<br>'.join(escape(line) for line in lines)}</td></tr>"
        for label, lines in _facts(summary, details)
    )
    parts = [f"<table>{facts}</table>"]
    if summary["states"]:
        rows = [[name, f"{n:,}"] for name, n in _most(summary["states"])[:STATES_SHOWN]]
        parts.append(table(["state a/b", "connections"], rows))
    if summary["top"]:
        parts.append(table(_TOP_HEAD, [_top_row(one) for one in summary["top"]]))
    if rows := _analysis_rows(summary):
        parts.append(table(["segments", "", "analysis", "what it is"], rows))
    if summary["drop_reasons"]:
        rows = [[name, f"{n:,}", _WHY.get(name, "")] for name, n in _most(summary["drop_reasons"])]
        parts.append(table(["dropped", "frames", "why"], rows))
    return f"<div>{''.join(parts)}</div>"


def _most(counts: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: -item[1])


def _span(one: dict[str, Any]) -> str:
    if one["first_ns"] is None:
        return ""
    took = duration(one["last_ns"] - one["first_ns"])
    return f"{moment(one['first_ns'])} UTC, {took}"


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _plural(count: int, word: str) -> str:
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"


def _facts(summary: dict[str, Any], details: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """The report's first part: label, lines."""
    facts: list[tuple[str, list[str]]] = []
    files = summary["files"]
    for one, compression in list(zip(files, details["compression"], strict=False))[:FILES_SHOWN]:
        lines = [printable(one["path"])]
        if one["format"]:
            kind = _FORMATS.get(one["format"], one["format"])
            lines.append(_joined(kind, compression, " + ".join(one["link_types"])))
            amount = _joined(_plural(one["packets"], "packet"), size(one["bytes"]))
            lines.append(_joined(amount, _span(one)))
        if one["error"]:
            lines.append("! " + printable(one["error"]))
        facts.append(("File", lines))
    if len(files) > FILES_SHOWN:
        rest = files[FILES_SHOWN:]
        bad = sum(one["error"] is not None for one in rest)
        lines = [f"and {_plural(len(rest), 'more file')}"]
        if bad:
            lines.append(f"! {bad:,} of them damaged or missing")
        facts.append(("", lines))
    if len(files) > 1:
        amount = _joined(_plural(summary["packets"], "packet"), size(summary["bytes"]))
        facts.append(("All", [_joined(amount, _span(summary))]))
    tcp = [
        f"{_plural(summary['tcp_segments'], 'segment')} in "
        f"{_plural(summary['connections'], 'connection')}"
    ]
    spread = summary.get("analysis", {}).get("initial_rtt", {})
    if spread.get("count"):
        times = [duration(spread[name]) for name in ("min_ns", "median_ns", "p95_ns", "max_ns")]
        tcp.append(
            f"initial RTT {times[0]} to {times[3]}, median {times[1]}, 95th percentile {times[2]}"
        )
    if summary.get("filtered"):
        tcp.append(f"{_plural(summary['filtered'], 'packet')} not wanted by the filter")
    if summary["evicted"]:
        tcp.append(f"{_plural(summary['evicted'], 'connection')} given up to bound memory")
    if details["expired"]:
        tcp.append(f"{_plural(details['expired'], 'connection')} expired")
    facts.append(("TCP", tcp))
    if summary.get("checksum_offload", {}).get("decision"):
        tcp.append(summary["checksum_offload"]["decision"])
    rate = _joined(
        speed(summary["packets_per_second"], "packets/s"),
        f"{summary['bits_per_second'] / 1e9:.3g} Gbit/s",
    )
    facts.append(("Speed", [f"{rate} ({duration(int(summary['cpu_seconds'] * 1e9))} of CPU)"]))
    facts.append(("Engine", [f"{summary['engine']}, {summary['isa']}"]))
    if details["interrupted"]:
        facts.append(("Note", ["! interrupted: this is the report so far"]))
    return facts


def _facts_text(summary: dict[str, Any], details: dict[str, Any], style: _Style) -> list[str]:
    lines = []
    for label, values in _facts(summary, details):
        for i, value in enumerate(values):
            head = style.bold(f"{label:<8}") if i == 0 else " " * 8
            if value.startswith("! "):
                value = style.red(value[2:])
            lines.append(head + value)
    return lines


def _states_text(summary: dict[str, Any], style: _Style) -> list[str]:
    """Connections by state, with bars; a long tail is one line."""
    states = _most(summary["states"])
    if not states:
        return []
    rest = sum(n for _, n in states[STATES_SHOWN:])
    if rest:
        states = [*states[:STATES_SHOWN], ("others", rest)]
    total = sum(n for _, n in states)
    most = max(n for _, n in states)
    rows = [
        [f"{n:,}", f"{100 * n / total:.1f}%", name, style.bar * max(1, 20 * n // most)]
        for name, n in states
    ]
    return [style.bold("Connections by state (a/b)"), *_aligned(rows, ">><<", 0, style)]


def _analysis_rows(summary: dict[str, Any]) -> list[list[str]]:
    """Classes that there are: segments, their share, name, meaning."""
    rows = []
    for name, meaning in _CLASSES.items():
        if count := summary.get("analysis", {}).get(name):
            share = f"{100 * count / summary['tcp_segments']:.2f}%"
            if name == "retransmission":
                meaning += f"; {size(summary['analysis']['retrans_bytes'])}"
            rows.append([f"{count:,}", share, name, meaning])
    return rows


_TOP_HEAD = ["conn", "a", "b", "packets", "bytes", "payload", "duration", "state a/b"]


def _top_row(one: dict[str, Any]) -> list[str]:
    return [
        f"{one['conn']}",
        endpoint(one["a"], one["a_port"]),
        endpoint(one["b"], one["b_port"]),
        f"{one['packets']:,}",
        size(one["frame_bytes"]),
        size(one["payload_bytes"]),
        duration(one["duration_ns"]),
        f"{one['state_a']}/{one['state_b']}",
    ]


def _top_text(top: list[dict[str, Any]], width: int, style: _Style) -> list[str]:
    """The busiest connections; a narrow terminal loses the columns that tell least."""
    rows = [_TOP_HEAD, *(_top_row(one) for one in top)]
    align = "><<>>>><"
    for column in ("duration", "payload", "conn", "state a/b"):
        if not width or max(map(len, _aligned(rows, align, 0, style))) <= width:
            break
        at = rows[0].index(column)
        rows = [row[:at] + row[at + 1 :] for row in rows]
        align = align[:at] + align[at + 1 :]
    over = max(map(len, _aligned(rows, align, 0, style))) - width if width else 0
    if over > 0:  # IPv6: the numbers stay, and the ports
        at = rows[0].index("a")
        one, other = (max(len(row[i]) for row in rows) for i in (at, at + 1))
        room = max(one + other - over, 24)
        first = max(room // 2, room - other)
        for row in rows:
            row[at] = _squeezed(row[at], first, style)
            row[at + 1] = _squeezed(row[at + 1], room - min(first, one), style)
    return [style.bold("Busiest connections"), *_aligned(rows, align, width, style)]


def _squeezed(text: str, room: int, style: _Style) -> str:
    """Text with its middle left out, if it is longer than `room`."""
    if len(text) <= room:
        return text
    tail = min(room * 2 // 3, 12)
    return text[: room - tail - 1] + style.cut + text[-tail:]


def _aligned(rows: list[list[str]], align: str, width: int, style: _Style) -> list[str]:
    """Lines of cells in columns, indented by two, cut at `width` unless that is 0."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(w) if side == ">" else cell.ljust(w)
            for cell, w, side in zip(row, widths, align, strict=True)
        ]
        line = ("  " + "  ".join(cells)).rstrip()
        if width and len(line) > width:
            line = line[: max(width - 1, 1)] + style.cut
        lines.append(line)
    return lines


def _columns(lines: list[str], width: int) -> list[str]:
    """Put short lines side by side, down first, as far as `width` (80 if 0) goes."""
    widest = max(map(len, lines))
    across = max((width or 80) // (widest + 2), 1)
    down = -(-len(lines) // across)
    return ["  ".join(line.ljust(widest) for line in lines[i::down]).rstrip() for i in range(down)]

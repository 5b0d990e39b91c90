"""packetdrill: the language, its matching rules, results, and the command."""

from __future__ import annotations

import json
import os
import random
import re
from pathlib import Path

import pytest
from test_house import LAYERS, PACKAGE, imports, modules

import tcpcore
from tcpcore import cli, packetdrill
from tcpcore.packetdrill import ScriptError
from tcpcore.packetdrill.lexer import tokens
from tcpcore.packetdrill.parser import parse
from tcpcore.packetdrill.script import REST, Code, Command, SystemCall, TcpPacket
from tcpcore.packetdrill.target import Result

pytest_plugins = ["pytester"]

# Files of the package import lower layers only, and of tcpcore what lies below it.
PACKETDRILL_LAYERS = {
    name: layer
    for layer, names in {
        7: "__init__ command",
        6: "session",
        5: "runner host kernel",
        4: "syscalls files shell kernel_calls icmp code match",
        3: "parser values polling",
        2: "packet_parser flow options target",
        1: "packet lexer",
        0: "script constants descriptors",
    }.items()
    for name in names.split()
}
SERVER = """
0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3
+0 bind(3, ..., ...) = 0
+0 listen(3, 1) = 0
+0 < S 700:700(0) win 20000 <mss 1000,sackOK,nop,nop>
+0 > S. 0:0(0) ack 701 <mss 1460,nop,nop,sackOK>
+.02 < . 1:1(0) ack 1 win 20000
+0 accept(3, ..., ...) = 4
"""


def run(text: str, engine: str = "reference", **options: object) -> Result:
    return packetdrill.run("here.pkt", text=text, engine=engine, **options)  # type: ignore[arg-type]


def why(text: str, **options: object) -> str:
    """How a script ends: its kind, line and error."""
    result = run(text, **options)
    return f"{result.kind} {result.line} {result.error}"


@pytest.mark.parametrize("name", modules(PACKAGE / "packetdrill", ".py"))
def test_layer(name: str) -> None:
    assert name in PACKETDRILL_LAYERS, f"give packetdrill/{name}.py a layer"
    found = {n for n in imports(PACKAGE / "packetdrill" / f"{name}.py") if n.startswith("tcpcore")}
    inside = {n.split(".")[2] for n in found if n.startswith("tcpcore.packetdrill.")}
    level = {n for n in inside if PACKETDRILL_LAYERS[n] >= PACKETDRILL_LAYERS[name]}
    assert not level, f"packetdrill/{name}.py imports its own layer or a higher one"
    outside = {n.partition(".")[2] for n in found if "packetdrill" not in n} - {""}
    assert all(LAYERS[other] < LAYERS["packetdrill"] for other in outside)


# The language.


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("0...0.5", "integer ellipsis float"),
        ("+.1...0.3", "char float ellipsis float"),
        ("S. S.5 .5 .", "word char word float float char"),
        ("1:1001(1000)", "integer char integer char integer char"),
        ("9f00c2 0x1F90 -1 -", "word hex integer char"),
        ("*<>~|", "char char char char char"),
        ('"a\\"b" `x // y` %{ a }b% }%', "string shell code"),
        ("1.2.3.4 fe80::1 ::", "ipv4 ipv6 ipv6"),
        ("a // b\n c /* d \n e */ f", "word word word"),
        ("// the end", ""),
        ("00112233", "integer"),
    ],
)
def test_tokens(text: str, kinds: str) -> None:
    found = list(tokens(text, 0, {}))
    assert [one.kind for one in found] == [*kinds.split(), "end"]


def test_definitions() -> None:
    defines = {"A": "7", "B": '"x"', "C": "`ls`", "D": "word"}
    found = list(tokens("A B C D E", 0, defines))
    assert [(one.kind, one.text) for one in found[:5]] == [
        ("integer", "7"), ("string", "x"), ("shell", "ls"), ("word", "word"), ("word", "E")
    ]  # fmt: skip


def test_a_script() -> None:
    script, config = parse(
        "// first\n--tolerance_usecs=9000 // why\n--define=X=5\n--remote_ip=192.0.2.7\n"
        "`one\ntwo`\n 0 `cmd`\n+.25 read(3, ..., X) = -1 EAGAIN (flags and words | more)\n"
        '0.3...0.5 f(1|A, [2, {...,3}], "a" "b") = 0x10 (a note)\n'
        "1~2 > [ect01] .5 1:11(10) ack 4 <...>\n"
        "+.1~+.2 > - 0:0(0) <nop, nop, sack 1:2 3:4>\n"
        "* > P. 0:0(0) <FO,nop,nop,FO 00112233,nop,nop>\n"
        "%{\nx = 1\n}% `end`\n".replace("%{", "3 %{")
    )
    assert config.tolerance_usecs == 9000
    assert config.remote_ip == "192.0.2.7"
    assert script.cleanup is not None
    assert (script.init, script.cleanup.action) == ("one\ntwo", Command("end"))
    actions = [event.action for event in script.events]
    assert isinstance(actions[0], Command)
    call = actions[1]
    assert isinstance(call, SystemCall)
    assert (call.name, call.arguments, call.result, call.errno) == (
        "read",
        (3, REST, 5),
        -1,
        "EAGAIN",
    )
    times = [(e.time.kind, e.time.start_us, e.time.end_us, e.time.blocking) for e in script.events]
    assert times[2] == ("absolute", 300000, 500000, True)
    assert times[3] == ("absolute", 1000000, 2000000, False)
    assert times[4] == ("relative", 100000, 200000, False)
    assert times[5][0] == "any"
    line = actions[3]
    assert isinstance(line, TcpPacket)
    assert (line.ecn, line.ace, line.flags, line.options) == ("ect01", 5, 16 | 5 << 6, None)
    assert actions[4].options[2].values == (1, 2, 3, 4)  # type: ignore[union-attr,index]
    assert [o.blob for o in actions[5].options if o.name == "FO"] == [b"", b"\0\x11\x22\x33"]  # type: ignore[union-attr]
    assert isinstance(actions[6], Code)
    assert [event.line for event in script.events] == [7, 8, 9, 10, 11, 12, 13]


@pytest.mark.parametrize(
    ("text", "line", "column", "words"),
    [
        ("", 1, 1, "expected an event"),
        ("1 f() = 0", 1, 1, "at time 0"),
        ("0 f() = 0\n+0 < S 0:0(0)", 2, 14, "'win'"),
        ("0 f() = 0\n\n  1~2 f() = 0", 3, 3, "range of times is for outbound"),
        ("0 > S 1:5(3)", 1, 7, "is not 3 bytes"),
        ("0 > S 0:0(0) <mss 9,nop>", 1, 14, "multiple of 4"),
        ("0 > S 0:0(0) <bogus>", 1, 15, "TCP option"),
        ("0 > X 0:0(0)", 1, 5, "TCP flags"),
        ("0 > E.5 0:0(0)", 1, 5, "ACE digit"),
        ("0 < S 0:0(0) win 5 <...>", 1, 21, "outbound"),
        ("-1 f() = 0", 1, 1, "not negative"),
        ('0 f("x) = 0', 1, 5, "string without an end"),
        ("0 `x", 1, 3, "command without an end"),
        ("0 %{ x", 1, 3, "snippet without an end"),
        ("--bogus=1\n0 f() = 0", 1, 1, "unknown option"),
        ("\n--mtu\n0 f() = 0", 2, 1, "needs a value"),
        ("0 f() = 0 `a` 1 f() = 0", 1, 15, "after the cleanup"),
        ("0 > icmp nonsense", 1, 10, "no ICMP type"),
        ("2~1 > . 0:0(0)", 1, 1, "before its start"),
        ("0 * f() = 0", 1, 3, "expected a packet"),
        ("0 f() = 0\n* f() = 0", 2, 1, "outbound"),
        ("0 f(" + "[" * 99, 1, 37, "too deep"),
        ("0 f() = 0 \x01", 1, 11, "unexpected character"),
    ],
)
def test_errors_have_a_place(text: str, line: int, column: int, words: str) -> None:
    with pytest.raises(ScriptError, match=re.escape(words)) as caught:
        parse(text)
    assert (caught.value.line, caught.value.column) == (line, column)


def test_what_is_skipped() -> None:
    assert why("--ip_version=ipv6\n--local_ip=fd00::1\n0 f() = 0") == "skipped None IPv6"
    assert why("--psp_udp_port=1000\n0 > anything at all") == "skipped None PSP"
    assert run("--ip_version=ipv6\n0 f() = 0", dry_run=True).passed


def test_command_line_options_win() -> None:
    _, config = parse("--mtu=1400\n0 f() = 0", given=[("mtu", "900"), ("D", "A=1")])
    assert config.mtu == 900
    assert config.defines["A"] == "1"
    with pytest.raises(ValueError, match="unknown option"):
        parse("0 f() = 0", given=[("nothing", None)])


# Matching.


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("+0 > . 1:1(0) ack 11", ""),
        ("+0 > . 1:1(0) ack 12", "acknowledgment number: expected 12, sent 11"),
        ("+0 > . 2:2(0) ack 11", "sequence number: expected 2, sent 1"),
        ("+0 > P. 1:1(0) ack 11", "PSH: expected 1, sent 0"),
        ("+0 > E. 1:1(0) ack 11", "ECE: expected 1, sent 0"),
        ("+0 > .1 1:1(0) ack 11", "ACE: expected 1, sent 0"),
        ("+0 > . 1:1(0) ack 11 win 5", "window: expected 5"),
        ("+0 > . 1:1(0) ack 11 urg 5", "urgent pointer: expected 5, sent 0"),
        ("+0 > . 1:1(0) ack 11 <nop,nop,sackOK>", "length of options: expected 4, sent 0"),
        ("+0 > . 1:101(100) ack 11", "payload length: expected 100, sent 0"),
        ("+0 > [ect0] . 1:1(0) ack 11", "ECN: expected ect0, sent 0"),
        ("+0 > (tos 0x10) . 1:1(0) ack 11", "TOS: expected 0x10, sent 0x0"),
        ("+.1 > . 1:1(0) ack 11", "time of the packet: expected 0.120000, was 0.020000"),
        ("+0 > . 1:1(0) ack 11 <...>", ""),
        ("* > . 1:1(0) ack 11", ""),
    ],
)
def test_checks(line: str, words: str) -> None:
    result = run(SERVER + f"+0 < P. 1:11(10) ack 1 win 20000\n{line}\n")
    if not words:
        assert result.passed, result.report()
        return
    assert result.kind == "fail"
    assert result.line == 10
    assert words in str(result.error)
    assert result.details[0].startswith("script packet: ")
    assert result.details[1].startswith("actual packet: ")
    assert "last packets:" in result.details


def test_no_packet_comes() -> None:
    assert why(SERVER + "+0 > . 1:1(0) ack 1\n") == "fail 9 no packet came by 0.024000"
    assert why(SERVER + "* > . 1:1(0) ack 1\n") == "fail 9 no packet came"


def test_bursts_are_merged_and_strict_segments_are_not() -> None:
    rest = "+0 write(4, ..., 3000) = 3000\n+0 > P. 1:3001(3000) ack 1\n"
    assert run(SERVER + rest).passed
    off = "+0 `ethtool -K tun0 tso off`\n"
    assert run(SERVER + off + rest).passed
    failed = run("--strict_segments\n" + SERVER + off + rest)
    assert "payload length: expected 3000, sent 1000" in str(failed.error)


def test_timestamps() -> None:
    text = """--tcp_ts_tick_usecs=1000
    0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3
    +0 bind(3, ..., ...) = 0
    +0 listen(3, 1) = 0
    +0 < S 0:0(0) win 20000 <mss 1000,sackOK,TS val 70 ecr 0>
    +0 > S. 0:0(0) ack 1 <mss 1460,sackOK,TS val 100 ecr 99999>
    +.1 < . 1:1(0) ack 1 win 20000 <nop,nop,TS val 170 ecr 100>
    +0 accept(3, ..., ...) = 4
    +0 write(4, ..., 10) = 10
    """
    ok = "+0 > P. 1:11(10) ack 1 <nop,nop,TS val 200 ecr 170>\n"
    assert run(text + ok).passed, run(text + ok).report()
    wrong = run(text + ok.replace("200", "230"))
    assert "TS val: expected 230, sent 200, tolerance 12" in str(wrong.error)
    echo = "+0 < . 1:1(0) ack 1 win 20000 <nop,nop,TS val 171 ecr 5>\n"
    assert "TS ecr 5: no outbound packet" in str(run(text + echo).error)
    assert run("--tcp_ts_ecr_scaled\n" + text + echo).passed


def test_options_at_the_top() -> None:
    """Each does what packetdrill's does; those without effect are taken."""
    assert run("--send_omit_free\n--is_anyip\n--ip_version=ipv4\n" + SERVER).passed
    assert run("--ip_version=ipv4-mapped-ipv6 // a note\n" + SERVER).passed
    assert why("--ip_version=ipv6\n" + SERVER) == "skipped None IPv6"
    assert why("--ip_version=4\n" + SERVER).startswith("parse 1 --ip_version must be")
    here = "--local_ip=10.1.0.7\n--remote_ip=10.2.0.9\n--netmask_ip=255.0.0.0\n" + SERVER
    assert run(here).passed
    result = run(here, packets=True)
    ends = {packet[12:16] for _, packet in result.packets}
    assert ends == {bytes((10, 1, 0, 7)), bytes((10, 2, 0, 9))}


def test_tolerance() -> None:
    late = SERVER + "+.01 write(4, ..., 10) = 10\n+.004 > P. 1:11(10) ack 1\n"
    assert run(late).passed
    exact = {"tolerance_usecs": 3999, "tolerance_percent": 0}
    options = [f"{name}={value}" for name, value in exact.items()]
    assert "tolerance 0.003999" in why(late, options=options)
    assert "tolerance 0.003000" in why("--tolerance_usecs=3000\n--tolerance_percent=0\n" + late)
    percent = late.replace("+.004", "+.040").replace("write", "write")
    assert "tolerance 0.005000" in why(percent)  # an eighth of 40 ms


def test_aggregated_segments() -> None:
    """--mss: one segment of a card's making; its pieces are what the peer's segments hold."""
    rest = "+0 < P. 1:3001(3000) ack 1 win 500\n+0 > . 1:1(0) ack 3001\n"
    rest += "+0 %{ print((tcpi_rcv_mss, tcpi_data_segs_in)); assert tcpi_rcv_mss == SIZE }%\n"
    assert run("--mss=1000\n" + SERVER + rest.replace("SIZE", "1000")).passed
    assert run(SERVER + rest.replace("SIZE", "1460")).passed
    assert run("--mss=4000\n" + SERVER + rest.replace("SIZE", "1460")).passed


# Calls and time.


def test_calls_that_block() -> None:
    assert run(SERVER + "+0...0.5 read(4, ..., 10) = 5\n0.5 < P. 1:6(5) ack 1 win 500\n").passed
    assert why(
        SERVER + "+0...0.4 read(4, ..., 10) = 5\n0.5 < P. 1:6(5) ack 1 win 500\n"
    ).startswith("fail 9 time of the return: expected 0.420000, was 0.500000")
    assert "the call blocks" in why(SERVER + "+0 read(4, ..., 10) = 5\n")
    assert "does not return" in why(SERVER + "+0...0.1 read(4, ..., 10) = 5\n")
    assert why(SERVER + "+0...0.5 read(4, ..., 10) = 6\n0.5 < P. 1:6(5) ack 1 win 500\n") == (
        "fail 9 read: expected 6, returned 5"
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("read(4, ..., 5) = -1 EAGAIN (Resource)", ""),
        ("read(4, ..., 5) = -1 EWOULDBLOCK", ""),
        ("read(4, ..., 5) = -1", ""),
        ("read(4, ..., 5) = 5", "read: expected 5, returned -1 EAGAIN"),
        ("read(4, ..., 5) = -1 EPIPE", "expected -1 EPIPE, returned -1 EAGAIN"),
        ("read(9, ..., 5) = -1 EBADF", ""),
        ("write(4, ..., 5) = -1 EPIPE", "expected -1 EPIPE, returned 5"),
        ("fcntl(4, F_GETFL) = 0x802 (flags O_RDWR|O_NONBLOCK)", ""),
        ("getsockopt(4, SOL_SOCKET, SO_TYPE, [1], [4]) = 0", ""),
        ("getsockopt(4, SOL_SOCKET, SO_TYPE, [2], [4]) = 0", "expected [2], got [1]"),
        ('getsockopt(4, SOL_TCP, TCP_CONGESTION, "cubic"..., [16]) = 0', ""),
        ("setsockopt(4, SOL_SOCKET, SO_LINGER, {onoff=1, linger=0}, 8) = 0", ""),
        ("setsockopt(4, SOL_TCP, TCP_NODELAY, [1], 1) = -1 EINVAL", ""),
        ("setsockopt(4, SOL_TCP, 9999, [1], 4) = -1 ENOPROTOOPT", ""),
        ("ioctl(4, SIOCINQ, [0]) = 0", ""),
        ("ioctl(4, SIOCINQ, [1]) = 0", "ioctl: expected [1], got [0]"),
        ("poll([{fd=4, events=POLLIN|POLLOUT, revents=POLLOUT}], 1, 0) = 1", ""),
        ("poll([{fd=4, events=POLLIN}], 1, 0) = 0", ""),
        ("poll([{fd=4, events=POLLOUT}], 1, 0) = 1", "revents of 4: expected 0, got POLLOUT"),
        ("recvmsg(4, {msg_name(...)=..., msg_iov(1)=[{..., 9}], msg_flags=0}, 0) = -1 EAGAIN", ""),
        ("nothing(4) = 0", "unknown system call nothing"),
        ("read(4) = 0", "read does not take these arguments"),
        ("read(4, ..., BOGUS) = 0", "unknown constant BOGUS"),
        ("shutdown(4, SHUT_WR) = 0", ""),
    ],
)
def test_calls(call: str, words: str) -> None:
    nonblock = "+0 fcntl(4, F_SETFL, O_RDWR|O_NONBLOCK) = 0\n"
    result = run(SERVER + nonblock + f"+0 {call}\n")
    if words:
        assert words in str(result.error)
        assert result.line == 10
    else:
        assert result.passed, result.report()


def test_epoll() -> None:
    text = (
        SERVER
        + """
    +0 epoll_create(1) = 5
    +0 epoll_ctl(5, EPOLL_CTL_ADD, 4, {events=EPOLLIN|EPOLLET, fd=4}) = 0
    +0 epoll_ctl(5, EPOLL_CTL_ADD, 4, {events=EPOLLIN|EPOLLET, fd=4}) = -1 EEXIST
    +0 epoll_wait(5, {events=0, ptr=0}, 1, 0) = 0
    +0...+.1 epoll_wait(5, {events=EPOLLIN, fd=4}, 1, 500) = 1
    +.1 < P. 1:11(10) ack 1 win 5000
    +0 > . 1:1(0) ack 11
    +0 epoll_wait(5, {events=0, ptr=0}, 1, 0) = 0
    +0 < P. 11:21(10) ack 1 win 5000
    +0 epoll_wait(5, {events=EPOLLIN, fd=4}, 1, 0) = 1
    +0 epoll_wait(5, {events=0, ptr=0}, 1, 50) = 0
    """
    )
    result = run(text)
    assert result.passed, result.report()


def test_non_fatal() -> None:
    result = run(
        "--non_fatal=syscall,packet\n" + SERVER + "+0 write(4, ..., 5) = 6\n+0 > P. 1:6(5) ack 9\n"
    )
    assert result.passed
    assert result.warnings == [
        "10: write: expected 6, returned 5",
        "11: packet differs in acknowledgment number: expected 9, sent 1",
    ]


# Snippets and commands.


def test_snippets() -> None:
    text = (
        SERVER + "+0 %{ seen = tcpi_state }%\n+0 %{\n    assert seen == TCP_ESTABLISHED\n    }%\n"
    )
    assert run(text).passed
    bad = run(text + "+0 %{\nx = 1\nassert tcpi_snd_cwnd == 99, tcpi_snd_cwnd\n}%\n")
    assert (bad.kind, bad.line) == ("fail", 13)
    assert bad.error == "snippet: line 15: AssertionError: 10"
    assert bad.details[0] == "    assert tcpi_snd_cwnd == 99, tcpi_snd_cwnd"
    assert why(text, code=False) == "unsupported 9 Python snippets are refused"
    assert why("0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3\n+0 %{ 1/0 }%").startswith(
        "fail 2 snippet"
    )


@pytest.mark.parametrize(
    ("command", "passes"),
    [
        ("sysctl -q net.ipv4.tcp_sack=0 && sysctl -qw net/ipv4/tcp_rmem='4096 9000 99000'", True),
        ("sysctl -n net.ipv4.tcp_sack | grep -q 1", True),
        ("nstat -n; nstat | grep TcpExtTCPChallengeACK | grep -q ' 1 '", False),
        ("false || true", True),
        ("echo 1 > /dev/null; grep -q 0A /proc/net/tcp", False),
        ("sysctl -w net.ipv4.tcp_syn_retries=1000", False),
        ("tc qdisc replace dev tun0 root pfifo; ip tcp_metrics flush all > /dev/null 2>&1", True),
        ("./set_sysctls.py /proc/sys/net/ipv4/tcp_sack=0 # comment", True),
        ("/tmp/sysctl_restore_${PPID}.sh", True),
        ("ip route change 192.0.2.1 dev tun0 mtu lock 900 advmss 800 rto_min 40ms", True),
        ("ip route change 192.0.2.1 dev tun0 advmss", False),
        ("ip route change 192.0.2.1 dev tun0 advmss 5ms", False),
        ("ip link set dev tun0 mtu 60", False),
        ("ip link set dev tun0 mtu 9000", True),
        ("grep -q '^Tcp: ActiveOpens' /proc/net/snmp && cat /proc/net/netstat > /dev/null", True),
        ("nstat -z | grep -q '^TcpExtSyncookiesSent  *0  *0.0$'", True),
        ("ethtool -K tun0 tso off gso off gro off lro off", True),
        ("dd bs=1 count=x of=/tmp/f", False),
        ("exit 3", False),
        ("exit 256", True),
        ("true && exit 1; true", False),
        ("false || exit 0; false", True),
        ("grep -q 1 < /proc/sys/net/ipv4/tcp_sack && grep 1 /proc/sys/net/ipv4/tcp_sack", True),
        ("sysctl -q net.ipv4.tcp_nosuchknob=1", False),
        ("sysctl -q net.ipv4.tcp_nosuchknob", False),
        ("sysctl -eq net.ipv4.tcp_nosuchknob=1", True),
        ("echo 1 > /proc/sys/net/ipv4/tcp_mem", True),
        ("ss -tln | grep 8080", False),
        ("ip route get 192.0.2.1 | grep -q tun0", False),
    ],
)  # fmt: skip
def test_commands(command: str, passes: bool) -> None:
    assert run(f"`../common/defaults.sh`\n0 `{command}`\n").passed is passes


def test_what_is_unsupported_is_told_apart() -> None:
    assert why("0 `frobnicate`") == "unsupported 1 not supported: the command frobnicate"
    text = "0 `sysctl -q net.ipv4.tcp_ecn=3`\n" + SERVER.replace("\n0 ", "\n+0 ")
    assert run(text).passed
    failed = run(text + "+0 > . 1:1(0)\n")
    assert failed.kind == "unsupported"
    assert "tcp_ecn = 3" in str(failed.error)


@pytest.mark.parametrize(
    ("event", "where"),
    [
        ("+0 < . 1:1(0) ack 1\n+0 f() = 0", (9, 20)),
        ("+0 f()\n+0 f() = 0", (9, 7)),
        ("+0 > S. 0:0(0) ack 1 <mss 1000\n", (9, 31)),
        ("+0 f() = 0\n+0 f()", (10, 7)),
        ("+0 f() = 0\nnothing", (10, 1)),
    ],
)
def test_what_is_missing_is_told_where_it_is_missing(event: str, where: tuple[int, int]) -> None:
    result = run(SERVER + event)
    assert (result.kind, result.line, result.column) == ("parse", *where)


def test_errors_of_a_run_have_a_column() -> None:
    result = run(SERVER.replace("+.02", " .02") + ".01 close(4) = 0\n")
    assert result.kind == "parse"
    assert (result.line, result.column, result.error) == (9, 1, "time goes backwards")


def test_listening_sockets_are_told() -> None:
    told = "0100A8C0:1F90 00000000:0000 0A"
    assert run(SERVER + f"+0 `grep -q '{told} ' /proc/net/tcp`").passed
    assert run(SERVER + "+0 `grep -c ' 0100A8C0:1F90 010200C0:.* 01 ' /proc/net/tcp`").passed


def test_the_cleanup_command_runs_in_any_case() -> None:
    assert why("0 f() = 0 `false`").startswith("parse 1 unknown system call")
    assert "fail 1 the command's exit status is 1" in why("0 `true` `false`")


# The command.


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad, six = (tmp_path / name for name in ("a.pkt", "b.pkt", "c.pkt"))
    good.write_text(SERVER + "+0 %{ print(1) }%\n")
    bad.write_text(SERVER + "+0 > . 1:1(0)\n")
    six.write_text("--ip_version=ipv6\n" + SERVER)
    arguments = ["packetdrill", "--engine=reference", "--json"]
    assert cli.main([*arguments, str(good)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told.pop("wall_seconds") > 0
    assert told == {
        "script": str(good), "target": "tcpcore", "engine": "reference", "result": "pass",
        "line": None, "error": None, "virtual_seconds": 0.02,
    }  # fmt: skip
    assert cli.main([*arguments, str(good), str(six)]) == 4
    assert cli.main([*arguments, str(tmp_path)]) == 1
    assert cli.main([*arguments, "-j2", str(tmp_path)]) == 1
    results = [json.loads(line)["result"] for line in capsys.readouterr().out.splitlines()]
    assert results[-3:] == ["pass", "fail", "skipped"]
    assert cli.main([*arguments, "--no-code", str(good)]) == 3
    bad.write_text("0 what")
    assert cli.main([*arguments, str(tmp_path)]) == 2
    assert cli.main([*arguments, "--dry-run", str(good), str(six)]) == 0
    capsys.readouterr()
    assert cli.main(["packetdrill", "--engine=reference", "-v", str(good)]) == 0
    assert "0.000000 < S 700:700(0) win 20000" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["packetdrill", "--nothing=1", str(good)])


def test_options_and_capture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "a.pkt", tmp_path / "out.pcapng"
    path.write_text(SERVER.replace("mss 1460", "mss 1360"))
    arguments = ["packetdrill", "--engine=reference", "--pcap", str(out), "--mtu=1400"]
    assert cli.main([*arguments, str(path)]) == 0, capsys.readouterr().out
    assert len(tcpcore.replay(out, engine="reference").connections) == 1


def test_the_kernel_passes_too(tmp_path: Path) -> None:
    if os.geteuid() if hasattr(os, "geteuid") else True:
        pytest.skip("needs root")
    result = packetdrill.run(
        tmp_path / "a.pkt", text=SERVER, target="kernel", options={"tolerance_usecs": 500000}
    )
    if result.kind == "skipped":
        pytest.skip(str(result.error))
    assert result.passed, result.report()
    assert result.target == "kernel"


def test_pytest_collects_scripts(pytester: pytest.Pytester) -> None:
    pytester.makefile(
        ".pkt", good=SERVER, bad=SERVER + "+0 > . 1:1(0)\n", six="--ip_version=ipv6\n0 f() = 0"
    )
    arguments = "-p", "tcpcore.pytest_plugin", "--packetdrill-engine=reference"
    result = pytester.runpytest(*arguments)
    result.assert_outcomes(passed=1, failed=1, skipped=1)
    result.stdout.fnmatch_lines(["*bad.pkt:8: no packet came by 0.024000"])


def test_examples_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Path(__file__).parents[1].joinpath("docs", "packetdrill.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```(\w*)\n(.*?)```", page, re.DOTALL)
    script = next(text for _, text in blocks if "accept(3" in text)
    Path(tmp_path, "script.pkt").write_text(script)
    monkeypatch.chdir(tmp_path)
    for text in (text for kind, text in blocks if kind == "python"):
        exec(text, {})
    for text in (text for kind, text in blocks if kind == "sh"):
        for line in text.splitlines():
            words = line.split("#")[0].split()
            if words[-1] == "script.pkt" and "kernel" not in words:
                assert cli.main(words[1:]) == 0


# Whatever a script holds, it ends, and with an answer.

WORDS = re.compile(r"\s+|\w+|.", re.DOTALL)
LIMITS = ["0", "-1", "65535", "4294967295", "2147483648", str(2**63), str(-(2**63)), str(2**64 - 1)]
ODD = [*LIMITS, "...", "*", "`", '"', "%{", "(", "[", "NULL", "~", "/*", "9" * 5000, "\0", "é", "€"]


def test_mutated_scripts() -> None:
    folder = Path(__file__).parent / "packetdrill"
    texts = [path.read_text() for path in sorted(folder.rglob("*.pkt"))]
    rng = random.Random(1)
    kinds = set()
    for _ in range(600):
        words = WORDS.findall(rng.choice(texts))
        numbers = [i for i, word in enumerate(words) if word.isdigit()]
        for _ in range(rng.choice((1, 1, 2, 4))):
            if rng.random() < 0.7:
                words[rng.choice(numbers)] = rng.choice(LIMITS)
            elif rng.random() < 0.5:
                words[rng.randrange(len(words))] = rng.choice(words)
            else:
                words[rng.randrange(len(words))] = rng.choice(ODD)
        result = run("".join(words), code=False)
        assert result.kind != "internal", (result.error, "".join(words))
        kinds.add(result.kind)
    assert kinds >= {"pass", "fail", "parse", "unsupported"}


@pytest.mark.parametrize(
    "option",
    ["--netmask_ip=x", "--local_ip=1.2.3", "--remote_ip=fd00::1", "--mtu=x", "--mtu=-1", "--mtu=",
     "--verbose=7", "--tolerance_percent=x", "--ip_version=5", "--define=1"],
)  # fmt: skip
def test_bad_options(option: str) -> None:
    assert run(f"{option}\n0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3").kind == "parse"


def test_a_missing_script(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["packetdrill", "--json", "/nowhere.pkt"]) == 2
    told = json.loads(capsys.readouterr().out)
    assert told["result"] == "fail"
    assert told["error"] == "No such file or directory"

"""A shell small enough for scripts: the commands that set up a host, acted out on one in memory.

Statements end at newlines, `;`, `&&`, `||`; a pipe hands text on; quotes, comments, $PPID and
$((arithmetic)) are understood.
"""

from __future__ import annotations

import ast
import operator
import os
import re
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

from tcpcore.packetdrill.constants import BASELINE
from tcpcore.packetdrill.lexer import WORDS_MAX
from tcpcore.packetdrill.target import Failure, Overtime, Unsupported, alarm
from tcpcore.sysctl import KNOBS

if TYPE_CHECKING:
    from tcpcore.packetdrill.host import HostTarget

# Linux's defaults of knobs that the engine has not: another value is passed over, and noted.
DEFAULTS = {
    "tcp_ecn_option": "2", "tcp_fack": "0",
    "tcp_pacing_ss_ratio": "200", "tcp_pacing_ca_ratio": "120", "tcp_mtu_probing": "0",
    "tcp_thin_linear_timeouts": "0", "tcp_retrans_collapse": "1", "tcp_no_metrics_save": "0",
    "tcp_min_rtt_wlen": "300",
    "tcp_fastopen": "1", "tcp_fastopen_key": "", "tcp_fastopen_blackhole_timeout_sec": "0",
    "tcp_plb_enabled": "0", "tcp_app_win": "31", "tcp_reflect_tos": "0",
    "tcp_migrate_req": "0", "tcp_ecn_option_beacon": "3", "tcp_probe_interval": "600",
}  # fmt: skip
# Of these no value matters to what the engine does.
HARMLESS = {
    "tcp_fack", "tcp_ecn_option", "tcp_pacing_ss_ratio",
    "tcp_pacing_ca_ratio", "tcp_fastopen_key", "tcp_fastopen_blackhole_timeout_sec",
    "tcp_no_metrics_save", "tcp_ecn_option_beacon", "tcp_fastopen",
}  # fmt: skip
# Linux has these, too.
OTHERS = """
    allowed_congestion_control available_congestion_control available_ulp backlog_ack_defer
    child_ehash_entries early_demux ehash_entries fwmark_accept l3mdev_accept low_latency mem
    mtu_probe_floor no_ssthresh_metrics_save pingpong_thresh plb_cong_thresh plb_idle_rehash_rounds
    plb_rehash_rounds plb_suspend_rto_sec probe_threshold rcvbuf_low_rtt tso_rtt_log tw_reuse_delay
"""
KNOWN = {f"tcp_{name}" for name in OTHERS.split()}
METRICS = ("mtu", "advmss", "initcwnd", "initrwnd", "quickack", "rto_min")
PROC_NET_REST = "00000000:00000000 00:00000000 00000000     0        0 1 1 0000000000000000"
COMMAND_WORDS_MAX = 1000  # words of one command
SPLIT = re.compile(
    r"""(?P<blank>[ \t]+|\\\n)|(?P<comment>\#[^\n]*)|(?P<op>\n|;|&&|\|\||\||2>&1|\d?>>?|&>|<)"""
    r"""|(?P<word>(?:"[^"\\]*(?:\\.[^"\\]*)*"|'[^']*'|\\.|\$\(\([^)]*\)\)|\$|[^\s;|&<>"'\\$]+)+)""",
    re.DOTALL,
)
Command = tuple[list[str], str | None, str | None]  # words, where its input is, its output goes


class Shell:
    """What a script's commands change and ask of a host.

    Attributes
    ----------
    paths : dict
        Sizes of files of zeros, by their paths.
    """

    def __init__(self, host: HostTarget) -> None:
        self.host = host
        self.knobs = dict(DEFAULTS)
        self.kept: dict[str, str] = {}
        self.paths: dict[str, int] = {}
        self.base: dict[str, int] = {}
        self.qdisc = ""

    def run(self, text: str) -> int:
        """Run a text; its exit status.

        Raises
        ------
        Unsupported
            At a command that is not known.
        """
        status = 0
        try:
            with alarm():
                for joint, pipeline in statements(text):
                    if (joint == "&&" and status) or (joint == "||" and not status):
                        continue
                    if pipeline[0][0][0] == "exit":
                        return self.exit_status(pipeline[0][0], status)
                    output = ""
                    for words, source, target in pipeline:
                        if source is not None:
                            output = self.read(source)
                        status, output = self.command(words, output)
                        if target is not None:
                            self.write(target, output)
                            output = ""
        except Overtime as error:
            raise Failure(f"the command has {error}: {text.strip()[:200]}") from None
        return status

    def exit_status(self, words: list[str], status: int) -> int:
        """What `exit` ends the shell with."""
        if not words[1:]:
            return status
        return int(words[1]) & 0xFF if words[1].isdecimal() and len(words[1]) < 10 else 2

    def command(self, words: list[str], text: str) -> tuple[int, str]:
        """One command: its status and its output."""
        name = os.path.basename(words[0])
        if name.startswith("sysctl_restore_"):
            name = "restore"
        call: Callable[[list[str], str], tuple[int, str] | int] | None = COMMANDS.get(name)
        if call is None:
            raise Unsupported(f"the command {name}")
        made = call.__get__(self)(words[1:], text)
        return (made, "") if isinstance(made, int) else made

    def read(self, path: str) -> str:
        """What a file says."""
        if path.startswith("/proc/net/"):
            return self.proc_net(path)
        if path.startswith("/proc/sys/") and self.has_knob(path):
            return self.knob(path) + "\n"
        if path == "/dev/null":
            return ""
        raise Unsupported(path)

    def write(self, path: str, text: str) -> None:
        """Output to a file."""
        if path.startswith("/proc/sys/"):
            self.set_knob(path.removeprefix("/proc/sys/"), text.strip())
        elif path.startswith("/sys/"):
            self.host.note(f"{path} = {text.strip()}")
        elif path != "/dev/null":
            self.paths[path] = len(text)

    # Knobs.

    def knob(self, name: str) -> str:
        """A knob's value as text."""
        name = re.split(r"[./]", name)[-1]
        if name in KNOBS:
            value = self.host.sysctl[name]
            return "\t".join(map(str, value)) if isinstance(value, tuple) else str(value)
        return self.knobs.get(name, "")

    def has_knob(self, name: str) -> bool:
        """Whether Linux has a knob; of TCP's own all names are known."""
        name = re.split(r"[./]", name)[-1]
        known = name in KNOBS or name in DEFAULTS or name in HARMLESS or name in KNOWN
        return known or not name.startswith("tcp_")

    def set_knob(self, path: str, text: str) -> int:
        """Set a knob; 0, or 1 if that cannot be."""
        name = re.split(r"[./]", path)[-1]
        if not self.has_knob(name):
            return 1
        words = text.replace(",", " ").split()
        knob = KNOBS.get(name)
        if knob is None:
            if name not in HARMLESS and text != DEFAULTS.get(name, "?"):
                self.host.note(f"{name} = {text}")
            self.knobs[name] = text
            return 0
        if not words:
            return 1
        if name == "tcp_ecn" and text not in ("0", "1", "2"):
            self.host.note(f"{name} = {text}")  # AccECN
        try:
            if isinstance(knob.default, str):
                self.host.set_sysctl(name, words[0])
            elif isinstance(knob.default, tuple):
                numbers = [int(word, 0) for word in words]
                kept = self.host.sysctl[name][len(numbers) :]
                self.host.set_sysctl(name, (*numbers, *kept))
            else:
                self.host.set_sysctl(name, int(words[0], 0))
        except (TypeError, ValueError):
            if isinstance(knob.default, str):
                self.host.note(f"{name} = {text}")
                return 0
            return 1
        return 0

    def _sysctl(self, words: list[str], text: str) -> tuple[int, str] | int:
        status, output = 0, []
        flags = "".join(word[1:] for word in words if word.startswith("-"))
        rest = [word for word in words if not word.startswith("-")]
        if len(rest) >= 3 and rest[1] == "=":
            rest = [f"{rest[0]}={' '.join(rest[2:])}"]
        for word in rest:
            name, equals, value = word.partition("=")
            if not self.has_knob(name.strip()):
                status |= "e" not in flags
            elif equals:
                status |= self.set_knob(name.strip(), value.strip())
            else:
                output.append(self.knob(name) if "n" in flags else f"{name} = {self.knob(name)}")
        return status, "".join(f"{line}\n" for line in output)

    def _defaults(self, words: list[str], text: str) -> int:
        self.host.set_qdisc(drops=False)
        self.host.set_route()
        for name, value in BASELINE.items():
            self.set_knob(name, value)
        return 0

    def _set_sysctls(self, words: list[str], text: str) -> int:
        status = 0
        for word in words:
            path, _, value = word.partition("=")
            name = path.split("/")[-1]
            self.kept.setdefault(name, self.knob(name))
            status |= self.set_knob(path, value)
        return status

    def _restore(self, words: list[str], text: str) -> int:
        kept, self.kept = self.kept, {}
        for name, value in kept.items():
            if value:
                self.set_knob(name, value)
        return 0

    # The interface.

    def _tc(self, words: list[str], text: str) -> int:
        if "fq" in words:
            self.host.note("tc fq")
        kind = next((word for word in words if word in ("pfifo", "bfifo", "fq", "fq_codel")), "")
        removes = bool({"del", "delete"} & set(words))
        if removes or "limit" in words or kind != self.qdisc:  # else the one that is there is kept
            refuses = "limit" in words[:-1] and words[words.index("limit") + 1] == "0"
            self.host.set_qdisc(drops=refuses and not removes)
        self.qdisc = "" if removes else kind
        return 0

    def _ethtool(self, words: list[str], text: str) -> int:
        for name, value in pairwise(words):
            if name == "tso":
                self.host.set_link(self.host.mtu, value == "on")
        return 0

    def _ip(self, words: list[str], text: str) -> tuple[int, str] | int:
        if "mtu" in words[:-1] and "link" in words:
            number = words[words.index("mtu") + 1]
            if not number.isdecimal() or not 68 <= int(number) <= 65535:
                return 1
            self.host.set_link(int(number), self.host.gso)
        elif {"route", "r", "ro"} & set(words[:2]) and {"change", "replace", "add"} & set(words):
            return self._ip_route(words)
        elif {"get", "show", "list", "ls", "save"} & set(words) or len(words) < 2:
            raise Unsupported(f"ip {' '.join(words)}")
        return 0, ""

    def _ip_route(self, words: list[str]) -> int:
        """Metrics of the way to the peer, as `ip route` has them: all that are not named go."""
        metrics: dict[str, int] = {}
        at = 0
        while at < len(words):
            name = words[at]
            at += 1
            if name == "features":
                metrics["ecn"] = words[at : at + 1] == ["ecn"]
            if name not in METRICS:
                continue
            if words[at : at + 1] == ["lock"]:
                at += 1
                if name == "mtu":
                    metrics["mtu_lock"] = True
            found = re.fullmatch(r"(\d{1,9})(ms|s)?", words[at] if at < len(words) else "")
            if found is None or (found[2] and name != "rto_min"):
                return 1
            metrics[name] = int(found[1]) * (1000 if found[2] == "s" else 1)
            at += 1
        self.host.set_route(**metrics)
        return 0

    # Counters and files.

    def _nstat(self, words: list[str], text: str) -> tuple[int, str]:
        flags = "".join(word[1:] for word in words if word.startswith("-"))
        now = self.host.counters()
        lines = [f"#{'kernel'}\n"]
        for name, value in now.items():
            change = value - (0 if "a" in flags else self.base.get(name, 0))
            if change or "z" in flags:
                lines.append(f"{name:<31} {change:<18} 0.0\n")
        if "s" not in flags:
            self.base = now
        return (0, "") if "n" in flags else (0, "".join(lines))

    def _grep(self, words: list[str], text: str) -> tuple[int, str]:
        flags = "".join(word[1:] for word in words if re.fullmatch(r"-[a-zA-Z]+", word))
        rest = [word for word in words if not re.fullmatch(r"-[a-zA-Z]+", word)]
        if not rest:
            return 2, ""
        counter = re.fullmatch(r"\W*((?:Tcp|Ip|Udp|Icmp)(?:Ext)?[A-Z]\w*)\W*", rest[0])
        if counter and counter[1] not in self.host.counters():
            self.host.note(f"the counter {counter[1]}")
        if rest[1:]:
            text = "".join(self.read(path) for path in rest[1:])
        pattern = rest[0] if "E" in flags else _basic(rest[0])
        try:
            wanted = re.compile(pattern, re.IGNORECASE if "i" in flags else 0)
        except re.error:
            return 2, ""
        found = [
            line for line in text.splitlines() if bool(wanted.search(line)) is ("v" not in flags)
        ]
        output = "" if "q" in flags else "".join(f"{line}\n" for line in found)
        return 0 if found else 1, f"{len(found)}\n" if "c" in flags else output

    def proc_net(self, path: str) -> str:
        """What a file of /proc/net says."""
        if path == "/proc/net/tcp":
            return self.proc_net_tcp()
        groups = {"/proc/net/netstat": ("TcpExt", "IpExt"), "/proc/net/snmp": ("Ip", "Icmp", "Tcp")}
        if path not in groups:
            raise Unsupported(path)
        counters = self.host.counters()
        lines = []
        for group in groups[path]:
            names = [name for name in counters if re.fullmatch(rf"{group}(?!Ext)[A-Z]\w*", name)]
            lines.append(" ".join([f"{group}:", *(name.removeprefix(group) for name in names)]))
            lines.append(" ".join([f"{group}:", *(str(counters[name]) for name in names)]))
        return "".join(f"{line}\n" for line in lines)

    def proc_net_tcp(self) -> str:
        """Sockets as /proc/net/tcp shows them."""
        lines = ["  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt\n"]
        for i, (state, *ends) in enumerate(self.host.sockets()):
            told = " ".join(f"{host[15:11:-1].hex().upper()}:{port:04X}" for host, port in ends)
            lines.append(f"{i:4}: {told} {state:02X} {PROC_NET_REST}\n")
        return "".join(lines)

    def _rm(self, words: list[str], text: str) -> int:
        for word in words:
            self.paths.pop(word, None)
        return 0

    def _dd(self, words: list[str], text: str) -> int:
        given = dict(word.partition("=")[::2] for word in words)
        units = {"k": 1 << 10, "K": 1 << 10, "M": 1 << 20}
        sizes = []
        for key, default in (("bs", "512"), ("count", "0")):
            found = re.fullmatch(r"(\d{1,9})([kKM]?)", given.get(key, default))
            if found is None:
                return 1
            sizes.append(int(found[1]) * units.get(found[2], 1))
        if "of" in given:
            self.paths[given["of"]] = min(sizes[0] * sizes[1], 1 << 30)
        return 0

    def _echo(self, words: list[str], text: str) -> tuple[int, str]:
        newline = "\n"
        while words and words[0] in ("-n", "-e"):
            newline = "" if words[0] == "-n" else newline
            words = words[1:]
        return 0, " ".join(words) + newline

    def _cat(self, words: list[str], text: str) -> tuple[int, str]:
        return 0, text + "".join(self.read(word) for word in words)

    def _true(self, words: list[str], text: str) -> int:
        return 0

    def _false(self, words: list[str], text: str) -> int:
        return 1


COMMANDS = {
    name.removeprefix("_"): call
    for name, call in vars(Shell).items()
    if name.startswith("_") and not name.startswith("__")
}
COMMANDS["defaults.sh"] = Shell._defaults
COMMANDS["set_sysctls.py"] = Shell._set_sysctls
COMMANDS["egrep"] = Shell._grep
COMMANDS |= dict.fromkeys((":", "sync"), Shell._true)


def statements(text: str) -> list[tuple[str, list[Command]]]:
    """A text's pipelines, each with what stands before it: `&&`, `||` or nothing."""
    found: list[tuple[str, list[Command]]] = []
    joint, redirect, source = "", None, None
    pipeline: list[Command] = []
    words: list[str] = []
    target: str | None = None

    def end_command() -> None:
        nonlocal words, source, target
        if words:
            pipeline.append((words, source, target))
        words, source, target = [], None, None

    def end_pipeline(next_joint: str) -> None:
        nonlocal joint, pipeline
        end_command()
        if pipeline:
            found.append((joint, pipeline))
            joint = ""
        pipeline = []
        if next_joint:
            joint = next_joint

    at = 0
    while at < len(text):
        token = SPLIT.match(text, at)
        if token is None:
            raise Unsupported(f"the shell's {text[at : at + 10]!r}")
        at = token.end()
        if token["word"]:
            if redirect is not None:
                target = expand(token["word"]) if redirect in (">", ">>", "1>", "&>") else target
                source = expand(token["word"]) if redirect == "<" else source
                redirect = None
            else:
                words.append(expand(token["word"]))
        elif op := token["op"]:
            if op == "|":
                end_command()
            elif op in ("&&", "||"):
                end_pipeline(op)
            elif op in ("\n", ";"):
                end_pipeline("")
            elif op != "2>&1":
                redirect = op
    end_pipeline("")
    for _, commands in found:
        for command, *_ in commands:
            if len(command) > COMMAND_WORDS_MAX:
                raise Unsupported(f"a command of more than {COMMAND_WORDS_MAX} words")
            if command[0] in ("if", "for", "while", "case", "{", "("):
                raise Unsupported(f"the shell's {command[0]!r}")
    return found


OPERATORS: dict[type[ast.AST], Callable[..., int]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: lambda a, b: quotient(a, b), ast.Mod: lambda a, b: a - b * quotient(a, b),
    ast.LShift: lambda a, b: a << (b & 63), ast.RShift: lambda a, b: a >> (b & 63),
    ast.BitOr: operator.or_, ast.BitAnd: operator.and_, ast.BitXor: operator.xor,
    ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Invert: operator.invert,
}  # fmt: skip


def quotient(a: int, b: int) -> int:
    """Towards zero, as C divides."""
    whole = abs(a) // abs(b)
    return whole if (a < 0) == (b < 0) else -whole


def calculated(tree: ast.AST) -> int:
    """What an expression of a shell comes to, in 64 bits.

    Raises
    ------
    ArithmeticError, KeyError, ValueError
        If it is none, or comes to nothing.
    """
    if isinstance(tree, ast.BinOp):
        made = OPERATORS[type(tree.op)](calculated(tree.left), calculated(tree.right))
    elif isinstance(tree, ast.UnaryOp):
        made = OPERATORS[type(tree.op)](calculated(tree.operand))
    elif isinstance(tree, ast.Constant) and type(tree.value) is int:
        made = tree.value
    else:
        raise ValueError(tree)
    return (made + (1 << 63)) % (1 << 64) - (1 << 63)


def expand(word: str) -> str:
    """A word without its quotes, with what $ stands for."""

    def arithmetic(found: re.Match[str]) -> str:
        try:
            return str(calculated(ast.parse(found[1].strip()[:WORDS_MAX], mode="eval").body))
        except (SyntaxError, ArithmeticError, KeyError, MemoryError, RecursionError, ValueError):
            raise Unsupported(f"the shell's $(({found[1]}))") from None

    def dollars(text: str) -> str:
        text = re.sub(r"\$\(\(([^)]*)\)\)", arithmetic, text)
        text = re.sub(r"\$\{?(?:PPID|PACKETDRILL_PID|\$)\}?", str(os.getpid()), text)
        return re.sub(r"\$\{?\w+\}?", "", text)

    def piece(found: re.Match[str]) -> str:
        text = found[0]
        if text[0] == "'":
            return text[1:-1]
        if text[0] == '"':
            return re.sub(r'\\([\\"$`])', r"\1", dollars(text[1:-1]))
        return text[1:] if text[0] == "\\" else dollars(text)

    pieces = r""""[^"\\]*(?:\\.[^"\\]*)*"|'[^']*'|\\.|[^"'\\]+"""
    return re.sub(pieces, piece, word, flags=re.DOTALL)


def _basic(pattern: str) -> str:
    """A basic regular expression as Python has it."""

    def swap(found: re.Match[str]) -> str:
        text = found[0]
        if len(text) == 2:
            return text[1] if text[1] in "+?|(){}" else text
        return "\\" + text

    return re.sub(r"\\.|[+?|(){}]", swap, pattern)

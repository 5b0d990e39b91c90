"""The house's rules, read from the source: floors, imports, sizes, the likeness of the twins.

Python is read by `ast`, Cython's headers as text. docs/architecture.md says what each rule is for.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from enum import EnumMeta
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

from tcpcore.reference import tcp

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "tcpcore"
REFERENCE = PACKAGE / "reference"
PYX = ROOT / "pyx"

# An engine file imports lower floors only, never its own.
FLOORS = {
    name: floor
    for floor, names in {
        17: "core",
        16: "core_net",
        15: "veth",
        14: "tcp_sockopt tcp_info tcp_icmp",
        13: "tcp_user tcp_close tcp_ipv4 tcp_timer doors streams",
        12: "tcp_input tcp_minisocks",
        11: "tcp_ack tcp_validate",
        10: "tcp_recovery tcp_data_queue inet_timewait_sock dev rows",
        9: "tcp_retransmit tcp_comp_sack",
        8: "tcp_output tcp_rack",
        7: "inet_connection_sock tcp_rcv_space tcp_prune tcp_conntrack rows_analysis",
        6: "tcp_window tcp_tstamp inet_ports conntrack_analyze conntrack_acct conntrack_queue",
        5: "errqueue ip_output syncookies tcp_analysis conntrack filter tcp_undo tcp_rate",
        4: "netns tcp_cong rbtree ip_input offload synack",
        3: "net skbuff tcp_md5 tcp_rtt tcp_ecn tcp_chrono ip_tunnel tcp_recvmsg",
        2: "sock tcb tcp_history tcp_queue ip_fragment wire inet_hashtables",
        1: "tcp snmp",
        0: "timer csum secure_seq pcap slab",
        -1: "unaligned",  # what C has and Cython has not
    }.items()
    for name in names.split()
}
# A file of the package imports lower layers only; those of layer 0 import nothing of tcpcore.
LAYERS = {
    name: layer
    for layer, names in {
        10: "__main__ pytest_plugin",
        9: "cli",
        8: "__init__ verbs handshake packetdrill",
        7: "follow",
        6: "passive network",
        5: "result export stack readiness",
        4: "cut stream",
        3: "conflicts sources table socket where",
        2: "pcap filter arrow sockopt neigh router",
        1: "assembler engine summary device transfer",
        0: "arguments cmsg columns mib report link clock sysctl _version",
    }.items()
    for name in names.split()
}
NEVER_IN_AN_ENGINE = {"time", "random", "os", "socket", "threading", "numpy"}
CANNOT_SEND = (
    {"tcp_output", "tcp_ack", "tcp_input", "tcp_timer", "tcp_recovery", "tcp_user", "tcp_ipv4"},
    ("conntrack", "tcp_conntrack", "tcp_analysis", "tcp_history", "tcp_chrono", "rows"),
)
# Tests of a floor's twins, which may reach below the seam.
REACH_BELOW = {
    "test_house",
    "test_twins",
    "test_csum",
    "test_wire",
    "test_tcb",
    "test_secure_seq",
    "test_hashtables",
    "test_timer",
    "test_queue",
    "test_speed",  # a congestion controller alone is what a transfer is held against
}
# What one build needs and the other has no use for, by file: prefetching, pools, layouts.
ONLY_COMPILED = {
    "tcp_rack": {"mark_lost"},  # without its tree
    "tcp_rate": {"rate_sample_init"},
    "errqueue": {"err_queue_tail", "err_skb_alloc", "ubuf_free"},
    "tcp_tstamp": {"nla_put"},
    "conntrack": {
        "addrs_of",
        "analysis_at",
        "analysis_free",
        "more_at",
        "conntrack_depart",
        "conntrack_drain",
        "conntrack_reserve_ended",
        "flow_context",
        "outer_of",
        "conntrack_free",
        "conntrack_init",
        "conntrack_reserve",
        "conntrack_row",
        "conntrack_sock",
        "conntrack_una",
        "conntrack_unlink",
        "flow_addrs_v4",
        "flow_at",
        "is_closed",
        "is_half_open",
        "link_at",
        "queue_push",
        "queue_take",
        "rest_at",
        "sock_of",
    },
    "core": {"isa_select", "sizes"},
    "csum": {
        "csum_fold64",
        "csum_pseudo",
        "csum_short64",
        "csum_wrong",
        "tcpcore_isa",
        "tcpcore_isa_select",
    },
    "filter": {"filter_addr6"},
    "inet_hashtables": {
        "flow_side6",
        "flow_words4",
        "flow_words6",
        "inet_enter",
        "inet_grow",
        "inet_hash",
        "inet_home",
        "inet_lookup_tag",
        "inet_next",
        "inet_reserve",
        "inet_table_free",
        "inet_table_init",
        "inet_unhash",
        "lanes_equal",
        "lanes_used",
        "same_addr",
    },
    "ip_fragment": {"frag_free", "frag_reserve", "ip_frags_batch", "ip_frags_free"},
    "ip_input": {"af_inet6", "ip_rcv_plain", "ip_rcv_tcp", "is_exthdr"},
    "ip_tunnel": {"is_udp_tunnel", "is_vlan", "known_ethertype", "outer_clear"},
    "pcap": {"declare", "min_block", "pcap_close", "pcap_damage", "pcap_open"},
    "rows": {
        "column_is_zero",
        "column_size",
        "packet_column_size",
        "packet_rows_free",
        "packet_rows_grow",
        "packet_rows_outer",
    },
    "rows_analysis": {"counts_value", "find_rares", "gauge_value", "wide"},
    "secure_seq": {"hash_what", "siphash_lanes", "siphash_words"},
    "inet_connection_sock": {"tcp_init_sock", "tcp_probe0_when_ns"},
    "inet_ports": {
        "ehash_grow",
        "ehash_match",
        "inet_ehashfn",
        "inet_listen_hash",
        "inet_listen_unhash",
        "port_conflict",
        "port_is_asked_for",
        "tw_conflict",
    },
    "ip_output": {
        "addr_common",
        "ifaddr_known",
        "ipv6_addr_any",
        "out_reserve",
        "pmtu_at",
        "pmtu_forget",
        "skb_copy_and_csum",
        "tcp_md5_option",
        "tcp_option_word",
    },
    "netns": {
        "NET_ADD_STATS",
        "NET_INC_STATS",
        "netns_free",
        "netns_init",
        "netns_reap",
        "out_purge",
        "sk_bury",
        "sk_enter",
        "sk_leave",
        "sk_lookup",
        "sk_prot_alloc",
        "sk_queues_purge",
        "tcp_clear_md5_list",
        "tcp_md5sig_info_add",
        "timer_owner",
    },
    "tcp_cong": {
        "ca_cong_avoid",
        "ca_cwnd_event",
        "ca_init",
        "ca_pkts_acked",
        "ca_set_state",
        "ca_ssthresh",
        "ca_undo_cwnd",
        "cubic_reset",
        "cubictcp_update",
        "hystart_reset",
        "hystart_update",
        "to_bictcp",
    },
    "tcp_data_queue": {"tcp_rcv_skb"},
    "tcp_input": {"tcp_is_simple"},
    "tcp_ipv4": {"rcv_skb_addr", "tcp_only_stamped"},
    "tcp_md5": {"md5_addr_match", "md5_final", "md5_init", "md5_update", "unlikely"},
    "tcp_minisocks": {"tcp_inherit"},
    "tcp_output": {"skb_control", "tcp_clock_ms"},
    "tcp_sockopt": {"sock_getsockopt", "tcp_getsockopt"},
    "tcp_window": {"tcp_bound_to_half_wnd"},
    "timer": {
        "entry_before",
        "heap_down",
        "heap_remove",
        "heap_up",
        "timer_forget",
        "timers_free",
        "timers_reserve",
    },
    "tcb": {"tcb_xmit_established", "tcp_predicted"},
    "tcp_analysis": {
        "analysis_count",
        "analysis_init",
        "analysis_maxack",
        "analysis_predict",
        "analysis_rtt_sample",
        "analysis_soon",
        "analysis_window_full",
    },
    "tcp_chrono": {
        "chrono_add",
        "chrono_holds",
        "chrono_limit_changes",
        "chrono_in_round",
        "chrono_init",
        "chrono_predict",
        "chrono_settle",
    },
    "tcp_history": {"analysis_far_of", "analysis_rare_of", "class_count", "history_letter"},
    "conntrack_acct": {"conntrack_count_rare", "flow_completeness"},
    "tcp_conntrack": {
        "batch_whole",
        "conn_at",
        "conntrack_fate",
        "conntrack_follow",
        "conntrack_lookup",
        "conntrack_open",
        "conntrack_predict",
        "conntrack_syn",
    },
    "tcp_queue": {
        "by_place",
        "queue_exit",
        "queue_init",
        "sk_index",
        "skb_at",
        "sock_at",
        "sock_push",
        "sock_take",
    },
    "tcp_recvmsg": {
        *("bound_of", "by_number", "by_seq", "piece_key", "pieces_sort", "plan_free", "plan_room")
    },
    "wire": {"tcp_header"},
}
# What a field of the reference is in the compiled engine: as it lies in the frame.
AS_ON_THE_WIRE = {
    "saddr": "addrs",
    "daddr": "acookie",
    "sport": "ports",
    "dport": None,
}
ONLY_REFERENCE = {
    "tcp_conntrack": {"conntrack_context"},
    "inet_ports": {"ehash_key"},
    "tcp_ipv4": {"any_address"},
    "tcp_sockopt": {"tcp_get_info", "sk_get_meminfo"},
    "inet_hashtables": {"flow_key"},
    "pcap": {"pcap_peek", "read_packet", "read_section"},
}


def modules(folder: Path, suffix: str) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.glob(f"*{suffix}"))}


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def parse(path: Path) -> ast.Module:
    return ast.parse(read(path), str(path))


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").exists() or name == "tcpcore._core"


class Imports(ast.NodeVisitor):
    """Every module that is imported at run time, at the top of a file or inside a function."""

    def __init__(self, path: Path) -> None:
        self.package = path.relative_to(ROOT).parent.as_posix().replace("/", ".")
        self.found: set[str] = set()
        self.visit(parse(path))

    def visit_If(self, node: ast.If) -> None:
        if getattr(node.test, "id", "") != "TYPE_CHECKING":
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self.found |= {alias.name for alias in node.names}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = node.module or ""
        if node.level:
            base = f"{self.package.rsplit('.', node.level - 1)[0]}.{base}".rstrip(".")
        names = {f"{base}.{alias.name}" for alias in node.names}
        self.found |= {name if is_module(name) else base for name in names}


def imports(path: Path) -> set[str]:
    return Imports(path).found


def cimports(path: Path) -> set[str]:
    """Every module that a Cython file cimports."""
    found = set()
    for line in read(path).splitlines():
        if match := re.match(r"\s*from\s+([\w.]+)\s+cimport\b", line):
            found.add(match[1])
        elif match := re.match(r"\s*cimport\s+(.+)", line):
            found |= {name.split()[0] for name in match[1].split(",")}
    return found


def below_the_door(name: str) -> bool:
    return name.startswith("tcpcore.reference.")


def engine_imports() -> Iterator[tuple[str, str, set[str]]]:
    """Of each engine file: its path, its name, the engine files it imports."""
    for name, path in modules(REFERENCE, ".py").items():
        if name != "__init__":
            inside = {n.split(".")[2] for n in imports(path) if below_the_door(n)}
            yield f"reference/{path.name}", name, inside
    for path in sorted(PYX.glob("*.p[xy]*")):
        part = path.suffix == ".pxi" and path.stem != "doors"  # of core, in a file of its own
        name = "core" if part else path.stem.lstrip("_")
        yield f"pyx/{path.name}", name, cimports(path) & FLOORS.keys()


# Floors, layers and forbidden imports.


def test_both_engines_are_here() -> None:
    assert {name for _, name, _ in engine_imports()} >= {"core", "tcb", "tcp", "wire", "csum"}


@pytest.mark.parametrize(("path", "name", "inside"), list(engine_imports()))
def test_floor(path: str, name: str, inside: set[str]) -> None:
    assert name in FLOORS, f"give {path} a floor, here and in docs/architecture.md"
    level = {other for other in inside if FLOORS[other] >= FLOORS[name]}
    assert not level, f"{path} imports its own floor or a higher one"
    if name == "tcb":
        assert inside <= {"tcp"}, "the judge knows the vocabulary alone"
    forbidden, passive = CANNOT_SEND
    if name in passive:
        assert not inside & forbidden, "passive mode cannot send"


@pytest.mark.parametrize("name", CANNOT_SEND[1])
def test_passive_mode_names_no_door_out(name: str) -> None:
    for path in (REFERENCE / f"{name}.py", PYX / f"{name}.pxd"):
        if path.exists():
            assert "ip_queue_xmit" not in read(path)


@pytest.mark.parametrize("path", list(REFERENCE.glob("*.py")), ids=lambda path: path.name)
def test_the_reference_stands_alone(path: Path) -> None:
    found = imports(path)
    assert not {name.split(".")[0] for name in found} & NEVER_IN_AN_ENGINE
    outside = {n for n in found if n.split(".")[0] == "tcpcore" and not below_the_door(n)}
    assert not outside, "an engine file imports nothing of tcpcore outside its folder"


@pytest.mark.parametrize("name", modules(PACKAGE, ".py"))
def test_layer(name: str) -> None:
    assert name in LAYERS, f"give {name}.py a layer, here and in docs/architecture.md"
    found = {n for n in imports(PACKAGE / f"{name}.py") if n.split(".")[0] == "tcpcore"}
    engines = {n for n in found if re.match(r"tcpcore\.(_core|reference)\b", n)}
    assert not engines or name == "engine", "only engine.py imports an engine"
    ours = {n.split(".")[1] if "." in n else "__init__" for n in found - engines}
    level = {other for other in ours if LAYERS[other] >= LAYERS[name]}
    assert not level, f"{name}.py imports its own layer or a higher one"


@pytest.mark.parametrize(
    "path",
    [*(ROOT / "tests").rglob("*.py"), *(ROOT / "bench").rglob("*.py")],
    ids=lambda path: path.name,
)
def test_tests_use_the_seam(path: Path) -> None:
    below = {n for n in imports(path) if below_the_door(n)}
    below -= {f"tcpcore.reference.{name}" for name in ("core", "core_net", "snmp", "tcp")}
    assert not below or path.stem in REACH_BELOW, "tests use the public names or the seam"


# Sizes.


@pytest.mark.parametrize(
    "path",
    [
        path
        for folder in ("tcpcore", "pyx", "tests", "bench", "examples")
        for path in sorted((ROOT / folder).rglob("*.*"))
        if path.suffix in (".py", ".pyi", ".pyx", ".pxd", ".pxi", ".c", ".h")
    ],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_one_idea_a_file(path: Path) -> None:
    text = read(path)
    assert text.count("\n") <= 600, "a file of more than 600 lines is two ideas"
    if path.suffix == ".py" and text:
        header = ast.get_docstring(parse(path))
        assert header, "a file opens with what it is"
        assert header.count("\n") < 5, "in at most five lines"
    elif path.suffix in (".pxd", ".pxi"):
        header = re.match(r"(#.*\n)+", text)
        assert header, "a file opens with what it is"
        assert header[0].count("\n") <= 5, "in at most five lines"


# The twins: same files, functions, fields and numbers.


def statements(text: str) -> Iterator[str]:
    """Lines of a .pxd without comments and docstrings, those inside of brackets joined."""
    whole = ""
    for line in re.sub(r"(\"{3}|'{3})(?:.|\n)*?\1", "", text).splitlines():
        code = line.split("#")[0].rstrip()
        whole += code.strip() if whole else code
        if whole and whole.count("(") == whole.count(")"):
            yield whole
            whole = ""


def c_enums(text: str) -> dict[str, int]:
    members = " ".join(re.findall(r"enum \{(.*?)\}", text, re.DOTALL))
    return {name: int(value) for name, value in re.findall(r"(\w+) = (\d+)", members)}


class Header:
    """What a .pxd declares: its functions, its structs' fields, its enums' values."""

    def __init__(self, text: str, known: dict[str, int]) -> None:
        self.known = known  # numbers of the files it cimports
        self.functions: set[str] = set()  # those with a body here or declared of our own C
        self.fields: dict[str, list[str]] = {}
        self.values: dict[str, int] = {}
        kind = ""
        for code in statements(text):
            if not code[0].isspace():
                kind = ""
                if match := re.match(r"cdef (?:packed )?struct (\w+):", code):
                    kind, members = "struct", self.fields.setdefault(match[1], [])
                elif re.match(r"cdef enum\b", code):
                    kind, following = "enum", 0
                elif match := re.match(r"cdef extern from (\S+)", code):
                    ours = PYX / match[1].strip('":')
                    if match[1].startswith("*") or ours.exists():  # else it is the C library's
                        kind = "extern"
                        self.values |= c_enums(read(ours)) if ours.exists() else {}
                elif match := re.match(r"c(?:p)?def (?!extern|class|enum).*?(\w+)\(", code):
                    self.functions.add(match[1])
            elif kind == "struct":
                _, names = re.match(r"\s+((?:const |unsigned )*\w+\s)(.+)", code).groups()
                members += re.findall(r"(\w+)(?:\[.*?\])*\s*(?:,|$)", names)
            elif kind == "enum":
                for name, value in re.findall(r"(\w+)(?:\s*=\s*([^,]+))?", code):
                    following = self.value(value) if value else following
                    self.values[name] = following
                    following += 1
            elif kind == "extern" and (match := re.match(r"\s+[\w\s*]*?\b(\w+)\(", code)):
                self.functions.add(match[1])

    def value(self, expression: str) -> int:
        return int(eval(expression, {"__builtins__": {}}, self.known | self.values))


@cache
def header(name: str) -> Header:
    path = PYX / f"{name}.pxd"
    known: dict[str, int] = {}
    for other in cimports(path) & modules(PYX, ".pxd").keys():
        known |= header(other).known | header(other).values
    return Header(read(path), known)


def functions(path: Path) -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in parse(path).body if isinstance(node, ast.FunctionDef)}


TWINS = sorted(modules(REFERENCE, ".py").keys() & modules(PYX, ".pxd").keys())


def test_twins_have_the_same_files() -> None:
    compiled = {path.stem.lstrip("_") for path in PYX.glob("*.p[xy]*")} - {
        "conntrack_analyze",
        "dev",
        "names",
        "rbtree",
        "skbuff",
        "slab",
        "unaligned",
        "veth",
    }
    assert compiled == modules(REFERENCE, ".py").keys() - {"__init__"}


@pytest.mark.parametrize("name", TWINS)
def test_twins_have_the_same_functions(name: str) -> None:
    def public(names: set[str]) -> set[str]:
        return {n for n in names if not n.startswith("_")}

    reference = public(set(functions(REFERENCE / f"{name}.py")))
    shared = reference - ONLY_REFERENCE.get(name, set())
    assert public(header(name).functions) == shared | ONLY_COMPILED.get(name, set())


@pytest.mark.parametrize("name", ["Tcb", "Segment"])
def test_twins_have_the_same_fields(name: str) -> None:
    shared = [AS_ON_THE_WIRE.get(field, field) for field in getattr(tcp, name).__slots__]
    assert set(header("tcp").fields[name.lower()]) == set(filter(None, shared))


@pytest.mark.parametrize("name", TWINS)
def test_twins_have_the_same_numbers(name: str) -> None:
    """Every constant of the vocabulary, and of the other files each that both builds name."""
    module = import_module(f"tcpcore.reference.{name}")
    reference = {n: v for n, v in vars(module).items() if n.isupper() and isinstance(v, int)}
    for enum in vars(module).values():
        if isinstance(enum, EnumMeta):
            reference |= {member.name: int(member) for member in enum}
    reference.pop("MASK32", None)  # Cython's integers have their width
    compiled = dict(header(name).values)
    for name_of_bit in ("FLOW_PLAIN", "FLOW_OPEN"):  # what the compiled engine can leave out
        compiled.pop(name_of_bit, None)
    if name != "tcp":
        reference = {n: reference[n] for n in reference.keys() & compiled.keys()}
        compiled = {n: compiled[n] for n in reference}
    assert compiled == reference


def signatures(path: Path) -> dict[str, list[tuple[str, str]]]:
    """Public functions and Conntrack's public methods: argument names and their kinds."""
    nodes = functions(path)
    for node in parse(path).body:
        if isinstance(node, ast.ClassDef) and node.name == "Conntrack":
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and not method.decorator_list:
                    nodes[f"Conntrack.{method.name}"] = method
    return {
        name: [
            (argument.arg, kind)
            for kind in ("posonlyargs", "args", "kwonlyargs")
            for argument in getattr(node.args, kind)
        ]
        for name, node in nodes.items()
        if not name.split(".")[-1].startswith("_") or name.endswith(".__init__")
    }


def test_the_reference_has_the_seam() -> None:
    seam = signatures(PACKAGE / "_core.pyi")
    for name in ONLY_COMPILED["core"]:
        del seam[name]
    core = import_module("tcpcore.reference.core")
    there = signatures(REFERENCE / "core.py")
    for name in seam.keys() - there.keys():  # defined on a lower floor
        function = getattr(core, name)
        there |= {name: signatures(Path(inspect.getfile(function)))[name]}
    assert {name: there[name] for name in seam} == seam

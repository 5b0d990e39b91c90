"""Options of a script and of the command line, by packetdrill's names."""

from __future__ import annotations

import ipaddress
import re

from tcpcore.packetdrill.lexer import BLANK, ScriptError, place

OPTION = re.compile(
    r"""--(?P<name>\w+)"""
    r"""(?:[ \t]*=[ \t]*"""
    r"""(?P<value>(?:"[^"\\]*(?:\\.[^"\\]*)*"|`[^`\\]*(?:\\.[^`\\]*)*`|(?!//)\S)*))?""",
    re.ASCII | re.DOTALL,
)

# By what their value is.
NUMBERS = {
    "bind_port": 8080,
    "connect_port": 8080,
    "mtu": 1500,
    "mss": 0,
    "speed": 0,
    "tolerance_usecs": 4000,
    "tcp_ts_tick_usecs": 0,
    "event_cost_usecs": 0,
}
FLOATS = {"tolerance_percent": 12.5}
BOUNDS = {
    "bind_port": (0, 65535),
    "connect_port": (0, 65535),
    "mtu": (68, 65535),
    "mss": (0, 65535),
}
ADDRESSES = {
    "local_ip": "192.168.0.1",
    "remote_ip": "192.0.2.1",
    "gateway_ip": "192.168.0.1",
    "netmask_ip": "255.255.0.0",
}
WORDS = {"ip_version": "ipv4", "non_fatal": "", "init_scripts": ""}
SWITCHES = ("tcp_ts_ecr_scaled", "strict_segments", "dry_run", "verbose")
# Known, and of no use here.
IGNORED = (
    "code_command", "code_format", "code_sockopt", "wire_client", "wire_server",
    "wire_server_at", "wire_server_ip", "wire_server_port", "wire_client_dev", "wire_server_dev",
    "so_filename", "so_flags", "psp_udp_port",
)  # fmt: skip
IGNORED_SWITCHES = ("send_omit_free", "is_anyip", "debug", "persistent_tun_dev", "hexdump")
# What the runners of the public collections define.
DEFINES = {
    "TFO_COOKIE": "3021b9d889017eeb",
    "TFO_COOKIE_ZERO": "b7c12350a90dc8f5",
    "CMSG_LEVEL_IP": "SOL_IP",
    "CMSG_TYPE_RECVERR": "IP_RECVERR",
    "CODE": "host_unreachable",
}
YES, NO = ("", "1", "true", "yes"), ("0", "false", "no")


class Config:
    """All options with their values.

    Attributes
    ----------
    defines : dict of str
        Words and what stands for them.
    psp : bool
        Whether the script is about PSP.
    others
        One attribute for each option, by its name.
    """

    tolerance_usecs: int
    tolerance_percent: float
    tcp_ts_tick_usecs: int
    event_cost_usecs: int
    bind_port: int
    connect_port: int
    mtu: int
    mss: int
    local_ip: str
    remote_ip: str
    gateway_ip: str
    netmask_ip: str
    ip_version: str
    non_fatal: str
    init_scripts: str
    tcp_ts_ecr_scaled: bool
    strict_segments: bool
    dry_run: bool
    verbose: bool

    def __init__(self) -> None:
        for table in (NUMBERS, FLOATS, ADDRESSES, WORDS):
            for name, value in table.items():
                setattr(self, name, value)
        for name in SWITCHES:
            setattr(self, name, False)
        self.defines = dict(DEFINES)
        self.psp = False

    def set(self, name: str, value: str | None) -> None:
        """One option; None where it has no value.

        Raises
        ------
        ValueError
            If there is no such option, or its value is none.
        """
        if name in ("D", "define"):
            word, equals, meaning = (value or "").partition("=")
            if not equals or not re.fullmatch(r"\w+", word, re.ASCII):
                raise ValueError(f"--{name} must be NAME=VALUE")
            self.defines[word] = meaning
            return
        if name in SWITCHES or name in IGNORED_SWITCHES or name == "v":
            if (value or "").lower() not in YES + NO:
                raise ValueError(f"--{name} takes no value")
            if name in SWITCHES:
                setattr(self, name, (value or "").lower() in YES)
            return
        if name not in (*NUMBERS, *FLOATS, *ADDRESSES, *WORDS) and not self._is_ignored(name):
            raise ValueError(f"unknown option --{name}")
        if value is None or value == "":
            raise ValueError(f"--{name} needs a value")
        if name in NUMBERS:
            if not re.fullmatch(r"\d{1,9}|0x[0-9a-fA-F]{1,8}", value, re.ASCII):
                raise ValueError(f"--{name} must be a whole number, not {value!r}")
            number = int(value, 0) if value.startswith("0x") else int(value)
            low, high = BOUNDS.get(name, (0, 0xFFFFFFFF))
            if not low <= number <= high:
                raise ValueError(f"--{name} must be from {low} to {high}, not {number}")
            setattr(self, name, number)
        elif name in FLOATS:
            if not re.fullmatch(r"\d{0,9}\.?\d{1,9}", value, re.ASCII):
                raise ValueError(f"--{name} must be a number, not {value!r}")
            setattr(self, name, float(value))
        elif name in ADDRESSES:
            setattr(self, name, _address(name, value))
        elif name in WORDS:
            if name == "ip_version" and value not in ("ipv4", "ipv4-mapped-ipv6", "ipv6"):
                raise ValueError(f"--ip_version must be ipv4, ipv4-mapped-ipv6 or ipv6: {value!r}")
            setattr(self, name, value)
        elif name == "psp_udp_port":
            self.psp = True

    def _is_ignored(self, name: str) -> bool:
        return name in IGNORED or name.startswith(("wire_", "so_"))

    def is_fatal(self, kind: str) -> bool:
        """Whether a mismatch of a 'packet' or 'syscall' ends the script."""
        return kind not in self.non_fatal.replace(" ", "").split(",")


def _address(name: str, value: str) -> str:
    """An address; of one with a prefix the length is not looked at: netmask_ip has it."""
    try:
        if name == "netmask_ip":
            ipaddress.ip_network(f"{'::' if ':' in value else '0.0.0.0'}/{value.lstrip('/')}")
            return value.lstrip("/")
        return str(ipaddress.ip_interface(value).ip)
    except ValueError:
        if name == "netmask_ip" and (":" in value or value.lstrip("/").isdecimal()):
            return value.lstrip("/")  # of IPv6, which nothing here needs
        raise ValueError(f"--{name} must be an address, not {value!r}") from None


def read_options(text: str) -> tuple[list[tuple[str, str | None, int]], int]:
    """Options at the top of a script: (name, value, offset) of each, and where they end."""
    found: list[tuple[str, str | None, int]] = []
    at = 0
    while True:
        blank = BLANK.match(text, at)
        start = blank.end() if blank else at
        option = OPTION.match(text, start)
        if option is None:
            return found, at
        value = option["value"]
        if value and value[0] == value[-1] == '"':
            value = value[1:-1]
        found.append((option["name"], value, start))
        at = option.end()


def configure(text: str, given: list[tuple[str, str | None]]) -> tuple[Config, dict[str, str], int]:
    """Options of a script, then those of the command line on top.

    Returns
    -------
    tuple of (Config, dict, int)
        The options, those that the script itself has, and where its events begin.

    Raises
    ------
    ScriptError
        At an option of the script that is none.
    ValueError
        For one of `given`.
    """
    config = Config()
    found, at = read_options(text)
    for name, value, start in found:
        try:
            config.set(name, value)
        except ValueError as error:
            raise ScriptError(str(error), *place(text, start)) from None
    for name, value in given:
        config.set(name, value)
    return config, {name: value or "" for name, value, _ in found}, at

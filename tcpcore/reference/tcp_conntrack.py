"""Both ends of every connection, segment by segment: look-up and the judge.

Linux: net/netfilter/nf_conntrack_proto_tcp.c.  RFC 9293 3.10; docs/replay.md has the rules.
"""

from __future__ import annotations

from copy import copy

from .conntrack import (
    Frame,
    Tracker,
    conntrack_classes,
    conntrack_expire,
    conntrack_new,
    conntrack_release,
    conntrack_requeue,
)
from .conntrack_acct import conntrack_count, conntrack_splits
from .conntrack_queue import conntrack_queue
from .inet_hashtables import flow_key, flow_side
from .ip_tunnel import Outer
from .net import Net
from .offload import offload_learn
from .snmp import Mib
from .synack import SYNACK_EACH, synack_keep, synack_pick, synack_rival
from .tcb import tcb_pull, tcb_rcv, tcb_xmit
from .tcp import (
    KEY_INTERFACE,
    KEY_TUNNEL,
    KEY_VLAN,
    TCP_CLOSE,
    TCP_CLOSE_WAIT,
    TCP_ESTABLISHED,
    TCP_LISTEN,
    TCP_MAX_WSCALE,
    TCP_SYN_RECV,
    TCP_SYN_SENT,
    TCP_TIME_WAIT,
    TCPHDR_ACK,
    TCPHDR_RST,
    TCPHDR_SYN,
    Bad,
    Drop,
    End,
    Flow,
    FlowBit,
    FlowOuter,
    Opt,
    Segment,
    Tcb,
    TcbFlag,
    Verdict,
    tcp_is_synack,
)
from .tcp_analysis import tcp_analyze
from .tcp_chrono import tcp_chrono

# Plain ints: an enum member's `|` costs more than the step itself.
OPT_MSS, OPT_WSCALE = int(Opt.OPT_MSS), int(Opt.OPT_WSCALE)
BAD_IP_CSUM, BAD_TCP_CSUM = int(Bad.BAD_IP_CSUM), int(Bad.BAD_TCP_CSUM)
BAD_DOFF = int(Bad.BAD_DOFF)
OPT_ISN, OPT_BASE = int(Opt.OPT_ISN), int(Opt.OPT_BASE)
OPT_OF_SYN = OPT_MSS | OPT_WSCALE | int(Opt.OPT_SACK_PERM)
OPT_SCALED = OPT_ISN | OPT_WSCALE
TCB_SND, TCB_FIN_SENT = int(TcbFlag.TCB_SND), int(TcbFlag.TCB_FIN_SENT)
TCB_WSCALE = int(TcbFlag.TCB_WSCALE_SENT | TcbFlag.TCB_WSCALE_RCVD)
TCB_TSTAMP = int(TcbFlag.TCB_TSTAMP)
FLOW_JUDGED, FLOW_SYN = int(FlowBit.FLOW_JUDGED), int(FlowBit.FLOW_SYN)
FLOW_SYN_BA, FLOW_RTT = int(FlowBit.FLOW_SYN_BA), int(FlowBit.FLOW_RTT)

TCB_OFO, TCB_OLD = int(Verdict.TCB_OFO), int(Verdict.TCB_OLD)
TCB_OVERWINDOW, TCB_PAWS = int(Verdict.TCB_OVERWINDOW), int(Verdict.TCB_PAWS)
TCB_ACK_OLD, TCB_ACK_UNSENT = int(Verdict.TCB_ACK_OLD), int(Verdict.TCB_ACK_UNSENT)
TCB_RST_TAKEN, TCB_CHALLENGE = int(Verdict.TCB_RST_TAKEN), int(Verdict.TCB_CHALLENGE)
TCB_NO_CONN = int(Verdict.TCB_NO_CONN)
CT_NEW, CT_MIDSTREAM = int(Verdict.CT_NEW), int(Verdict.CT_MIDSTREAM)
CT_REUSED, CT_HOLE = int(Verdict.CT_REUSED), int(Verdict.CT_HOLE)

# The drop reason of a segment that the judge refused, the first that fits. Only SYN-SENT leaves
# TCB_ACK_UNSENT standing: later a wrong acknowledgment is the sign of a hole.
REFUSALS = (
    (TCB_NO_CONN, int(Drop.TCP_CLOSED)),
    (TCB_PAWS, int(Drop.TCP_RFC7323_PAWS)),
    (TCB_OVERWINDOW, int(Drop.TCP_OVERWINDOW)),
    (TCB_ACK_UNSENT, int(Drop.TCP_INVALID_ACK)),
    (TCB_ACK_OLD, int(Drop.TCP_TOO_OLD_ACK)),
    (TCB_CHALLENGE, int(Drop.TCP_INVALID_SYN)),
    (TCB_OLD, int(Drop.TCP_OLD_DATA)),
)
TCB_REFUSED = sum(bit for bit, _ in REFUSALS)
TS_RECENT_STALE_NS = 24 * 86400 * 10**9  # idle so long, a time stamp says nothing (RFC 7323 5.5)


def conntrack_begin(snd: Tcb, rcv: Tcb, th: Segment) -> None:
    """States before the first segment that the judge gets."""
    if th.flags & (TCPHDR_SYN | TCPHDR_ACK) == TCPHDR_SYN:
        rcv.state = TCP_LISTEN
    elif th.flags & TCPHDR_SYN:
        snd.state = TCP_LISTEN
        rcv.state = TCP_SYN_SENT
        rcv.snd_una = (th.ack - 1) & 0xFFFFFFFF
        rcv.snd_nxt = th.ack
        rcv.flags = TCB_SND
    else:  # picked up in the middle: any shift is possible, so the widest windows are believed
        for tcb in (snd, rcv):
            tcb.state = TCP_ESTABLISHED
            tcb.snd_wscale = tcb.rcv_wscale = TCP_MAX_WSCALE
            tcb.flags = TCB_WSCALE


def conntrack_judge(net: Net, flow: Flow, side: int, th: Segment) -> int:
    """Both ends' judgment of one segment: the end that sent, then the end it reaches."""
    snd, rcv = flow.ends[side].tcb, flow.ends[1 - side].tcb
    snd_was, rcv_was = snd.state, rcv.state
    verdict = 0
    if not flow.bits & FLOW_JUDGED:
        flow.bits |= FLOW_JUDGED
        conntrack_begin(snd, rcv, th)
        if not th.flags & TCPHDR_SYN:
            verdict = CT_MIDSTREAM
    elif rcv.state == TCP_CLOSE and th.flags & (TCPHDR_SYN | TCPHDR_ACK) == TCPHDR_SYN:
        rcv.state = TCP_LISTEN  # refused once, it asks again
        rcv.flags = 0
    if th.flags & TCPHDR_ACK and rcv.flags & TCB_FIN_SENT and th.ack == rcv.snd_nxt:
        tcb_pull(snd, th.ack, True)
    verdict |= tcb_xmit(snd, th)
    took = tcb_rcv(rcv, th)
    if took & TCB_ACK_UNSENT and rcv.state != TCP_SYN_SENT:
        rcv.snd_nxt = th.ack  # what was not sent cannot be acknowledged: the tap missed it
        took = tcb_rcv(rcv, th) | CT_HOLE
    if th.flags & TCPHDR_RST and took & (TCB_RST_TAKEN | TCB_CHALLENGE):
        # An endpoint would challenge a reset that is only near; an observer believes it.
        took = (took & ~TCB_CHALLENGE) | TCB_RST_TAKEN
        snd.state = rcv.state = TCP_CLOSE
    conntrack_mib(net, snd_was, snd.state, 0)
    conntrack_mib(net, rcv_was, rcv.state, took)
    return verdict | took


def conntrack_handshake(ct: Tracker, flow: Flow, side: int, th: Segment) -> bool:
    """Before both ends are open: of several SYN-ACKs the first counts, until an ACK picks another.

    True of a SYN-ACK that is to be kept, not counted.
    """
    if synack_rival(flow, side, th):
        return True
    if (
        flow.synacks
        and th.flags & (TCPHDR_SYN | TCPHDR_ACK | TCPHDR_RST) == TCPHDR_ACK
        and flow.ends[1 - side].tcb.snd_nxt != th.ack
        and synack_pick(ct.synacks, flow, side, th)
    ):
        flow.synacks = 0
    return False


def conntrack_mib(net: Net, was: int, state: int, took: int) -> None:
    """The counters that an end's host would have moved."""
    mib = net.mib
    if took & (TCB_PAWS | TCB_OFO | TCB_CHALLENGE):
        if took & TCB_PAWS:
            mib[Mib.TCP_PAWSESTABREJECTED] += 1
        if took & TCB_OFO:
            mib[Mib.TCP_OFOQUEUE] += 1
        if took & TCB_CHALLENGE:
            mib[Mib.TCP_CHALLENGEACK] += 1
            mib[Mib.TCP_SYNCHALLENGE] += 1
    if was == state:
        return
    if state == TCP_SYN_SENT and was == TCP_CLOSE:
        mib[Mib.TCP_ACTIVEOPENS] += 1
    elif state == TCP_SYN_RECV and was in (TCP_LISTEN, TCP_CLOSE):
        mib[Mib.TCP_PASSIVEOPENS] += 1
    elif state == TCP_TIME_WAIT:
        mib[Mib.TCP_TW] += 1
    elif state == TCP_CLOSE:
        if was in (TCP_SYN_SENT, TCP_SYN_RECV):
            mib[Mib.TCP_ATTEMPTFAILS] += 1
        elif was in (TCP_ESTABLISHED, TCP_CLOSE_WAIT):
            mib[Mib.TCP_ESTABRESETS] += 1


def conntrack_drop(th: Segment, verdict: int) -> int:
    """Why state did not take the segment; 0 if it did."""
    if verdict & TCB_REFUSED:
        return next(drop for bit, drop in REFUSALS if verdict & bit)
    if th.flags & TCPHDR_RST and not verdict & TCB_RST_TAKEN:
        return Drop.TCP_INVALID_RST
    if not th.flags & (TCPHDR_SYN | TCPHDR_RST | TCPHDR_ACK):
        return Drop.TCP_FLAGS
    return 0


def conntrack_bad(ct: Tracker, flow: Flow, side: int, th: Segment, interface: int) -> int:
    """Count what is wrong with a segment: Drop where the judge shall not have it, else 0."""
    if th.bad & BAD_TCP_CSUM:
        ct.net.mib[Mib.TCP_CSUMERRORS] += 1
    if th.bad & (BAD_TCP_CSUM | BAD_DOFF):
        ct.net.mib[Mib.TCP_INERRS] += 1
    if th.bad & BAD_DOFF:
        return Drop.TCP_BAD_DOFF
    peer = flow.ends[1 - side]
    mss = peer.mss if peer.opts & OPT_MSS else 0
    bad = offload_learn(ct.offload, th, interface, mss)
    if ct.strict:
        bad = th.bad
    elif not ct.auto:
        bad = 0
    if not bad:
        return 0
    return Drop.IP_CSUM if bad & BAD_IP_CSUM else Drop.TCP_CSUM


def _window(th: Segment, end: End, peer: End) -> int:
    """Scale a window where both SYNs were seen and offered it (RFC 7323 2.2), else leave it raw."""
    if th.flags & TCPHDR_SYN or end.opts & peer.opts & OPT_SCALED != OPT_SCALED:
        return th.window
    return th.window << min(end.wscale, TCP_MAX_WSCALE)


def conntrack_context(keyed: int, outer: Outer, interface: int) -> tuple[int, ...]:
    """What of that which is around a segment is part of its connection's key."""
    if not keyed:
        return ()
    return (
        outer.vlans if keyed & KEY_VLAN else 0,
        outer.tunnel if keyed & KEY_TUNNEL else 0,
        interface if keyed & KEY_INTERFACE else 0,
    )


def conntrack_around(
    outer: Outer, interface: int, context: tuple[int, ...], reply: bool
) -> FlowOuter:
    """Keep what is around a first segment; b sent it if it is a reply."""
    around = FlowOuter()
    around.a_addr, around.b_addr = outer.saddr, outer.daddr
    if reply:
        around.a_addr, around.b_addr = outer.daddr, outer.saddr
    around.encap = outer.encap
    around.vlan = outer.vlan
    around.inner_vlan = outer.inner_vlan
    around.interface = interface
    around.context = context
    return around


def tcp_conntrack(
    ct: Tracker,
    th: Segment,
    time_ns: int,
    clamped: bool,
    wirelen: int,
    packet: int,
    frame: Frame,
    outer: Outer,
    interface: int,
) -> tuple[int, int, int, int, int, tuple[int, int, int]]:
    """Follow one segment: (conn, side that sent it, verdict, window in bytes, drop reason, what
    the analysis says of it)."""
    net = ct.net
    if time_ns > net.now_ns and not clamped:
        net.now_ns = time_ns
    if ct.bounded:
        conntrack_expire(ct)
    verdict = 0
    context = conntrack_context(ct.keyed, outer, interface)
    four = flow_key(th.saddr, th.daddr, th.sport, th.dport, th.ip)
    flow = ct.table.inet_lookup_established(four, context)
    if flow is not None and conntrack_splits(flow, flow_side(flow, th), th):
        conntrack_release(ct, flow)
        flow = None
        verdict = CT_REUSED
    if flow is None:
        around = conntrack_around(outer, interface, context, tcp_is_synack(th))
        flow = conntrack_new(ct, th, time_ns, packet, around)
        verdict |= CT_NEW
    elif time_ns - flow.last_ns > TS_RECENT_STALE_NS:
        for end in flow.ends:
            end.tcb.flags &= ~TCB_TSTAMP
    side = flow_side(flow, th)
    was_ns = flow.last_ns
    conntrack_count(flow, side, th, time_ns, wirelen)
    ct.tcp_segments += 1
    net.mib[Mib.TCP_INSEGS] += 1
    drop = conntrack_bad(ct, flow, side, th, interface) if th.bad else 0
    if not drop:
        opening = TCP_SYN_RECV in (flow.ends[0].tcb.state, flow.ends[1].tcb.state)
        rival = opening and conntrack_handshake(ct, flow, side, th)
        was = copy(flow.ends[side].tcb) if rival else None
        verdict |= conntrack_judge(net, flow, side, th)
        if was is not None:
            if flow.synacks < SYNACK_EACH and synack_keep(ct.synacks, flow, side, th):
                flow.synacks += 1
            flow.ends[side].tcb = was
        drop = conntrack_drop(th, verdict)
    if drop:
        ct.drops[drop] += 1
    if ct.queues.on:
        conntrack_queue(ct, flow, side, th, frame, outer.whole, verdict, drop)
    if ct.bounded:
        conntrack_requeue(ct, flow)
    window = _window(th, flow.ends[side], flow.ends[1 - side])
    told = 0, 0, 0
    if flow.analysis is not None:
        told = tcp_analyze(flow, side, th, time_ns, bool(verdict & CT_REUSED))
        tcp_chrono(flow, side, th, was_ns, told[0])
        if told[0]:
            conntrack_classes(ct, told[0], th.payload_len)
    return flow.conn, side, verdict, window, int(drop), told

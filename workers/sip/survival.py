"""A call's state for a successor of this process, and back.

Runs in: sip.
Owns: what goes into `shm.messages.Dialog`.

Rules
1. A successor adds 100 to CSeq and `o=` version: it cannot know what its predecessor sent last.
2. Connections are gone: the next request opens a new one to the route set or target.
3. An un-ACKed 2xx is repeated from the beginning of its timers.

Not here: when to save -> `call.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shm import messages as wire
from workers.sip.dialog import Dialog, SessionTimer
from workers.sip.uri import format_host_port, parse_host_port

if TYPE_CHECKING:
    from workers.sip.call import Call

SDP_VERSION_STEP = 100


def snapshot(call: Call) -> wire.Dialog:
    assert call.dialog is not None
    waiting = call.unacknowledged
    flow = waiting.flow if waiting else call.flow
    return wire.Dialog(
        **call.dialog.fields(),
        leg_id=call.leg_id,
        transport=flow.transport if flow else "UDP",
        destination=format_host_port(*flow.remote) if flow else "",
        local_sdp=call.local_sdp.decode("ascii", "replace"),
        sdp_version=call.sdp_version,
        local_media=call.local,
        media=call.media,
        session_expires_s=call.timer.interval_s,
        refreshes=call.timer.is_ours,
        refreshed_at_ns=int(call.timer.refreshed_at * 1e9),
        acknowledged=waiting is None,
        answer=waiting.data if waiting else b"",
        held_locally=call.held_locally,
        auth=call.auth,
    )


def restore(call: Call, saved: wire.Dialog) -> None:
    """Go on where a predecessor was killed. Connections are gone: the next request opens a new one."""
    call.dialog = Dialog.restored(saved)
    call.local, call.media = saved.local_media, saved.media
    call.local_sdp = saved.local_sdp.encode("ascii", "replace")
    call.sdp_id = _sdp_id(call.local_sdp) or call.sdp_id
    call.sdp_version = saved.sdp_version + SDP_VERSION_STEP
    call.held_locally = saved.held_locally
    call.auth = saved.auth
    call.timer = SessionTimer(saved.session_expires_s, saved.refreshes, saved.refreshed_at_ns / 1e9)
    call.state = "confirmed" if saved.acknowledged else "answered"
    if saved.transport == "UDP" and saved.destination:
        host, port = parse_host_port(saved.destination)
        call.flow = call.calls.transports.udp_flow((host, port or 5060))
    if not saved.acknowledged:
        is_first = saved.remote_cseq == saved.invite_cseq and not saved.is_caller
        call.state = "answered" if is_first else "confirmed"
        if call.flow is not None:
            has_offer = saved.media is None
            call.await_ack(saved.answer, call.flow, saved.remote_cseq, has_offer=has_offer, is_first=is_first)
    call.rearm()


def _sdp_id(description: bytes) -> int:
    """The session id of our own o= line."""
    for line in description.splitlines():
        if line.startswith(b"o="):
            words = line.split()
            return int(words[1]) if len(words) > 2 and words[1].isdigit() else 0
    return 0

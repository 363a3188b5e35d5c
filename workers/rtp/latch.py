"""Whom does a leg listen to? The strict source latch: the first plausible sender, and nobody else afterwards.

Runs in: rtp. Pure: one object a leg, consulted only while the leg is not latched.
Owns: what "plausible" is.

Rules
1. An address that is expected (from SDP, or the one latched before) is believed at its first packet.
2. The expected host from another port (a NAT between) needs 2 packets in a row, anybody else 5: same SSRC, sequence running on.
3. Packets heard before the latch are not played, so a stranger who loses the race was never audible (RTP bleed).

Not here: connect(), which makes the kernel drop strangers → doors.py.
"""

from workers.rtp import address

SAME_HOST_PACKETS = 2
STRANGER_PACKETS = 5
_GAP_LIMIT = 8  # lost packets that a running sequence may have in one place


class Latch:
    def __init__(self, *expected: bytes | None) -> None:
        self.expected = tuple(raw for raw in expected if raw is not None)
        self._candidate: tuple[bytes, int] | None = None  # source, SSRC
        self._sequence = 0
        self._run = 0

    def accepts(self, source: bytes, ssrc: int, sequence: int) -> bool:
        """One valid packet of an agreed payload type; True = lock onto `source` now, beginning with this packet."""
        if source in self.expected:
            return True
        step = (sequence - self._sequence) & 0xFFFF
        goes_on = self._candidate == (source, ssrc) and 1 <= step <= _GAP_LIMIT
        self._candidate, self._sequence = (source, ssrc), sequence
        self._run = self._run + 1 if goes_on else 1
        is_near = any(address.same_host(source, raw) for raw in self.expected)
        return self._run >= (SAME_HOST_PACKETS if is_near else STRANGER_PACKETS)

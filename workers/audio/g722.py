"""G.722 at 64 kbit/s: 16 kHz samples, two a byte, with a memory of the stream.

Runs in: any worker that has a G.722 wire.
Owns: the codec objects; a decoder belongs to one leg, an encoder to one group of legs that hear the same.

Rules
1. One call per packet: the C codec takes 12 to 20 µs per 20 ms either way, so legs that hear the same share an encoder.
2. Both ends start from zero: reset on a new SSRC and when a group's source changes. The other side recovers within some ms.

Not here: RTP's 8 kHz clock for this 16 kHz codec (RFC 3551, section 4.5.2) → workers/rtp.
"""

import numpy as np
from G722 import G722
from numpy.typing import NDArray

G722_RATE_HZ = 16_000
_BITS_PER_SECOND = 64_000


class G722Decoder:
    """One incoming stream."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the stream so far."""
        self._codec = G722(G722_RATE_HZ, _BITS_PER_SECOND)

    def decode(self, payload: bytes | bytearray | memoryview | NDArray[np.uint8]) -> NDArray[np.int16]:
        """n bytes → 2n samples. Any bytes decode to something: there is no invalid G.722."""
        return np.frombuffer(self._codec.decode(bytes(payload)), np.int16)


class G722Encoder:
    """One outgoing stream, or one for all who hear the same."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the stream so far."""
        self._codec = G722(G722_RATE_HZ, _BITS_PER_SECOND)

    def encode(self, samples: NDArray[np.int16]) -> bytes:
        """2n samples → n bytes. An odd last sample is dropped."""
        encoded: bytes = self._codec.encode(samples)
        return encoded

"""L16: linear PCM in network byte order (RFC 3551, section 4.5.11), mono.

Runs in: any worker that has an L16 wire.
Owns: the byte order.

Not here: the sample rate (48 kHz wires too are only samples here) → workers/rtp.
"""

import numpy as np
from numpy.typing import NDArray

_WIRE = np.dtype(">i2")


def l16_decode(payload: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Bytes (..., 2n), the last axis contiguous → samples (..., n). An odd last axis is a ValueError."""
    return payload.view(_WIRE).astype(np.int16)


def l16_encode(samples: NDArray[np.int16]) -> NDArray[np.uint8]:
    """Samples (..., n) → bytes (..., 2n)."""
    return samples.astype(_WIRE, order="C").view(np.uint8)

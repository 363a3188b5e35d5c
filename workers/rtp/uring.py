"""UDP for thousands of sockets with two system calls a wake-up: io_uring, its queues seen as numpy arrays.

Runs in: rtp.
Owns: one ring, its registered sockets, the buffers that datagrams arrive in.

Rules
1. Each socket has one multishot recvmsg armed; whatever ends it but a removal (no buffers left, an ICMP unreachable) arms it again.
2. With DEFER_TASKRUN nothing happens between two enters that ask for events, and one works off about 20 items, with or without
   a completion: ask again for as long as the kernel says that there is work (TASKRUN_FLAG).
3. The number of buffers follows the number of sockets (100 ms of 20 ms packets each), so memory does too.
4. `user_data` is kind, generation and leg: completions of a leg that is gone are recognised.

Not here: kernels or containers without io_uring → readiness.py.
"""

import ctypes
import errno
import mmap
import os
import resource
import socket
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.rtp import address
from workers.rtp.transport import DATAGRAM_BYTES, LEGS_LIMIT, Arrivals

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_SETUP, _ENTER, _REGISTER = 425, 426, 427

# Set-up flags, from most to least (kernel): CQSIZE, CLAMP, SUBMIT_ALL, TASKRUN_FLAG, SINGLE_ISSUER
# and DEFER_TASKRUN (6.1), NO_SQARRAY (6.6).
_SINCE_6_1 = 1 << 3 | 1 << 4 | 1 << 7 | 1 << 9 | 1 << 12 | 1 << 13
_NO_SQARRAY = 1 << 16
_SETUP_FLAGS = (_SINCE_6_1 | _NO_SQARRAY, _SINCE_6_1)
_SQ_ENTRIES, _CQ_ENTRIES = 4096, 16384
_SQES_OFFSET = 0x10000000
_ENTER_GETEVENTS = 1
_SQ_HAS_WORK = 1 << 2  # IORING_SQ_TASKRUN
_REGISTER_FILES, _REGISTER_FILES_UPDATE, _REGISTER_BUFFER_RING = 2, 6, 22

_OP_SENDMSG, _OP_RECVMSG, _OP_CANCEL, _OP_SEND = 9, 10, 14, 26
_FIXED_FILE, _BUFFER_SELECT, _SKIP_SUCCESS = 1 << 0, 1 << 5, 1 << 6
_RECV_MULTISHOT = 1 << 1
_CQE_HAS_BUFFER, _CQE_MORE, _CQE_WHOLE = 1, 2, 3
_MSG_DONTWAIT, _MSG_TRUNC = 0x40, 0x20

_RECEIVE, _SEND, _CANCEL = 0, 1, 2  # kinds of user_data
_KIND_SHIFT, _LEG_MASK = np.uint64(56), np.uint64(0xFFFF)
_NOT_ADDED = 0xFF << 56
_ROUNDS_LIMIT = 1024  # a flood goes on at the next wake-up

_SQE = np.dtype(
    [
        ("op", "u1"), ("flags", "u1"), ("ioprio", "u2"), ("fd", "i4"), ("off", "u8"), ("addr", "u8"), ("len", "u4"),
        ("msg_flags", "u4"), ("user_data", "u8"), ("buffer_group", "u2"), ("pad0", "u2"), ("file_index", "i4"), ("pad1", "u8", 2),
    ]
)  # fmt: skip
_CQE = np.dtype([("user_data", "u8"), ("res", "i4"), ("flags", "u4")])
_BUFFER = np.dtype([("addr", "u8"), ("len", "u4"), ("bid", "u2"), ("tail", "u2")])  # `tail` counts in entry 0 only
_MSGHDR = np.dtype(
    [
        ("name", "u8"), ("namelen", "u4"), ("pad0", "u4"), ("iov", "u8"), ("iovlen", "u8"), ("control", "u8"),
        ("controllen", "u8"), ("flags", "i4"), ("pad1", "u4"),
    ]
)  # fmt: skip
_IOVEC = np.dtype([("base", "u8"), ("len", "u8")])

# A received buffer: io_uring_recvmsg_out, then the source, then the datagram.
#      0         4            8            12       16              44
#      +---------+------------+------------+--------+---------------+------------
#      | namelen | controllen | payloadlen | flags  | sockaddr      | datagram …
#      +---------+------------+------------+--------+---------------+------------
_NAME_AT = 16
_DATA_AT = _NAME_AT + address.SOCKADDR_BYTES
_BUFFER_BYTES = 2048
_BUFFERS_LIMIT = 16384
_BUFFERS_PER_LEG = 6
_BUFFERS_SPARE = 256
_WIDTHS = (_DATA_AT + 172, 512, 1024, _BUFFER_BYTES)  # what is copied out of each buffer: G.711 at 20 ms fits the first
assert _DATA_AT + DATAGRAM_BYTES <= _BUFFER_BYTES


def _check(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"io_uring {what}: {os.strerror(code)}")
    return result


def _memory(size_bytes: int) -> NDArray[np.uint8]:
    """Zeroed pages that take no memory until touched."""
    return np.frombuffer(mmap.mmap(-1, size_bytes), np.uint8)


def _pointer(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])


class Uring:
    """`Transport` over io_uring. The constructor raises OSError where the kernel refuses."""

    name = "uring"

    def __init__(self) -> None:
        self.refused = 0
        self.unsent = 0
        self._open()
        self._limit = min(LEGS_LIMIT, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        files = np.full(self._limit, -1, np.int32)
        _check(_syscall(_REGISTER, self._fd, _REGISTER_FILES, ctypes.c_void_p(_pointer(files)), self._limit), "files")
        self._generation = np.zeros(self._limit, np.int64)
        self._expected = np.full(self._limit, _NOT_ADDED, np.uint64)  # user_data of the armed receive
        self._sockets: dict[int, socket.socket] = {}
        self._destinations: dict[int, address.PythonAddress] = {}
        self._open_buffers()
        self._receive_header = np.zeros(1, _MSGHDR)
        self._receive_header["namelen"] = address.SOCKADDR_BYTES
        self._names = np.zeros((self._limit, address.SOCKADDR_BYTES), np.uint8)
        self._vectors = np.zeros(self._limit, _IOVEC)
        self._headers = np.zeros(self._limit, _MSGHDR)
        index = np.arange(self._limit, dtype=np.uint64)
        self._headers["name"] = _pointer(self._names) + index * np.uint64(address.SOCKADDR_BYTES)
        self._headers["iov"] = _pointer(self._vectors) + index * np.uint64(_IOVEC.itemsize)
        self._headers["iovlen"] = 1
        self._is_aimed = np.zeros(self._limit, np.bool_)

    def _open(self) -> None:
        for flags in _SETUP_FLAGS:
            params = np.zeros(30, np.uint32)  # struct io_uring_params: sq_off from word 10, cq_off from word 20
            params[:3] = _SQ_ENTRIES, _CQ_ENTRIES, flags
            self._fd = _syscall(_SETUP, _SQ_ENTRIES, ctypes.c_void_p(_pointer(params)))
            if self._fd >= 0 or ctypes.get_errno() != errno.EINVAL:
                break
        _check(self._fd, "setup")
        sq_offsets, cq_offsets = [int(word) for word in params[10:20]], [int(word) for word in params[20:30]]
        self._sq_mask, self._cq_mask = int(params[0]) - 1, int(params[1]) - 1
        size_bytes = max(sq_offsets[6] + (self._sq_mask + 1) * 4, cq_offsets[5] + (self._cq_mask + 1) * _CQE.itemsize)
        rings = np.frombuffer(mmap.mmap(self._fd, size_bytes, offset=0), np.uint8)

        def word(offset: int) -> NDArray[np.uint32]:
            return rings[offset : offset + 4].view(np.uint32)

        self._sq_head, self._sq_tail = word(sq_offsets[0]), word(sq_offsets[1])
        self._sq_flags = word(sq_offsets[4])
        self._cq_head, self._cq_tail = word(cq_offsets[0]), word(cq_offsets[1])
        if not flags & _NO_SQARRAY:
            array = rings[sq_offsets[6] : sq_offsets[6] + (self._sq_mask + 1) * 4].view(np.uint32)
            array[:] = np.arange(self._sq_mask + 1)
        self._cqes = rings[cq_offsets[5] : cq_offsets[5] + (self._cq_mask + 1) * _CQE.itemsize].view(_CQE)
        entries = mmap.mmap(self._fd, (self._sq_mask + 1) * _SQE.itemsize, offset=_SQES_OFFSET)
        self._sqes = np.frombuffer(entries, _SQE)
        self._tail = 0
        self._head = 0

    def _open_buffers(self) -> None:
        self._buffers = _memory(_BUFFERS_LIMIT * _BUFFER.itemsize).view(_BUFFER)
        self._pool = _memory(_BUFFERS_LIMIT * _BUFFER_BYTES)
        self._entries = np.zeros(_BUFFERS_LIMIT, _BUFFER)  # what the ring says of each buffer
        self._entries["bid"] = np.arange(_BUFFERS_LIMIT)
        self._entries["addr"] = _pointer(self._pool) + np.arange(_BUFFERS_LIMIT, dtype=np.uint64) * np.uint64(
            _BUFFER_BYTES
        )
        self._entries["len"] = _BUFFER_BYTES
        self._views = [
            np.ndarray((_BUFFERS_LIMIT,), f"V{width}", self._pool.data, strides=(_BUFFER_BYTES,)) for width in _WIDTHS
        ]
        registration = np.zeros(5, np.uint64)  # struct io_uring_buf_reg: address, entries and group, reserved
        registration[0] = _pointer(self._buffers)
        registration[1] = _BUFFERS_LIMIT
        pointer = ctypes.c_void_p(_pointer(registration))
        _check(_syscall(_REGISTER, self._fd, _REGISTER_BUFFER_RING, pointer, 1), "buffer ring")
        self._buffers_tail = 0
        self._buffers_given = 0
        self._give_buffers(_BUFFERS_SPARE)

    def close(self) -> None:
        os.close(self._fd)

    # ------------------------------------------------------------------------------------------ membership

    def add(self, leg: int, sock: socket.socket) -> None:
        if leg >= self._limit:
            raise OSError(errno.EMFILE, "more sockets than descriptors")
        self._set_file(leg, sock.fileno())
        self._sockets[leg] = sock
        self._generation[leg] = (self._generation[leg] + 1) & 0xFFFFFF
        self._expected[leg] = self._user_data(leg)
        wanted = min(_BUFFERS_SPARE + _BUFFERS_PER_LEG * len(self._sockets), _BUFFERS_LIMIT)
        if wanted > self._buffers_given:
            self._give_buffers(wanted - self._buffers_given)
        self._arm(np.array([leg], np.int64))

    def remove(self, leg: int) -> None:
        sqe = np.zeros(1, _SQE)
        sqe["op"] = _OP_CANCEL
        sqe["fd"] = -1
        sqe["addr"] = self._expected[leg]
        sqe["user_data"] = _CANCEL << 56
        self._expected[leg] = _NOT_ADDED
        self._push(sqe)
        self.submit()
        self._set_file(leg, -1)
        del self._sockets[leg]
        self.aim(leg, None)

    def aim(self, leg: int, destination: bytes | None) -> None:
        self._is_aimed[leg] = destination is not None
        self._destinations.pop(leg, None)
        if destination is not None:
            self._names[leg] = np.frombuffer(destination, np.uint8)
            self._headers["namelen"][leg] = address.length(destination)
            self._destinations[leg] = address.unpack(destination)

    def _set_file(self, leg: int, fd: int) -> None:
        files = np.array([fd], np.int32)
        update = np.array([leg, _pointer(files)], np.uint64)  # struct io_uring_files_update: offset, pointer
        pointer = ctypes.c_void_p(_pointer(update))
        _check(_syscall(_REGISTER, self._fd, _REGISTER_FILES_UPDATE, pointer, 1), "file")

    def _user_data(self, leg: int) -> int:
        return _RECEIVE << 56 | int(self._generation[leg]) << 32 | leg

    # ------------------------------------------------------------------------------------------ queues

    def _push(self, sqes: NDArray[np.void]) -> None:
        """Queue entries; enters only when the queue is full."""
        start = 0
        while start < len(sqes):
            free = self._sq_mask + 1 - ((self._tail - int(self._sq_head[0])) & 0xFFFFFFFF)
            place = self._tail & self._sq_mask
            count = min(len(sqes) - start, free, self._sq_mask + 1 - place)
            if not count and not free:
                self.submit()
                continue
            self._sqes[place : place + count] = sqes[start : start + count]
            start += count
            self._tail = (self._tail + count) & 0xFFFFFFFF
            self._sq_tail[0] = self._tail

    def submit(self) -> None:
        waiting = (self._tail - int(self._sq_head[0])) & 0xFFFFFFFF
        if waiting:
            self._enter(waiting, 0)

    def _enter(self, to_submit: int, flags: int) -> None:
        """Hand over what is queued; with GETEVENTS let the kernel post what has happened. A full queue or a signal is no error."""
        if _syscall(_ENTER, self._fd, to_submit, 0, flags, None, 0) < 0:
            code = ctypes.get_errno()
            if code not in (errno.EINTR, errno.EBUSY, errno.EAGAIN):
                raise OSError(code, f"io_uring enter: {os.strerror(code)}")

    def _reap(self) -> NDArray[np.void] | None:
        tail = int(self._cq_tail[0])
        count = (tail - self._head) & 0xFFFFFFFF
        if not count:
            return None
        start = self._head & self._cq_mask
        end = start + count
        if end <= self._cq_mask + 1:
            completions = self._cqes[start:end].copy()
        else:
            completions = np.concatenate((self._cqes[start:], self._cqes[: end - self._cq_mask - 1]))
        self._head = tail
        self._cq_head[0] = tail
        return completions

    def _give_buffers(self, count: int) -> None:
        self._recycle(np.arange(self._buffers_given, self._buffers_given + count, dtype=np.uint32))
        self._buffers_given += count

    def _recycle(self, bids: NDArray[np.uint32]) -> None:
        """Give buffers back. The kernel looks at the ring within our own system calls only, so the tail may be last."""
        place = self._buffers_tail & (_BUFFERS_LIMIT - 1)
        fitting = _BUFFERS_LIMIT - place
        self._buffers[place : place + len(bids)] = self._entries[bids[:fitting]]
        if fitting < len(bids):
            self._buffers[: len(bids) - fitting] = self._entries[bids[fitting:]]
        self._buffers_tail += len(bids)
        self._buffers["tail"][0] = self._buffers_tail & 0xFFFF

    # ------------------------------------------------------------------------------------------ traffic

    def _arm(self, legs: NDArray[np.int64]) -> None:
        sqes = np.zeros(len(legs), _SQE)
        sqes["op"] = _OP_RECVMSG
        sqes["flags"] = _FIXED_FILE | _BUFFER_SELECT
        sqes["ioprio"] = _RECV_MULTISHOT
        sqes["fd"] = legs
        sqes["addr"] = _pointer(self._receive_header)
        sqes["len"] = 1
        sqes["user_data"] = self._expected[legs]
        self._push(sqes)

    def receive(self) -> Arrivals | None:
        parts = []
        for _ in range(_ROUNDS_LIMIT):
            waiting = (self._tail - int(self._sq_head[0])) & 0xFFFFFFFF
            if not waiting and not self._sq_flags[0] & _SQ_HAS_WORK:
                break
            self._enter(waiting, _ENTER_GETEVENTS)
            completions = self._reap()
            if completions is not None:
                parts.append(completions)
        return self._sort_out(parts[0] if len(parts) == 1 else np.concatenate(parts)) if parts else None

    def _sort_out(self, completions: NDArray[np.void]) -> Arrivals | None:
        """Collect what has arrived; arm again whatever has ended."""
        user_data, flags = completions["user_data"], completions["flags"]
        leg = (user_data & _LEG_MASK).astype(np.int64)
        if (flags & _CQE_WHOLE == _CQE_WHOLE).all() and (user_data == self._expected[leg]).all():
            return self._collect(leg, flags >> np.uint32(16), int(completions["res"].max()))
        is_send = user_data >> _KIND_SHIFT == _SEND
        self.unsent += int(np.count_nonzero(is_send))
        is_mine = user_data == self._expected[leg]
        filled = (flags & _CQE_HAS_BUFFER) != 0
        ended = leg[is_mine & ((flags & _CQE_MORE) == 0)]
        arrivals = None
        if filled.any():
            leg[~is_mine] = -1
            arrivals = self._collect(leg[filled], flags[filled] >> np.uint32(16), int(completions["res"][filled].max()))
        if len(ended):
            self._arm(ended)
        return arrivals

    def _collect(self, leg: NDArray[np.int64], bids: NDArray[np.uint32], largest: int) -> Arrivals | None:
        width = next((index for index, width in enumerate(_WIDTHS) if largest <= width), len(_WIDTHS) - 1)
        rows = self._views[width][bids].view(np.uint8).reshape(len(bids), _WIDTHS[width])
        self._recycle(bids)
        out = rows[:, :_NAME_AT].view(np.uint32)
        too_long = (out[:, 3] & _MSG_TRUNC) != 0
        bad = too_long | (leg < 0)
        if bad.any():
            self.refused += int(np.count_nonzero(too_long))
            rows, leg, out = rows[~bad], leg[~bad], out[~bad]
            if not len(leg):
                return None
        return Arrivals(leg, out[:, 2].astype(np.int64), rows[:, _DATA_AT:], rows[:, _NAME_AT:_DATA_AT])

    def prepare(self, legs: NDArray[np.int64], packets: NDArray[np.uint8]) -> NDArray[np.void]:
        count, size_bytes = packets.shape
        addresses = _pointer(packets) + np.arange(count, dtype=np.uint64) * np.uint64(packets.strides[0])
        sqes = np.zeros(count, _SQE)
        sqes["op"] = _OP_SEND
        sqes["flags"] = _FIXED_FILE | _SKIP_SUCCESS
        sqes["fd"] = legs
        sqes["addr"] = addresses
        sqes["len"] = size_bytes
        sqes["msg_flags"] = _MSG_DONTWAIT
        sqes["user_data"] = _SEND << 56
        aimed = self._is_aimed[legs]
        if aimed.any():
            to = legs[aimed]
            self._vectors["base"][to] = addresses[aimed]
            self._vectors["len"][to] = size_bytes
            sqes["op"][aimed] = _OP_SENDMSG
            sqes["addr"][aimed] = _pointer(self._headers) + to.astype(np.uint64) * np.uint64(_MSGHDR.itemsize)
            sqes["len"][aimed] = 1
        return sqes

    def send(self, prepared: NDArray[np.void]) -> None:
        self._push(prepared)

    def send_one(self, leg: int, data: bytes) -> None:
        try:
            if leg in self._destinations:
                self._sockets[leg].sendto(data, socket.MSG_DONTWAIT, self._destinations[leg])
            else:
                self._sockets[leg].send(data, socket.MSG_DONTWAIT)
        except OSError:
            self.unsent += 1

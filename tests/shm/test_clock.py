"""Ticks, phases and the two ways of sleeping to a deadline."""

import itertools
import os

import pytest

from shm import clock


def test_phases_mix_five_milliseconds_apart_and_before_the_next_tick():
    times = [clock.mix_time_ns(100, phase) for phase in range(clock.PHASES)]
    assert [later - earlier for earlier, later in itertools.pairwise(times)] == [clock.PHASE_NS] * 3
    assert clock.mix_time_ns(101, 0) - times[0] == clock.TICK_NS
    assert all(time_ns // clock.TICK_NS == 100 for time_ns in times)


@pytest.mark.parametrize("ahead_ns", [3_000_000, 0, -5_000_000])
def test_sleeping_never_ends_before_the_deadline(ahead_ns):
    deadline_ns = clock.monotonic_ns() + ahead_ns
    clock.sleep_until_ns(deadline_ns)
    assert clock.monotonic_ns() >= deadline_ns


def test_waiting_ends_at_the_deadline_or_when_something_is_readable():
    read_fd, write_fd = os.pipe()
    deadline_ns = clock.monotonic_ns() + 3_000_000
    assert not clock.wait_until_ns(deadline_ns, read_fd)
    assert clock.monotonic_ns() >= deadline_ns
    os.write(write_fd, b"!")
    far_ns = clock.monotonic_ns() + 60_000_000_000
    assert clock.wait_until_ns(far_ns, read_fd)
    assert clock.monotonic_ns() < far_ns
    os.close(read_fd)
    os.close(write_fd)

import contextlib
import socket

import pytest

from app.legs.ports import Ports
from shm.errors import ResourceError


def test_even_ports_whose_rtcp_port_is_in_the_range_too():
    ports = Ports(10001, 10010)
    assert [ports.take("127.0.0.1") for _ in range(ports.capacity)] == [10002, 10004, 10006, 10008]
    with pytest.raises(ResourceError):
        ports.take("127.0.0.1")


def test_a_freed_port_waits_until_all_others_had_their_turn():
    ports = Ports(10000, 10008)
    first = ports.take("127.0.0.1")
    ports.give_back(first)
    assert [ports.take("127.0.0.1") for _ in range(4)] == [10002, 10004, 10006, first]


def test_ports_in_use_are_not_given_out_by_a_successor():
    ports = Ports(10000, 10008)
    ports.resume([10002, 10006])
    assert [ports.take("127.0.0.1") for _ in range(2)] == [10000, 10004]


def test_ports_chosen_by_the_system_are_even_and_free():
    ports = Ports(0, 0)
    assert all(ports.take("127.0.0.1") % 2 == 0 for _ in range(5))


def before_a_free_port():
    """A free even port; the next even one is free, too."""
    while True:
        port = Ports(0, 0).take("127.0.0.1")
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", port + 2))
            return port


def test_probing_skips_what_other_programs_hold():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        taken = before_a_free_port()
        other.bind(("127.0.0.1", taken))
        ports = Ports(taken, taken + 4)
        assert ports.take("127.0.0.1", probed=True) == taken + 2
        assert ports.take("127.0.0.1") == taken  # at the end
        with pytest.raises(ResourceError):
            ports.take("127.0.0.1", probed=True)

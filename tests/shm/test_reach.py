import socket
from ipaddress import ip_address

import pytest

from shm.reach import NAMES_REMEMBERED, Forbidden, GuardedResolver, Reach


def passes(text, *, private_allowed=True, host="name", reach=None):
    try:
        (reach or Reach(private_allowed=private_allowed)).check(host, ip_address(text))
    except Forbidden:
        return False
    return True


@pytest.mark.parametrize("text", ["169.254.169.254", "169.254.0.1", "fe80::1", "fd00:ec2::254", "100.100.100.200"])
def test_never(text):
    assert not passes(text)


@pytest.mark.parametrize("text", ["127.0.0.1", "10.1.2.3", "192.168.0.1", "::1", "fd12::1", "0.0.0.0", "100.64.0.1"])
def test_private(text):
    assert passes(text)
    assert not passes(text, private_allowed=False)


@pytest.mark.parametrize("text", ["8.8.8.8", "2606:4700::1111"])
def test_public(text):
    assert passes(text, private_allowed=False)


def test_a_public_name_does_not_turn_private():
    reach = Reach(private_allowed=True)
    assert passes("10.0.0.1", reach=reach)
    assert passes("8.8.8.8", reach=reach)
    assert not passes("10.0.0.1", reach=reach)
    assert passes("10.0.0.1", host="another", reach=reach)


def test_names_are_remembered_up_to_a_limit():
    reach = Reach(private_allowed=True)
    for number in range(NAMES_REMEMBERED + 1):
        reach.check(str(number), ip_address("8.8.8.8"))
    assert passes("10.0.0.1", host="0", reach=reach)
    assert not passes("10.0.0.1", host="1", reach=reach)


async def test_one_bad_answer_refuses_the_name():
    resolver = GuardedResolver(Reach(private_allowed=True))

    class Answers:
        async def resolve(self, host, port, family):
            return [{"host": "8.8.8.8"}, {"host": "169.254.169.254"}]

    resolver._resolver = Answers()
    with pytest.raises(Forbidden):
        await resolver.resolve("name", 80, socket.AF_INET)

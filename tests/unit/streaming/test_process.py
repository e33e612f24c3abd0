"""Processes of the stack: their ports."""

from streaming import process


def test_no_port_twice() -> None:
    """If this fails, two services are given the same port, and the second does not start."""
    wish = process.free_ports(1)[0]
    ports = process.free_ports(200, [wish] * 200)
    assert ports[0] == wish
    assert len(set(ports)) == 200

"""Ports for servers that tests, and the pictures of their pages, start on this machine."""

import socket
from contextlib import ExitStack


def free_ports(number: int) -> list[int]:
    """As many different ports of loopback that nobody listens on."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(number)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]

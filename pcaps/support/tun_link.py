#!/usr/bin/env python3
"""Join a tun device in one network namespace with a tun device in another.

Usage: tun_link.py INTERFACE NAMESPACE_A NAMESPACE_B
The devices carry IP packets without a link-layer header, which is the point of the
capture taken from them. Packets are handed over unchanged. Prints "ready" once both
devices exist; runs until it is stopped.
"""

import ctypes
import fcntl
import os
import select
import struct
import sys

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)


def open_tun(interface, namespace):
    # os.setns needs Python 3.12; Debian 12 has 3.11.
    with open(f"/run/netns/{namespace}") as handle:
        if LIBC.setns(handle.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")
    tun = os.open("/dev/net/tun", os.O_RDWR)
    request = struct.pack("16sH22x", interface.encode(), IFF_TUN | IFF_NO_PI)
    fcntl.ioctl(tun, TUNSETIFF, request)
    return tun


def main():
    interface, first, second = sys.argv[1:]
    left, right = open_tun(interface, first), open_tun(interface, second)
    print("ready", flush=True)
    while True:
        for tun in select.select([left, right], [], [])[0]:
            os.write(right if tun == left else left, os.read(tun, 65536))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""A server that lets its receive window close to zero, and later reads everything.

Usage: slow_reader.py ADDRESS PORT
"""

import fcntl
import socket
import struct
import sys
import termios
import time

# Between the sender's second zero-window probe, about 0.7 s after the window has closed, and
# its third, about 1.6 s after.
HOLD_SECONDS = 1.1


def waiting(connection):
    """Return how many bytes the kernel holds for us."""
    return struct.unpack("i", fcntl.ioctl(connection, termios.FIONREAD, b"\0" * 4))[0]


def main():
    server = socket.socket()
    # Set before listen: the window scale of the handshake follows from it.
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((sys.argv[1], int(sys.argv[2])))
    server.listen(1)
    connection, _ = server.accept()

    # The buffer is full when it has something and has stopped growing.
    before, since = 0, time.monotonic()
    while before == 0 or time.monotonic() - since < HOLD_SECONDS:
        now = waiting(connection)
        if now != before:
            before, since = now, time.monotonic()
        time.sleep(0.01)

    total = 0
    while chunk := connection.recv(1024):
        total += len(chunk)
    connection.close()
    print(f"read {total} bytes", flush=True)


if __name__ == "__main__":
    main()

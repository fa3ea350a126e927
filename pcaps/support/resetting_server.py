#!/usr/bin/env python3
"""A server that closes a connection while data it has not read is waiting.

The kernel then answers with a reset instead of a FIN.

Usage: resetting_server.py ADDRESS PORT
"""

import select
import socket
import sys


def main():
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((sys.argv[1], int(sys.argv[2])))
    server.listen(1)
    connection, _ = server.accept()
    select.select([connection], [], [])
    connection.close()


if __name__ == "__main__":
    main()

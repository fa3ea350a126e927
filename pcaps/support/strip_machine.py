#!/usr/bin/env python3
"""Remove the hardware and operating-system options from a pcapng file.

dumpcap writes the machine's processor and kernel into the section header and into every
interface description; they say nothing about the traffic and differ wherever the capture
is recorded. Everything else stays byte for byte.

Usage: strip_machine.py FILE
"""

import pathlib
import struct
import sys

END_OF_OPTIONS = 0
# Block type: (where its options begin, the options for hardware and operating system).
STRIPPED = {
    0x0A0D0D0A: (24, (2, 3)),
    0x00000001: (16, (15, 12)),
}


def without(block, at, unwanted):
    """Return the block without the unwanted options."""
    body = block[8:at]
    while at < len(block) - 4:
        code, length = struct.unpack_from("<HH", block, at)
        end = at + 4 + (length + 3) // 4 * 4
        if code not in unwanted:
            body += block[at:end]
        at = end
        if code == END_OF_OPTIONS:
            break
    size = struct.pack("<I", len(body) + 12)
    return block[:4] + size + body + size


def main():
    path = pathlib.Path(sys.argv[1])
    data = path.read_bytes()
    if data[:4] != b"\x0a\x0d\x0d\x0a" or data[8:12] != b"\x4d\x3c\x2b\x1a":
        raise SystemExit("not a little-endian pcapng file")
    if data[16:24] != b"\xff" * 8:
        raise SystemExit("the section header states a length, which would have to change")
    out, at = b"", 0
    while at < len(data):
        kind, size = struct.unpack_from("<II", data, at)
        block = data[at : at + size]
        if kind in STRIPPED:
            block = without(block, *STRIPPED[kind])
        out += block
        at += size
    path.write_bytes(out)


if __name__ == "__main__":
    main()

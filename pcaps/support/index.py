#!/usr/bin/env python3
"""Write one capture's entry into index.toml and leave the other entries as they are.

Facts that can be read from the file (link type, number of packets, SHA-256) are read from
the file here, so that the index cannot disagree with it.
"""

import argparse
import hashlib
import pathlib
import struct
import tomllib

HEADER = """\
# Where every capture in this folder comes from. Written by `record`; one entry per file,
# sorted by file name. README.md explains the fields.
"""

FIELDS = [
    "file",
    "purpose",
    "origin",
    "command",
    "software",
    "recorded",
    "link_type",
    "packets",
    "licence",
    "sha256",
]

LINK_TYPES = {1: "EN10MB", 12: "RAW", 101: "RAW", 113: "LINUX_SLL", 276: "LINUX_SLL2"}

CLASSIC_MAGICS = (0xA1B2C3D4, 0xA1B23C4D)
SECTION_HEADER, INTERFACE, SIMPLE_PACKET, ENHANCED_PACKET = 0x0A0D0D0A, 1, 3, 6


def classic(data, order):
    """Return (link types, packets) of a classic pcap file."""
    link = struct.unpack_from(order + "I", data, 20)[0] & 0xFFFF
    packets, at = 0, 24
    while at < len(data):
        at += 16 + struct.unpack_from(order + "I", data, at + 8)[0]
        packets += 1
    if at != len(data):
        raise SystemExit("the file ends inside a packet")
    return [link], packets


def pcapng(data):
    """Return (link types, packets) of a pcapng file."""
    links, packets, at, order = [], 0, 0, "<"
    while at < len(data):
        kind = struct.unpack_from("<I", data, at)[0]
        if kind == SECTION_HEADER:
            big = data[at + 8 : at + 12] == b"\x1a\x2b\x3c\x4d"
            order = ">" if big else "<"
        kind, size = struct.unpack_from(order + "II", data, at)
        if kind == INTERFACE:
            links.append(struct.unpack_from(order + "H", data, at + 8)[0])
        elif kind in (SIMPLE_PACKET, ENHANCED_PACKET):
            packets += 1
        at += size
    if at != len(data):
        raise SystemExit("the file ends inside a block")
    return links, packets


def facts(path):
    """Read what the index states about a file from the file itself."""
    data = path.read_bytes()
    if struct.unpack_from("<I", data)[0] == SECTION_HEADER:
        links, packets = pcapng(data)
    else:
        for order in "<>":
            if struct.unpack_from(order + "I", data)[0] in CLASSIC_MAGICS:
                links, packets = classic(data, order)
                break
        else:
            raise SystemExit(f"{path.name}: not a capture file")
    names = sorted({LINK_TYPES.get(link, str(link)) for link in links})
    return ", ".join(names), packets, hashlib.sha256(data).hexdigest()


def quoted(value):
    """Format a value as TOML; JSON's escapes for strings are not all TOML's, so do it here."""
    if isinstance(value, int):
        return str(value)
    out = []
    for char in value:
        if char in '"\\':
            out.append("\\" + char)
        elif ord(char) < 0x20 or ord(char) == 0x7F:
            out.append(f"\\u{ord(char):04x}")
        else:
            out.append(char)
    return '"' + "".join(out) + '"'


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("index", type=pathlib.Path)
    parser.add_argument("capture", type=pathlib.Path)
    for name in ("purpose", "origin", "command", "software", "recorded"):
        parser.add_argument("--" + name, required=True)
    args = parser.parse_args()

    entries = {}
    if args.index.exists():
        for entry in tomllib.loads(args.index.read_text())["capture"]:
            entries[entry["file"]] = entry
    link_type, packets, digest = facts(args.capture)
    entries[args.capture.name] = {
        "file": args.capture.name,
        "purpose": args.purpose,
        "origin": args.origin,
        "command": args.command,
        "software": args.software,
        "recorded": args.recorded,
        "link_type": link_type,
        "packets": packets,
        "licence": "MIT OR Apache-2.0",
        "sha256": digest,
    }

    text = HEADER
    for name in sorted(entries):
        text += "\n[[capture]]\n"
        for field in FIELDS:
            text += f"{field} = {quoted(entries[name][field])}\n"
    args.index.write_text(text)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Put VLAN tags on everything that leaves an interface and take them off what arrives.

A kernel without 802.1Q subinterfaces can still tag: two small eBPF programs at the
interface's tcx hooks call bpf_skb_vlan_push and bpf_skb_vlan_pop. Captures on the
interface see the tagged frames, because packet sockets are served after the egress hook
and before the ingress hook. Frames that do not carry the expected tag are dropped, as on
a trunk that has only this VLAN.

Usage: tag.py INTERFACE INNER_TCI [OUTER_TCI]
Tag control words are numbers such as 0x600a (priority 3, VLAN 10). With an outer one, an
802.1ad tag is put around the 802.1Q tag. Prints "ready" and stays until it is stopped:
the programs live as long as this process.
"""

import ctypes
import os
import platform
import signal
import socket
import struct
import sys

BPF_PROG_LOAD, BPF_LINK_CREATE = 5, 28
SCHED_CLS, TCX_INGRESS, TCX_EGRESS = 3, 46, 47
VLAN_PUSH, VLAN_POP = 18, 19
TCX_NEXT, TCX_DROP = -1, 2
Q_TAG, AD_TAG = 0x8100, 0x88A8
SKB_VLAN_PRESENT, SKB_VLAN_TCI = 20, 24
R0, R1, R2, R3, R6 = 0, 1, 2, 3, 6

SYSCALL = {"x86_64": 321, "aarch64": 280, "riscv64": 280}[platform.machine()]
LIBC = ctypes.CDLL(None, use_errno=True)


def insn(code, dst=0, src=0, off=0, imm=0):
    return struct.pack("=BBhi", code, src << 4 | dst, off, imm)


def mov(dst, imm):
    return insn(0xB7, dst, imm=imm)


def copy(dst, src):
    return insn(0xBF, dst, src)


def load32(dst, src, off):
    return insn(0x61, dst, src, off)


def call(helper):
    return insn(0x85, imm=helper)


EXIT = insn(0x95)


def push_program(tags):
    """Push each (protocol, tag control word), the innermost first."""
    code = copy(R6, R1)
    for protocol, tci in tags:
        code += copy(R1, R6) + mov(R2, socket.htons(protocol)) + mov(R3, tci) + call(VLAN_PUSH)
    return code + mov(R0, TCX_NEXT) + EXIT


def pop_program(tags):
    """Pop each tag, the outermost first; drop the frame if the tag is not the expected one."""
    code = copy(R6, R1)
    drop = mov(R0, TCX_DROP) + EXIT
    for _, tci in reversed(tags):
        code += load32(R2, R6, SKB_VLAN_PRESENT)
        code += insn(0x55, R2, off=2) + drop  # present: jump over the drop
        code += load32(R2, R6, SKB_VLAN_TCI)
        code += insn(0x15, R2, off=2, imm=tci) + drop  # expected: jump over the drop
        code += copy(R1, R6) + call(VLAN_POP)
    return code + mov(R0, TCX_NEXT) + EXIT


def bpf(command, attr):
    buffer = ctypes.create_string_buffer(attr, len(attr))
    result = LIBC.syscall(SYSCALL, command, buffer, len(attr))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def attach(code, interface, hook):
    insns = ctypes.create_string_buffer(code, len(code))
    licence = ctypes.create_string_buffer(b"Dual MIT/GPL")
    log = ctypes.create_string_buffer(65536)
    attr = struct.pack(
        "=IIQQIIQII16sII",
        SCHED_CLS,
        len(code) // 8,
        ctypes.addressof(insns),
        ctypes.addressof(licence),
        1,
        len(log),
        ctypes.addressof(log),
        0,
        0,
        b"tag",
        0,
        hook,
    )
    try:
        program = bpf(BPF_PROG_LOAD, attr)
    except OSError:
        sys.stderr.write(log.value.decode())
        raise
    return bpf(BPF_LINK_CREATE, struct.pack("=IIIIIIQ", program, interface, hook, 0, 0, 0, 0))


def main():
    interface = socket.if_nametoindex(sys.argv[1])
    tags = [(Q_TAG, int(sys.argv[2], 0))]
    if len(sys.argv) > 3:
        tags.append((AD_TAG, int(sys.argv[3], 0)))
    attach(push_program(tags), interface, TCX_EGRESS)
    attach(pop_program(tags), interface, TCX_INGRESS)
    print("ready", flush=True)
    signal.sigwait({signal.SIGINT, signal.SIGTERM})


if __name__ == "__main__":
    main()

//! Capture files and frames built in code.

use std::path::PathBuf;

use etherparse::{Ethernet2Header, PacketBuilder, PacketBuilderStep};

pub const CLIENT: [u8; 4] = [10, 0, 0, 1];
pub const SERVER: [u8; 4] = [10, 0, 0, 2];
/// 2026-01-01 00:00 UTC.
pub const START_S: u32 = 1_767_225_600;

/// A packet to be written: time (ns after `START_S`), bytes, length on the wire.
#[derive(Clone)]
pub struct Record {
    pub after_ns: u64,
    pub data: Vec<u8>,
    pub wire_len: u32,
}

pub fn record(after_ns: u64, data: Vec<u8>) -> Record {
    let wire_len = data.len() as u32;
    Record { after_ns, data, wire_len }
}

pub struct Order {
    pub big: bool,
}

impl Order {
    pub fn u16(&self, value: u16) -> [u8; 2] {
        if self.big { value.to_be_bytes() } else { value.to_le_bytes() }
    }

    pub fn u32(&self, value: u32) -> [u8; 4] {
        if self.big { value.to_be_bytes() } else { value.to_le_bytes() }
    }
}

pub fn pcap(big: bool, nano: bool, link: u32, records: &[Record]) -> Vec<u8> {
    let order = Order { big };
    let magic = if nano { 0xa1b2_3c4d } else { 0xa1b2_c3d4 };
    let mut out = Vec::new();
    out.extend(order.u32(magic));
    out.extend(order.u16(2));
    out.extend(order.u16(4));
    out.extend([0; 8]);
    out.extend(order.u32(262_144));
    out.extend(order.u32(link));
    for record in records {
        let unit = if nano { 1 } else { 1000 };
        out.extend(order.u32(START_S + (record.after_ns / 1_000_000_000) as u32));
        out.extend(order.u32((record.after_ns % 1_000_000_000 / unit) as u32));
        out.extend(order.u32(record.data.len() as u32));
        out.extend(order.u32(record.wire_len));
        out.extend(&record.data);
    }
    out
}

/// pcapng, block by block.
pub struct Pcapng {
    pub order: Order,
    pub out: Vec<u8>,
}

impl Pcapng {
    pub fn new(big: bool) -> Self {
        let mut file = Self { order: Order { big }, out: Vec::new() };
        file.section(big);
        file
    }

    pub fn section(&mut self, big: bool) -> &mut Self {
        self.order = Order { big };
        let mut body = Vec::new();
        body.extend(self.order.u32(0x1a2b_3c4d));
        body.extend(self.order.u16(1));
        body.extend(self.order.u16(0));
        body.extend([0xff; 8]);
        self.block(0x0a0d_0d0a, &body)
    }

    pub fn block(&mut self, kind: u32, body: &[u8]) -> &mut Self {
        let len = self.order.u32(12 + body.len().next_multiple_of(4) as u32);
        self.out.extend(self.order.u32(kind));
        self.out.extend(len);
        self.out.extend(body);
        self.out.resize(self.out.len().next_multiple_of(4), 0);
        self.out.extend(len);
        self
    }

    /// `options`: code and value each.
    pub fn interface(&mut self, link: u16, snaplen: u32, options: &[(u16, &[u8])]) -> &mut Self {
        let mut body = Vec::new();
        body.extend(self.order.u16(link));
        body.extend([0; 2]);
        body.extend(self.order.u32(snaplen));
        for (code, value) in options {
            body.extend(self.order.u16(*code));
            body.extend(self.order.u16(value.len() as u16));
            body.extend(*value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        body.extend([0; 4]);
        self.block(1, &body)
    }

    fn fields(&self, words: &[u32], data: &[u8]) -> Vec<u8> {
        let mut body: Vec<u8> = words.iter().flat_map(|word| self.order.u32(*word)).collect();
        body.extend(data);
        body
    }

    pub fn enhanced(&mut self, interface: u32, ticks: u64, data: &[u8], wire_len: u32) -> &mut Self {
        let words = [interface, (ticks >> 32) as u32, ticks as u32, data.len() as u32, wire_len];
        let body = self.fields(&words, data);
        self.block(6, &body)
    }

    pub fn simple(&mut self, data: &[u8], wire_len: u32) -> &mut Self {
        let body = self.fields(&[wire_len], data);
        self.block(3, &body)
    }

    /// The obsolete packet block: a 16-bit interface and a drop count share the first word.
    pub fn obsolete(&mut self, interface: u16, ticks: u64, data: &[u8]) -> &mut Self {
        let len = data.len() as u32;
        let mut body = Vec::new();
        body.extend(self.order.u16(interface));
        body.extend(self.order.u16(7));
        body.extend(self.fields(&[(ticks >> 32) as u32, ticks as u32, len, len], data));
        self.block(2, &body)
    }
}

/// A capture file that is gone when dropped.
pub struct Temp {
    dir: tempfile::TempDir,
}

impl Temp {
    pub fn new(bytes: &[u8]) -> Self {
        let temp = Self { dir: tempfile::tempdir().unwrap() };
        std::fs::write(temp.path(), bytes).unwrap();
        temp
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("capture")
    }
}

pub fn ethernet(from: [u8; 6], to: [u8; 6]) -> PacketBuilderStep<Ethernet2Header> {
    PacketBuilder::ethernet2(from, to)
}

/// Flags of [`tcp`].
#[derive(Clone, Copy, Default)]
pub struct Flags {
    pub syn: bool,
    pub ack: bool,
}

pub const SYN: Flags = Flags { syn: true, ack: false };
pub const SYN_ACK: Flags = Flags { syn: true, ack: true };
pub const PLAIN: Flags = Flags { syn: false, ack: true };

/// An IPv4 TCP frame; MAC addresses end in the last octet of the IP addresses.
pub fn tcp(from: [u8; 4], to: [u8; 4], flags: Flags, payload: &[u8]) -> Vec<u8> {
    let mac = |address: [u8; 4]| [2, 0, 0, 0, 0, address[3]];
    let mut step = ethernet(mac(from), mac(to)).ipv4(from, to, 64).tcp(1000, 80, 1, 1000);
    if flags.syn {
        step = step.syn();
    }
    if flags.ack {
        step = step.ack(1);
    }
    let mut out = Vec::new();
    step.write(&mut out, payload).unwrap();
    out
}

pub fn udp(from: [u8; 4], to: [u8; 4], ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mac = |address: [u8; 4]| [2, 0, 0, 0, 0, address[3]];
    let mut out = Vec::new();
    ethernet(mac(from), mac(to)).ipv4(from, to, 64).udp(ports.0, ports.1).write(&mut out, payload).unwrap();
    out
}

/// An ARP frame: operation 1 asks, to all; 2 answers, to `to`.
pub fn arp(from: ([u8; 6], [u8; 4]), to: ([u8; 6], [u8; 4]), operation: u16) -> Vec<u8> {
    let destination = if operation == 1 { [0xff; 6] } else { to.0 };
    [
        &destination[..],
        &from.0,
        &[0x08, 0x06, 0, 1, 8, 0, 6, 4],
        &operation.to_be_bytes(),
        &from.0,
        &from.1,
        &to.0,
        &to.1,
    ]
    .concat()
}

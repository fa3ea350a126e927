//! Messages of the smaller protocols.

use super::super::super::script::Fill;

/// CONNECT with a client identifier, a clean session and a keep-alive of 60 s (MQTT 3.1.1 section 3.1).
pub(super) fn mqtt_connect(fill: &mut Fill<'_>) {
    fill.bytes(&[0x10, 24]).u16(4).text("MQTT").bytes(&[4, 2]).u16(60).u16(12).text("sensor-").word(5);
}

/// PUBLISH with quality of service 1 (section 3.3). The remaining length has seven bits a byte (section 2.2.3).
pub(super) fn mqtt_publish(fill: &mut Fill<'_>, id: u16, length: usize) {
    const TOPIC: &str = "site/temperature";
    let rest = 2 + TOPIC.len() + 2 + length;
    fill.bytes(&[0x32]);
    if rest < 128 {
        fill.bytes(&[rest as u8]);
    } else {
        fill.bytes(&[rest as u8 | 0x80, (rest >> 7) as u8]);
    }
    fill.u16(TOPIC.len() as u16).text(TOPIC).u16(id).word(length);
}

/// A confirmable GET of `/sensors/temperature` with a token of 4 bytes (RFC 7252 section 3).
pub(super) fn coap_get(fill: &mut Fill<'_>) {
    let (id, token) = (fill.shared as u16, (fill.shared >> 32) as u32);
    // Option Uri-Path (11) twice: a delta of 11 with a length of 7, then a delta of 0 with a length of 11.
    fill.bytes(&[0x44, 1]).u16(id).u32(token).bytes(&[0xb7]).text("sensors").bytes(&[0x0b]).text("temperature");
}

/// 2.05 Content in the acknowledgement, as plain text.
pub(super) fn coap_content(fill: &mut Fill<'_>, length: usize) {
    let (id, token) = (fill.shared as u16, (fill.shared >> 32) as u32);
    // Option Content-Format (12) of length 0: text/plain.
    fill.bytes(&[0x64, 0x45]).u16(id).u32(token).bytes(&[0xc0]);
    if length > 0 {
        fill.bytes(&[0xff]).word(length);
    }
}

/// Read holding registers from address 0 on, of unit 1.
pub(super) fn modbus_read(fill: &mut Fill<'_>, id: u16, registers: u16) {
    fill.u16(id).u16(0).u16(6).bytes(&[1, 3]).u16(0).u16(registers);
}

/// Their values.
pub(super) fn modbus_registers(fill: &mut Fill<'_>, id: u16, registers: u16) {
    let bytes = registers * 2;
    fill.u16(id).u16(0).u16(3 + bytes).bytes(&[1, 3, bytes as u8]).random(usize::from(bytes));
}

/// Startup message of protocol version 3.0.
pub(super) fn postgresql_startup(fill: &mut Fill<'_>) {
    const PARAMETERS: &[u8] = b"user\0bench\0database\0bench\0\0";
    fill.u32(PARAMETERS.len() as u32 + 8).u32(0x0003_0000).bytes(PARAMETERS);
}

/// AuthenticationOk, a parameter, the key to cancel by, ReadyForQuery.
pub(super) fn postgresql_ready(fill: &mut Fill<'_>) {
    const VERSION: &[u8] = b"server_version\x0015.8\0";
    fill.bytes(b"R").u32(8).u32(0);
    fill.bytes(b"S").u32(VERSION.len() as u32 + 4).bytes(VERSION);
    fill.bytes(b"K").u32(12).random(8);
    fill.bytes(b"Z").u32(5).bytes(b"I");
}

/// A simple query.
pub(super) fn postgresql_query(fill: &mut Fill<'_>, number: u64) {
    let query = format!("SELECT abalance FROM pgbench_accounts WHERE aid = {};\0", number + 1);
    fill.bytes(b"Q").u32(query.len() as u32 + 4).text(&query);
}

/// RowDescription with one column of type int4, one DataRow, CommandComplete, ReadyForQuery.
pub(super) fn postgresql_row(fill: &mut Fill<'_>) {
    const COLUMN: &[u8] = b"abalance\0";
    fill.bytes(b"T").u32(6 + COLUMN.len() as u32 + 18).u16(1).bytes(COLUMN);
    fill.u32(16_402).u16(4).u32(23).u16(4).u32(u32::MAX).u16(0);
    fill.bytes(b"D").u32(11).u16(1).u32(1).bytes(b"0");
    fill.bytes(b"C").u32(13).bytes(b"SELECT 1\0");
    fill.bytes(b"Z").u32(5).bytes(b"I");
}

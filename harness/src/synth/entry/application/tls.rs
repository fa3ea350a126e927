//! TLS records as they are seen from outside (RFC 8446).

use super::super::super::script::Fill;

/// A ClientHello with a server name, or without one if that is empty, and the extensions without which there is no TLS 1.3.
pub(in crate::synth) fn client_hello(fill: &mut Fill<'_>, name: &str) {
    let mut extensions = Vec::new();
    let mut extension = |kind: u16, data: &[u8]| {
        extensions.extend_from_slice(&kind.to_be_bytes());
        extensions.extend_from_slice(&(data.len() as u16).to_be_bytes());
        extensions.extend_from_slice(data);
    };
    if !name.is_empty() {
        // A list with one host name (RFC 6066 section 3).
        let mut list = ((name.len() + 3) as u16).to_be_bytes().to_vec();
        list.push(0);
        list.extend_from_slice(&(name.len() as u16).to_be_bytes());
        list.extend_from_slice(name.as_bytes());
        extension(0, &list);
    }
    // Groups x25519 and secp256r1; signatures of ECDSA, Ed25519 and RSA-PSS; HTTP/2 and HTTP/1.1; TLS 1.3 and 1.2.
    extension(10, &[0, 4, 0, 29, 0, 23]);
    extension(13, &[0, 6, 4, 3, 8, 7, 8, 4]);
    extension(16, b"\x00\x0c\x02h2\x08http/1.1");
    extension(43, &[4, 3, 4, 3, 3]);
    extension(45, &[1, 1]);
    let mut share = vec![0, 36, 0, 29, 0, 32];
    fill.rng.bytes(&mut share, 32);
    extension(51, &share);
    let mut hello = vec![3, 3];
    fill.rng.bytes(&mut hello, 32);
    hello.push(32);
    fill.rng.bytes(&mut hello, 32);
    // The three suites of TLS 1.3, and no compression.
    hello.extend_from_slice(&[0, 6, 0x13, 1, 0x13, 2, 0x13, 3, 1, 0]);
    hello.extend_from_slice(&(extensions.len() as u16).to_be_bytes());
    hello.extend_from_slice(&extensions);
    // The first record of a client may say TLS 1.0 (RFC 8446 section 5.1).
    handshake(fill, 1, &hello, [3, 1]);
}

/// A record with one handshake message.
fn handshake(fill: &mut Fill<'_>, kind: u8, content: &[u8], version: [u8; 2]) {
    let length = (content.len() as u32).to_be_bytes();
    fill.bytes(&[22]).bytes(&version).u16(content.len() as u16 + 4);
    fill.bytes(&[kind]).bytes(&length[1..]).bytes(content);
}

/// ServerHello, change of cipher, and the rest of the server's handshake, encrypted.
pub(in crate::synth) fn server_flight(fill: &mut Fill<'_>) {
    let mut hello = vec![3, 3];
    fill.rng.bytes(&mut hello, 32);
    hello.push(32);
    fill.rng.bytes(&mut hello, 32);
    hello.extend_from_slice(&[0x13, 1, 0, 0, 46, 0, 43, 0, 2, 3, 4, 0, 51, 0, 36, 0, 29, 0, 32]);
    fill.rng.bytes(&mut hello, 32);
    handshake(fill, 2, &hello, [3, 3]);
    fill.bytes(&[20, 3, 3, 0, 1, 1]);
    application_data(fill, 1_200);
}

/// A record of encrypted data (RFC 8446 section 5.2), of at most 2^14 + 256 bytes.
pub(in crate::synth) fn application_data(fill: &mut Fill<'_>, length: usize) {
    fill.bytes(&[23, 3, 3]).u16(length as u16).random(length);
}

//! Guessing passwords: one connection after another, each with a few attempts.

use super::super::SynthError;
use super::super::catalogue::{Entry, Family, Ip};
use super::super::conversation::{Conversation, Plain};
use super::super::param::Parameter;
use super::super::script::{Fill, SERVER, Script};
use super::super::spec::Context;
use super::super::stream::Generator;
use super::application::tls;
use super::{Common, RTT, port, setting};

const ATTEMPTS: Parameter =
    Parameter::count("attempts", "", (1, 100), "3", "passwords that are tried on each connection");
const DELAY: Parameter =
    Parameter::count("delay", "ms", (0, 60_000), "50", "time that the server takes to refuse a password");

const COMMON: Common = Common {
    family: Family::BruteForce,
    unit: "connections",
    ip: Ip::Any,
    spoofs: false,
    two_sided: true,
    rate: 10.0,
    count: |_| 100,
};

pub(super) const ENTRIES: &[Entry] = &[
    COMMON.entry(
        "ssh-brute-force",
        "logins over SSH that fail: banners, key exchange, refused passwords, end by the server",
        "hydra(1) ssh://; RFC 4253 section 4.2 and 7, RFC 4252 section 8; MITRE ATT&CK T1110.001",
        &[port("22"), ATTEMPTS, DELAY, RTT],
        ssh,
    ),
    COMMON.entry(
        "rdp-brute-force",
        "logins over RDP that fail: connection request with the user's name, TLS, refused credentials",
        "hydra(1) rdp://; MS-RDPBCGR section 1.3.1.1 and 2.2.1.1; MITRE ATT&CK T1110.001",
        &[port("3389"), ATTEMPTS, DELAY, RTT],
        rdp,
    ),
];

/// An SSH packet that is not encrypted yet: lengths, message number, content, padding to a multiple of 8 (RFC 4253
/// section 6).
fn ssh_packet(fill: &mut Fill<'_>, message: u8, content: &[u8]) {
    let padding = 8 - (content.len() + 6) % 8 + 8;
    fill.u32((content.len() + 2 + padding) as u32).bytes(&[padding as u8, message]).bytes(content).random(padding);
}

/// SSH_MSG_KEXINIT: a cookie and ten lists of names (RFC 4253 section 7.1).
fn kexinit(fill: &mut Fill<'_>) {
    const LISTS: [&str; 10] = [
        "curve25519-sha256,ecdh-sha2-nistp256,diffie-hellman-group14-sha256",
        "ssh-ed25519,rsa-sha2-512,rsa-sha2-256",
        "chacha20-poly1305@openssh.com,aes128-ctr,aes256-gcm@openssh.com",
        "chacha20-poly1305@openssh.com,aes128-ctr,aes256-gcm@openssh.com",
        "hmac-sha2-256,hmac-sha2-512",
        "hmac-sha2-256,hmac-sha2-512",
        "none,zlib@openssh.com",
        "none,zlib@openssh.com",
        "",
        "",
    ];
    let mut content = Vec::new();
    fill.rng.bytes(&mut content, 16);
    for list in LISTS {
        content.extend_from_slice(&(list.len() as u32).to_be_bytes());
        content.extend_from_slice(list.as_bytes());
    }
    // No guessed packet follows; reserved.
    content.extend_from_slice(&[0; 5]);
    ssh_packet(fill, 20, &content);
}

fn ssh(context: &Context<'_>) -> Result<Box<dyn Generator>, SynthError> {
    let params = &context.params;
    let mut script = Script::tcp(params.port("port"), params.us("rtt"));
    script.server(|fill| {
        fill.text("SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n");
    });
    script.client(|fill| {
        fill.text("SSH-2.0-libssh_0.10.6\r\n");
    });
    script.server(kexinit).client(kexinit);
    // Elliptic curve Diffie-Hellman with keys of 32 bytes (RFC 5656 section 4, RFC 8731), then SSH_MSG_NEWKEYS.
    script.client(|fill| {
        let mut content = 32_u32.to_be_bytes().to_vec();
        fill.rng.bytes(&mut content, 32);
        ssh_packet(fill, 30, &content);
    });
    script.server(|fill| {
        let mut content = Vec::new();
        fill.rng.bytes(&mut content, 183);
        ssh_packet(fill, 31, &content);
        ssh_packet(fill, 21, &[]);
    });
    script.client(|fill| ssh_packet(fill, 21, &[]));
    // From here on encrypted: service request, then an attempt and its refusal each time.
    script
        .client(|fill| {
            fill.random(44);
        })
        .server(|fill| {
            fill.random(44);
        });
    for _ in 0..params.count("attempts") {
        script
            .client(|fill| {
                fill.random(84);
            })
            .pause(params.ms("delay"))
            .server(|fill| {
                fill.random(52);
            });
    }
    script.close(SERVER);
    Ok(Box::new(Conversation::new(setting(context), vec![script], Plain)))
}

fn rdp(context: &Context<'_>) -> Result<Box<dyn Generator>, SynthError> {
    let params = &context.params;
    let mut script = Script::tcp(params.port("port"), params.us("rtt"));
    // TPKT (RFC 1006 section 6) around an X.224 connection request with a cookie and a negotiation request for TLS.
    script.client(|fill| {
        let mut cookie = b"Cookie: mstshash=".to_vec();
        fill.rng.characters(&mut cookie, b"abcdefghijklmnopqrstuvwxyz", 8);
        cookie.extend_from_slice(b"\r\n\x01\x00\x08\x00\x03\x00\x00\x00");
        let length = cookie.len() + 11;
        fill.bytes(&[3, 0]).u16(length as u16).bytes(&[(length - 5) as u8, 0xe0, 0, 0, 0, 0, 0]).bytes(&cookie);
    });
    // Connection confirm: TLS with CredSSP is taken.
    script.server(|fill| {
        fill.bytes(&[3, 0, 0, 19, 14, 0xd0, 0, 0, 0x12, 0x34, 0, 2, 0, 8, 0, 2, 0, 0, 0]);
    });
    script.client(|fill| tls::client_hello(fill, "")).server(tls::server_flight);
    script.client(|fill| tls::application_data(fill, 64));
    for _ in 0..params.count("attempts") {
        script.client(|fill| tls::application_data(fill, 480));
        script.pause(params.ms("delay")).server(|fill| tls::application_data(fill, 120));
    }
    script.reset(SERVER);
    Ok(Box::new(Conversation::new(setting(context), vec![script], Plain)))
}

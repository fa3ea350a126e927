//! Messages as the observation holds them.

use bpflab_programs::packet::FlowKey;

use super::dns::{self, Transaction};
use super::http::Exchange;
use super::tls::{self, Handshake};
use crate::observation::{Dns, Http, Tls};
use crate::suite::format::endpoint;

const TCP: u8 = 6;

/// A transaction.
#[must_use]
pub fn dns(transaction: Transaction) -> Dns {
    let Transaction { key, client, first_ns, answered_ns, message, answer, retransmissions, cut } = transaction;
    let (client, server) = endpoints(&key, client);
    let (name, kind) = message.question.unwrap_or_default();
    Dns {
        client,
        server,
        transport: if key.proto == TCP { "tcp" } else { "udp" }.to_owned(),
        name,
        kind: if kind == 0 { String::new() } else { dns::type_name(kind) },
        rcode: answer.as_ref().map(|answer| dns::rcode_name(answer.rcode)),
        latency_us: answered_ns.map(|answered| microseconds(answered.saturating_sub(first_ns))),
        answers: answer.as_ref().map_or(0, |answer| u64::from(answer.answers)),
        truncated: answer.as_ref().is_some_and(|answer| answer.truncated),
        edns_size: if message.response { None } else { message.edns_size },
        opcode: dns::opcode_name(message.opcode).map(str::to_owned),
        retransmissions,
        cut,
    }
}

/// An exchange.
#[must_use]
pub fn http(key: &FlowKey, client: usize, exchange: Exchange) -> Http {
    let (client, server) = endpoints(key, client);
    Http {
        client,
        server,
        method: exchange.method,
        host: exchange.host,
        path: exchange.path,
        version: exchange.version,
        status: exchange.status,
        latency_us: exchange.latency_ns.map(microseconds),
        exchange: exchange.number,
        pipelined: exchange.pipelined,
        cut: exchange.cut,
    }
}

/// A handshake.
#[must_use]
pub fn tls(key: &FlowKey, client: usize, handshake: Handshake) -> Tls {
    let (client, server) = endpoints(key, client);
    let (offer, asked_ns) = handshake.client_hello.unzip();
    let (answer, answered_ns) = handshake.server_hello.unzip();
    let choice = answer.as_ref().and_then(|answer| answer.alpn.clone());
    let offered = offer.as_ref().map(|offer| offer.alpn.join(",")).filter(|list| !list.is_empty());
    // From TLS 1.3 on the choice is encrypted; before, a ServerHello without ALPN means that none was made.
    let hidden = answer.as_ref().is_none_or(|answer| answer.version >= 0x0304);
    let settled = answer.as_ref().filter(|answer| !answer.retry);
    Tls {
        client,
        server,
        sni: offer.as_ref().and_then(|offer| offer.sni.clone()),
        alpn: choice.or(offered.filter(|_| hidden)),
        version: answer
            .as_ref()
            .map(|answer| answer.version)
            .or(offer.map(|offer| offer.version))
            .map(tls::version_name),
        cipher: settled.map(|answer| tls::cipher_name(answer.cipher)),
        latency_us: asked_ns
            .zip(answered_ns)
            .filter(|_| settled.is_some())
            .map(|(asked, answered)| microseconds(answered.saturating_sub(asked))),
        retried: handshake.retried,
        cut: handshake.cut,
    }
}

/// Client and server, where the client sends in direction `client`.
fn endpoints(key: &FlowKey, client: usize) -> (String, String) {
    let a = endpoint(key.family, &key.a, Some(key.a_port));
    let b = endpoint(key.family, &key.b, Some(key.b_port));
    if client == 0 { (a, b) } else { (b, a) }
}

#[allow(clippy::cast_precision_loss, reason = "exact up to 104 days")]
fn microseconds(ns: u64) -> f64 {
    ns as f64 / 1000.0
}

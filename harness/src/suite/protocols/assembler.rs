//! All connections together: from the program's events to messages, within a bound of memory.

use std::collections::{HashMap, VecDeque};

use bpflab_programs::packet::{FlowKey, SYN};
use bpflab_programs::protocols::{Event, NOTE_ENDED, NOTE_FORGET};

use super::connection::{Connection, Report, Wanted};
use super::dns::{self, Transactions};
use super::http::Exchange;
use super::report;
use super::stream::Cause;
use super::tls::Handshake;
use crate::observation::{Dns, Http, Tls};

/// Bytes that all connections together may hold.
pub const MAX_WEIGHT: usize = 64 << 20;
/// Entries of each list; more are counted as lost.
pub const MAX_ENTRIES: usize = 131_072;
/// Connections that are over and kept to know their late packets.
const MAX_OVER: usize = 16_384;
const UDP: u8 = 17;

/// A direction of a flow, its messages and when they began.
type Entry<T> = (FlowKey, usize, u64, T);

/// Turns events into messages. Knows neither rings nor maps.
#[derive(Debug)]
pub struct Assembler {
    connections: HashMap<FlowKey, Connection>,
    /// Connections that are over, oldest first.
    over: VecDeque<FlowKey>,
    weight: usize,
    transactions: Transactions,
    http: Vec<Entry<Exchange>>,
    tls: Vec<Entry<Handshake>>,
    lost_http: u64,
    lost_tls: u64,
    /// Connections that were given up because [`MAX_WEIGHT`] was reached.
    pub given_up: u64,
}

impl Default for Assembler {
    fn default() -> Self {
        Self {
            connections: HashMap::new(),
            over: VecDeque::new(),
            weight: 0,
            transactions: Transactions::new(MAX_ENTRIES),
            http: Vec::new(),
            tls: Vec::new(),
            lost_http: 0,
            lost_tls: 0,
            given_up: 0,
        }
    }
}

/// The messages of a run, each list in order of the first message.
#[derive(Debug, Default)]
pub struct Messages {
    /// DNS transactions.
    pub dns: Vec<Dns>,
    /// HTTP exchanges.
    pub http: Vec<Http>,
    /// TLS handshakes.
    pub tls: Vec<Tls>,
    /// Entries that did not fit: DNS, HTTP, TLS.
    pub lost: [u64; 3],
}

impl Assembler {
    /// Takes in an event with its payload. What is returned is wanted of the event's connection from now on, if that
    /// has changed.
    pub fn event(&mut self, event: &Event, bytes: &[u8]) -> Option<Wanted> {
        let key = event.key;
        if key.proto == UDP {
            self.datagram(event, bytes);
            return None;
        }
        if self.connections.get(&key).is_some_and(|connection| connection.is_reused_by(event)) {
            self.remove(&key, "the ports were used again", Cause::NotSeen);
        }
        if event.tcp_flags & SYN != 0 {
            return None;
        }
        let connection = self.connections.entry(key).or_insert_with(|| Connection::new(event));
        let was_over = connection.is_over();
        self.weight -= connection.weight();
        let mut wanted = connection.event(event, bytes);
        if event.notes & NOTE_FORGET != 0 {
            connection.forget();
        } else if event.notes & NOTE_ENDED != 0 {
            connection.finish("what the program hands over ended", Cause::NotSeen);
        }
        self.weight += connection.weight();
        if self.weight > MAX_WEIGHT {
            self.given_up += 1;
            self.weight -= connection.weight();
            connection.finish("the memory for held bytes ended", Cause::HeldTooMuch);
            self.weight += connection.weight();
            wanted = Wanted::Nothing;
        }
        let (reports, is_over, is_closed) = (connection.take_reports(), connection.is_over(), connection.is_closed());
        for report in reports {
            self.report(key, report);
        }
        match wanted {
            Wanted::More => {}
            Wanted::NextMessage => {
                self.drop_connection(&key);
                return Some(wanted);
            }
            Wanted::Nothing if is_over && !was_over => self.bury(key),
            Wanted::Nothing => {}
        }
        (wanted == Wanted::Nothing && !is_closed && event.payload_len > 0).then_some(wanted)
    }

    /// Bytes that all connections hold.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.weight
    }

    /// Reports what is still open. `lost_of` says how many events of a connection its program could not hand over.
    pub fn finish(&mut self, mut lost_of: impl FnMut(&FlowKey) -> u32) -> Messages {
        let mut keys: Vec<FlowKey> = self.connections.keys().copied().collect();
        keys.sort_unstable();
        for key in keys {
            if let Some(connection) = self.connections.get_mut(&key)
                && !connection.is_over()
            {
                connection.note_lost(lost_of(&key));
            }
            self.remove(&key, "the capture ended", Cause::NotSeen);
        }
        self.over.clear();
        self.http.sort_by_key(|(_, _, time, _)| *time);
        self.tls.sort_by_key(|(_, _, time, _)| *time);
        Messages {
            lost: [self.transactions.lost, self.lost_http, self.lost_tls],
            dns: self.transactions.take().into_iter().map(report::dns).collect(),
            http: self.http.drain(..).map(|(key, client, _, exchange)| report::http(&key, client, exchange)).collect(),
            tls: self.tls.drain(..).map(|(key, client, _, handshake)| report::tls(&key, client, handshake)).collect(),
        }
    }

    fn datagram(&mut self, event: &Event, bytes: &[u8]) {
        let missing = event.payload_len.saturating_sub(event.captured_len);
        if let Some(message) = dns::parse(bytes, missing == 0) {
            let cut = (missing > 0 && message.incomplete).then(|| format!("{missing} bytes missing: {}", Cause::Cut));
            self.transactions.message(event.key, usize::from(event.direction & 1), event.time_ns, message, cut);
        }
    }

    /// Ends a connection and forgets it.
    fn remove(&mut self, key: &FlowKey, reason: &str, cause: Cause) {
        if let Some(mut connection) = self.connections.remove(key) {
            self.weight -= connection.weight();
            connection.finish(reason, cause);
            for report in connection.take_reports() {
                self.report(*key, report);
            }
        }
    }

    /// Forgets a connection that has nothing more to report.
    fn drop_connection(&mut self, key: &FlowKey) {
        if let Some(connection) = self.connections.remove(key) {
            self.weight -= connection.weight();
        }
    }

    /// Keeps a connection that is over, and drops the one that has been so for longest.
    fn bury(&mut self, key: FlowKey) {
        self.over.push_back(key);
        if self.over.len() > MAX_OVER
            && let Some(oldest) = self.over.pop_front()
            && self.connections.get(&oldest).is_some_and(Connection::is_over)
        {
            self.drop_connection(&oldest);
        }
    }

    fn report(&mut self, key: FlowKey, report: Report) {
        match report {
            Report::Dns(direction, time_ns, message, cut) => {
                self.transactions.message(key, direction, time_ns, message, cut);
            }
            Report::Http(client, exchange) if self.http.len() < MAX_ENTRIES => {
                self.http.push((key, client, exchange.first_ns, exchange));
            }
            Report::Tls(handshake) if self.tls.len() < MAX_ENTRIES => {
                self.tls.push((key, handshake.client, handshake.first_ns(), *handshake));
            }
            Report::Http(..) => self.lost_http += 1,
            Report::Tls(_) => self.lost_tls += 1,
        }
    }
}

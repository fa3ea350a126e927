//! Client ports, as a kernel gives them: none that a living conversation between the same two ends has, and of those that are
//! free the one that has been unused for longest, so that what ended is not mistaken for what follows.

use std::collections::VecDeque;

use super::pool::Address;
use super::rng::Rng;

/// First of the ports that Linux gives to clients, and how many there are (`ip_local_port_range`: 32768 to 60999).
const FIRST: u16 = 32_768;
const COUNT: u16 = 28_232;
/// How many ports are tried where each has a living conversation, for one that has none between the same ends. Where 95 in
/// 100 of the ports between two ends are taken, two conversations in a million find none.
const TRIES: usize = 256;

/// Client, server and the server's port, as a number: conversations between the same ends need different ports. Of 2^64 pairs
/// that differ one has the same number; a port is then passed over that need not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends(u64);

impl Ends {
    pub(super) fn of(client: Address, server: Address, port: u16) -> Self {
        let [from, to] = [client, server].map(Address::bits);
        let words = [(from >> 64) as u64, to as u64, (to >> 64) as u64];
        Self(words.iter().fold(Rng::new(port.into(), from as u64), |rng, word| rng.fork(*word)).next())
    }
}

/// A port in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lease {
    ends: Ends,
    /// Its place in the order in which ports are given out.
    place: u16,
}

/// The living conversations of a port: hardly ever more than one.
#[derive(Clone, Debug, Default)]
struct Holders {
    first: Option<Ends>,
    others: Vec<Ends>,
}

impl Holders {
    fn has(&self, ends: Ends) -> bool {
        self.first == Some(ends) || self.others.contains(&ends)
    }

    fn add(&mut self, ends: Ends) {
        match self.first {
            None => self.first = Some(ends),
            Some(_) => self.others.push(ends),
        }
    }

    /// Says whether nobody is left.
    fn remove(&mut self, ends: Ends) -> bool {
        match self.others.iter().position(|other| *other == ends) {
            Some(at) => drop(self.others.swap_remove(at)),
            None if self.first == Some(ends) => self.first = self.others.pop(),
            None => {}
        }
        self.first.is_none()
    }
}

/// The ports of one declaration. They take up to 1.3 MB, and 8 bytes for each living conversation beyond one a
/// port.
#[derive(Clone, Debug, Default)]
pub(super) struct Ports {
    /// Ports, counted from the first, in the order in which they are given out; shuffled as far as that has come.
    order: Vec<u16>,
    /// Of those that were given out, by place.
    holders: Vec<Holders>,
    /// Places of which nobody is left, unused for longest first.
    idle: VecDeque<u16>,
    /// Where none is free: the place that was given out longest ago.
    oldest: u16,
}

impl Ports {
    /// A port for a conversation between `ends`; `random` chooses among those that were never used.
    pub(super) fn take(&mut self, ends: Ends, random: u64) -> (Lease, u16) {
        let place = if self.holders.len() < usize::from(COUNT) {
            self.unused(random)
        } else {
            self.idle.pop_front().unwrap_or_else(|| self.shared(ends))
        };
        self.holders[usize::from(place)].add(ends);
        (Lease { ends, place }, FIRST + self.order[usize::from(place)])
    }

    /// The conversation that has this port is over.
    pub(super) fn give_back(&mut self, Lease { ends, place }: Lease) {
        if let Some(holders) = self.holders.get_mut(usize::from(place))
            && holders.remove(ends)
        {
            self.idle.push_back(place);
        }
    }

    /// A port that was never given out: the next step of Fisher and Yates' shuffle.
    fn unused(&mut self, random: u64) -> u16 {
        if self.order.is_empty() {
            self.order = (0..COUNT).collect();
        }
        let place = self.holders.len();
        let rest = (usize::from(COUNT) - place) as u64;
        let other = place + ((u128::from(random) * u128::from(rest)) >> 64) as usize;
        self.order.swap(place, other);
        self.holders.push(Holders::default());
        place as u16
    }

    /// A port that others have: if possible none that a conversation between the same ends has, else the one that was given
    /// out longest ago.
    fn shared(&mut self, ends: Ends) -> u16 {
        let first = self.oldest;
        let mut place = first;
        for _ in 0..TRIES {
            if !self.holders[usize::from(place)].has(ends) {
                self.oldest = (place + 1) % COUNT;
                return place;
            }
            place = (place + 1) % COUNT;
        }
        self.oldest = (first + 1) % COUNT;
        first
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};
    use std::net::IpAddr;

    use super::*;

    fn ends(client: u32, server: u32, port: u16) -> Ends {
        let address = |bits: u32| Address::from(IpAddr::from(bits.to_be_bytes()));
        Ends::of(address(client), address(server), port)
    }

    #[test]
    fn ends_that_differ_in_anything_differ() {
        let v6 = |last: u16| Address::from(IpAddr::from([0xfd71, 0, 0, 0, 0, 0, 0, last]));
        let all = [
            ends(1, 2, 80),
            ends(1, 2, 81),
            ends(1, 3, 80),
            ends(2, 2, 80),
            ends(2, 1, 80),
            Ends::of(v6(1), v6(2), 80),
            Ends::of(v6(2), v6(1), 80),
        ];
        assert_eq!(all.iter().map(|ends| ends.0).collect::<HashSet<u64>>().len(), all.len());
        assert_eq!(ends(1, 2, 80), ends(1, 2, 80));
    }

    #[test]
    fn every_port_is_given_out_once_before_any_comes_again_and_then_the_one_unused_for_longest() {
        let (mut ports, mut rng, here) = (Ports::default(), Rng::new(1, 0), ends(1, 2, 80));
        let mut given = Vec::new();
        for _ in 0..COUNT {
            let (lease, port) = ports.take(here, rng.next());
            assert!((32_768..=60_999).contains(&port));
            given.push(port);
            ports.give_back(lease);
        }
        assert_eq!(given.iter().collect::<HashSet<_>>().len(), usize::from(COUNT));
        assert!(!given.is_sorted());
        let again: Vec<u16> = (0..COUNT)
            .map(|_| {
                let (lease, port) = ports.take(here, rng.next());
                ports.give_back(lease);
                port
            })
            .collect();
        assert_eq!(again, given);
    }

    /// Conversations of any length, begun and ended in any order, between as many ends as have room for them: no two living
    /// ones between the same ends have the same port.
    #[test]
    fn living_conversations_between_the_same_ends_have_ports_of_their_own() {
        // Clients, servers, most conversations at a time.
        for (clients, servers, most) in [(1, 1, 28_232), (1, 2, 50_000), (3, 1, 60_000), (200, 7, 100_000)] {
            let (mut ports, mut rng) = (Ports::default(), Rng::new(7, most));
            let mut living: Vec<(Lease, u16, Ends)> = Vec::new();
            let mut used = HashSet::new();
            let mut shared = 0;
            for turn in 0..4 * most {
                // Grows to the most, then stays about there.
                let full = living.len() as u64 >= most;
                if full || (turn > most && rng.below(2) == 0) {
                    let (lease, port, ends) = living.swap_remove(rng.below(living.len() as u64) as usize);
                    ports.give_back(lease);
                    used.remove(&(port, ends.0));
                }
                let ends = ends(rng.below(clients) as u32, (turn % servers) as u32, 80);
                let (lease, port) = ports.take(ends, rng.next());
                shared += u64::from(!used.insert((port, ends.0)));
                living.push((lease, port, ends));
            }
            // Nothing else can be where all ports between two ends are taken: these have room.
            assert_eq!(shared, 0, "{clients} clients, {servers} servers, {most} conversations");
        }
    }

    #[test]
    fn more_conversations_than_ports_share_them_evenly_and_in_turn() {
        let (mut ports, mut rng, here) = (Ports::default(), Rng::new(3, 0), ends(1, 2, 80));
        let mut counts: HashMap<u16, u32> = HashMap::new();
        let mut leases = Vec::new();
        for _ in 0..3 * u32::from(COUNT) {
            let (lease, port) = ports.take(here, rng.next());
            *counts.entry(port).or_default() += 1;
            leases.push(lease);
        }
        assert!(counts.len() == usize::from(COUNT) && counts.values().all(|count| *count == 3));
        // Each port is free only when all three conversations are over.
        for lease in &leases[..2 * usize::from(COUNT)] {
            ports.give_back(*lease);
        }
        assert!(ports.idle.is_empty());
        for lease in &leases[2 * usize::from(COUNT)..] {
            ports.give_back(*lease);
        }
        assert_eq!(ports.idle.len(), usize::from(COUNT));
    }
}

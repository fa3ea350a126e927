//! Damaged captures: any bytes may follow, a crash or a hang must not.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use bpflab::capture::{CaptureError, Frame, Frames, Options, Survey};
use bpflab::lockstep;
use bpflab::object::Clock;
use bpflab::observation::Observation;
use bpflab::suite::{Observer, flows::Flows, protocols::Protocols, tcp_state::TcpState};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use crate::support::{Lab, PCAP_HEADER, keepalive, pcap};

const MUTATIONS: u64 = 300;
/// Every so many mutations one goes through the command as well.
const COMMAND_EVERY: u64 = 25;
/// The captures have less than 10 kB.
const BOUND: Duration = Duration::from_secs(10);

/// Damages `bytes` in one of the ways in which files and senders do; mostly behind the file's header, so that most
/// captures can still be read.
fn mutate(bytes: &mut Vec<u8>, random: &mut SmallRng) {
    let start = if random.random_ratio(1, 10) { 0 } else { PCAP_HEADER };
    match random.random_range(0..5) {
        0 => {
            for _ in 0..random.random_range(1..64) {
                let at = random.random_range(start..bytes.len());
                bytes[at] ^= 1 << random.random_range(0..8);
            }
        }
        1 => {
            for _ in 0..random.random_range(1..16) {
                let at = random.random_range(start..bytes.len());
                bytes[at] = [0, 0xff, 0x7f, 0x80, random.random()][random.random_range(0..5)];
            }
        }
        2 => bytes.truncate(random.random_range(start..bytes.len())),
        3 => {
            let from = random.random_range(start..bytes.len());
            let to = random.random_range(from..bytes.len().min(from + 200));
            let copy = bytes[from..to].to_vec();
            let at = random.random_range(start..bytes.len());
            bytes.splice(at..at, copy);
        }
        _ => {
            let at = random.random_range(start..bytes.len() - 4);
            let length: [u8; 4] = [0, 1, u32::MAX, 1 << 31, 65_536][random.random_range(0..5)].to_le_bytes();
            bytes[at..at + 4].copy_from_slice(&length);
        }
    }
}

/// The damaged captures, as files in `folder`.
fn damaged(folder: &Path) -> Vec<PathBuf> {
    let originals = [keepalive(), pcap("redis.pcapng")].map(|path| std::fs::read(path).unwrap());
    (0..MUTATIONS)
        .map(|seed| {
            let mut random = SmallRng::seed_from_u64(seed);
            let mut bytes = originals[usize::try_from(seed % 2).unwrap()].clone();
            for _ in 0..random.random_range(1..4) {
                if bytes.len() > PCAP_HEADER + 8 {
                    mutate(&mut bytes, &mut random);
                }
            }
            let path = folder.join(format!("damaged-{seed}"));
            std::fs::write(&path, bytes).unwrap();
            path
        })
        .collect()
}

/// The frames of many captures, one after the other; those that cannot be read are counted.
struct Chain {
    captures: std::vec::IntoIter<PathBuf>,
    current: Option<(PathBuf, Frames)>,
    since: Instant,
    expected: u64,
    refused: u64,
}

impl Chain {
    fn next_into(&mut self, frame: &mut Frame) -> Result<bool, CaptureError> {
        loop {
            if let Some((path, frames)) = &mut self.current {
                if frames.next_into(frame)? {
                    return Ok(true);
                }
                assert!(self.since.elapsed() < BOUND, "{} took {:?}", path.display(), self.since.elapsed());
            }
            let Some(path) = self.captures.next() else { return Ok(false) };
            self.since = Instant::now();
            let options = Options::default();
            self.current = match Survey::of(&path, &options) {
                Ok(survey) => {
                    self.expected += survey.will_offer;
                    let frames = Frames::open(&path, &options, &survey)?;
                    Some((path, frames))
                }
                Err(error) => {
                    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
                    self.refused += 1;
                    None
                }
            };
        }
    }
}

#[test]
fn damaged_captures_neither_crash_nor_hang() {
    let lab = Lab::new();
    let captures = damaged(lab.path());
    // All frames go through one set of programs: loading it 300 times would take most of the time and show nothing.
    let mut analyzers: Vec<Box<dyn Observer>> = vec![
        Box::new(Flows::load(Clock::Virtual, &Default::default()).unwrap()),
        Box::new(TcpState::load(Clock::Virtual, &Default::default()).unwrap()),
        Box::new(Protocols::load(Clock::Virtual, &Default::default()).unwrap()),
    ];
    let now = Instant::now();
    let mut chain = Chain { captures: captures.into_iter(), current: None, since: now, expected: 0, refused: 0 };
    let next = &mut |frame: &mut Frame| chain.next_into(frame);
    let outcome = lockstep::replay(&mut analyzers, next, &AtomicBool::new(false), &mut |_| ()).unwrap();
    assert_eq!((outcome.ledger.offered, outcome.ledger.unaccounted), (chain.expected, 0));
    // Most are damaged behind their header and are used in part.
    assert!(chain.refused < MUTATIONS / 2, "{} of {MUTATIONS} refused", chain.refused);
    assert!(outcome.ledger.offered > 10 * MUTATIONS, "{} frames", outcome.ledger.offered);
    let mut observation = Observation::default();
    for analyzer in &mut analyzers {
        analyzer.finish(0, &mut observation).unwrap();
    }
    assert!(!observation.malformed.is_empty(), "damage within packets is seen");
}

#[test]
fn the_command_takes_damaged_captures_or_names_them() {
    let lab = Lab::new();
    for path in damaged(lab.path()).iter().step_by(usize::try_from(COMMAND_EVERY).unwrap()) {
        let start = Instant::now();
        let ended = lab.replay(path, "--mode lockstep --json");
        assert!(start.elapsed() < BOUND, "{} took {:?}", path.display(), start.elapsed());
        match ended.code {
            Some(0) => assert_eq!(ended.json()["ledger"]["unaccounted"], 0),
            Some(2) => drop(ended.complains(&[path.to_str().unwrap()])),
            _ => panic!("{}: {ended:?}", path.display()),
        }
    }
}

//! Damaged files: nothing panics, hangs or takes memory, and both passes agree whatever they read.

use bpflab::capture::{Checksums, End, Frame, Frames, Options, Oversize, Reader, Survey, Truncated};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::files::{CLIENT, PLAIN, Pcapng, Record, SERVER, SYN, Temp, arp, pcap, record, tcp, udp};

/// Most memory that this process ever had resident, KiB (`VmHWM` of proc(5)).
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn originals() -> Vec<Vec<u8>> {
    let frames = [
        tcp(CLIENT, SERVER, SYN, b""),
        udp(CLIENT, SERVER, (4000, 53), b"query"),
        tcp(SERVER, CLIENT, PLAIN, &[7; 3000]),
        arp(([2, 0, 0, 0, 0, 1], CLIENT), ([0; 6], SERVER), 1),
        [&[0xff; 12][..], &[0x81, 0, 0, 5, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 16, 0, 64], &[1; 48]].concat(),
    ];
    let records: Vec<_> = frames.iter().enumerate().map(|(i, data)| record(i as u64 * 1000, data.clone())).collect();
    let mut files = vec![
        pcap(false, false, 1, &records),
        pcap(true, true, 1, &[Record { wire_len: 900, ..records[0].clone() }, records[1].clone()]),
        pcap(false, true, 101, &records.iter().map(|r| record(r.after_ns, r.data[14..].to_vec())).collect::<Vec<_>>()),
    ];
    for big in [false, true] {
        let mut file = Pcapng::new(big);
        file.interface(1, 0, &[(2, b"eth0"), (9, &[9])]).interface(113, 96, &[(14, &[0, 0, 0, 0, 0, 0, 0, 1])]);
        for (i, data) in frames.iter().enumerate() {
            file.enhanced(0, i as u64, data, data.len() as u32).obsolete(0, i as u64, data);
        }
        file.simple(&frames[0], frames[0].len() as u32).block(4, &[0; 8]).section(!big).interface(276, 0, &[]);
        file.enhanced(
            0,
            0,
            &[&[8, 0, 0, 0, 0, 0, 0, 1, 0, 1, 4, 6, 2, 0, 0, 0, 0, 1, 0, 0], &frames[1][14..]].concat(),
            90,
        );
        files.push(file.out);
    }
    files
}

/// Bit flips, cuts, and 32-bit fields set to numbers that lengths should not be.
fn mutate(file: &mut Vec<u8>, random: &mut SmallRng) {
    const NUMBERS: [u32; 10] = [0, 1, 11, 13, 0x7fff_ffff, 0x8000_0000, 0xffff_fffc, 0xffff_ffff, 262_144, 16 << 20];
    for _ in 0..random.random_range(1..8) {
        let at = random.random_range(0..file.len());
        match random.random_range(0..8) {
            0..4 => file[at] ^= 1 << random.random_range(0..8),
            4 => file.truncate(at.max(1)),
            5 => {
                file.remove(at);
            }
            _ => {
                let number = NUMBERS[random.random_range(0..NUMBERS.len())];
                let bytes = if random.random() { number.to_le_bytes() } else { number.to_be_bytes() };
                let at = at & !3;
                let len = bytes.len().min(file.len() - at);
                file[at..at + len].copy_from_slice(&bytes[..len]);
            }
        }
        if file.len() < 2 {
            return;
        }
    }
}

fn options(random: &mut SmallRng) -> Options {
    Options {
        limit: random.random_bool(0.1).then_some(2),
        oversize: if random.random() { Oversize::Segment } else { Oversize::Refuse },
        truncated: [Truncated::Keep, Truncated::Refuse, Truncated::Pad][random.random_range(0..3)],
        checksums: if random.random() { Checksums::Keep } else { Checksums::Repair },
        mtu: [68, 576, 1500, 65_535][random.random_range(0..4)],
        sides: ["auto", "mac", "endpoint", "client-nets=10.0.0.0/8"][random.random_range(0..4)].parse().unwrap(),
        ..Options::default()
    }
}

#[test]
fn mutated_captures_are_read_or_refused_but_never_trusted() {
    const FILES: u64 = 20_000;
    let originals = originals();
    let dir =
        tempfile::tempdir_in(if std::path::Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" }).unwrap();
    let path = dir.path().join("mutant");
    let (mut read, mut offered) = (0, 0);
    for seed in 0..FILES {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut file = originals[random.random_range(0..originals.len())].clone();
        mutate(&mut file, &mut random);
        std::fs::write(&path, &file).unwrap();
        let options = options(&mut random);
        let Ok(survey) = Survey::of(&path, &options) else { continue };
        read += 1;
        assert!(survey.captured_bytes <= file.len() as u64, "seed {seed}");
        let mut frames = Frames::open(&path, &options, &survey).unwrap();
        let mut frame = Frame::default();
        let mut count = 0;
        while frames.next_into(&mut frame).unwrap_or_else(|error| panic!("seed {seed}: {error}")) {
            count += 1;
            assert!(frame.data.len() >= 14 && frame.wire_len as usize >= frame.data.len(), "seed {seed}");
        }
        assert_eq!(count, survey.will_offer, "seed {seed}");
        offered += count;
    }
    // Most mutations leave something to read: the test does not pass by refusing everything.
    assert!(read > FILES / 2 && offered > FILES, "{read} files read, {offered} frames");
    // The whole test binary, its other tests included.
    assert!(peak_kib() < 128 << 10, "{} KiB", peak_kib());
}

#[test]
fn a_block_that_claims_4_gb_ends_the_reading() {
    let mut file = Pcapng::new(false);
    file.interface(1, 0, &[]);
    for kind in [6_u32, 5] {
        let mut lying = file.out.clone();
        lying.extend(kind.to_le_bytes());
        lying.extend(0xffff_fff0_u32.to_le_bytes());
        lying.extend([0; 100]);
        let temp = Temp::new(&lying);
        let mut reader = Reader::open(&temp.path()).unwrap();
        assert!(reader.next_packet().unwrap().is_none());
        assert!(matches!(reader.end(), Some(End::Cut | End::Damaged(_))));
    }
}

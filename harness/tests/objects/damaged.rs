//! Files that are no object, or no longer one.

use bpflab::object::elf::{Elf, ElfError};
use bpflab::object::suite::FLOWS;
use bpflab::subject::{Subject, SubjectError, SubjectOptions};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use rstest::rstest;

use crate::support::Lab;

/// Places in the header of an ELF file of 64 bit (`Elf64_Ehdr` of `include/uapi/linux/elf.h`).
const BYTE_ORDER: usize = 5;
const KIND: usize = 16;
const MACHINE: usize = 18;
const SECTIONS_AT: usize = 40;
const SECTIONS: usize = 60;
/// `EM_X86_64`.
const X86_64: u8 = 62;

/// An object of the suite with other bytes at `at`.
fn with(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut object = FLOWS.to_vec();
    object[at..at + bytes.len()].copy_from_slice(bytes);
    object
}

/// The file of a big-endian machine: byte order and machine.
fn big_endian() -> Vec<u8> {
    let mut object = with(BYTE_ORDER, &[2]);
    object[MACHINE..MACHINE + 2].copy_from_slice(&[0, 247]);
    object
}

#[rstest]
#[case::text(b"#!/bin/sh\n".to_vec(), &["cannot use it as an eBPF object", "not an ELF file: it begins with 23 21 2f 62"])]
#[case::empty(Vec::new(), &["not an ELF file: it begins with nothing"])]
#[case::other_machine(with(MACHINE, &[X86_64, 0]), &["is for X86_64, not for BPF (machine 62)", "-target bpf"])]
#[case::big_endian(big_endian(), &["big-endian", "-target bpfel"])]
#[case::executable(with(KIND, &[2, 0]), &["not an object file but an executable"])]
#[case::library(with(KIND, &[3, 0]), &["not an object file but"])]
#[case::header_alone(FLOWS[..64].to_vec(), &["damaged or cut off"])]
#[case::half_a_header(FLOWS[..40].to_vec(), &["damaged or cut off"])]
#[case::sections_beyond_the_end(with(SECTIONS_AT, &u64::MAX.to_le_bytes()), &["damaged or cut off"])]
#[case::more_sections_than_there_are(with(SECTIONS, &u16::MAX.to_le_bytes()), &["damaged or cut off"])]
fn what_is_no_object_is_told_what_it_is(#[case] bytes: Vec<u8>, #[case] parts: &[&str]) {
    let lab = Lab::new();
    let object = lab.write("it.o", &bytes);
    lab.inspect(&object).refused(parts);
    lab.replay(&object, &["--mode", "lockstep"]).refused(parts);
    let error = Subject::open(&object).unwrap_err();
    assert!(matches!(error, SubjectError::Elf { .. }), "{error:?}");
}

#[test]
fn the_lab_itself_is_no_object() {
    let lab = Lab::new();
    let binary = std::path::Path::new(env!("CARGO_BIN_EXE_bpflab"));
    lab.inspect(binary).refused(&["not for BPF (machine "]);
    assert!(matches!(Elf::parse(&std::fs::read(binary).unwrap()), Err(ElfError::Machine { .. })));
}

#[test]
fn an_object_without_sections_has_nothing_in_it() {
    let mut bytes = with(SECTIONS, &[0, 0]);
    bytes[SECTIONS_AT..SECTIONS_AT + 8].fill(0);
    let lab = Lab::new();
    let object = lab.write("bare.o", &bytes);
    let ended = lab.replay(&object, &["--mode", "lockstep", "--attach", "xdp:flows_xdp"]);
    ended.refused(&["object bare has no program flows_xdp; it has none at all"]);
}

/// A file that was cut off is refused, or what is left is whole: section headers stand at its end, so nothing is.
#[test]
fn a_file_cut_anywhere_is_refused() {
    let lab = Lab::new();
    let whole = std::fs::read(lab.of_repository("scenarios/objects/firewall.bpf.c")).unwrap();
    for object in [&whole, FLOWS] {
        for len in (0..object.len()).step_by(64) {
            let error = Elf::parse(&object[..len]).expect_err("a file without its end");
            assert!(!error.to_string().is_empty());
            let opened = Subject::from_bytes("cut", &object[..len], &SubjectOptions::default());
            assert!(matches!(opened, Err(SubjectError::Elf { .. })), "{len} bytes: {opened:?}");
        }
    }
}

/// Any bytes may stand in a file; reading one ends, with an answer.
#[test]
fn a_file_with_wrong_bytes_is_read_or_refused() {
    let lab = Lab::new();
    let whole = std::fs::read(lab.of_repository("scenarios/objects/balancer.bpf.c")).unwrap();
    let mut read = 0;
    for seed in 0..2000 {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut bytes = whole.clone();
        for _ in 0..random.random_range(1..8) {
            let at = random.random_range(0..bytes.len());
            bytes[at] = [0, 0xff, 0x7f, 0x80, random.random()][random.random_range(0..5)];
        }
        read += usize::from(Elf::parse(&bytes).is_ok());
    }
    // Most bytes are instructions, types and strings: a wrong one is no reason not to read the rest.
    assert!((200..2000).contains(&read), "{read}");
}

/// Tools that strip an object take its types away; here they only lose their name, which is the same to a reader.
fn without_types(object: &[u8]) -> Vec<u8> {
    let mut bytes = object.to_vec();
    for at in 0..bytes.len() - 4 {
        if &bytes[at..at + 4] == b".BTF" {
            bytes[at + 1..at + 4].copy_from_slice(b"XTF");
        }
    }
    bytes
}

#[test]
fn maps_that_are_declared_by_types_need_them() {
    let lab = Lab::new();
    let whole = std::fs::read(lab.of_repository("scenarios/objects/firewall.bpf.c")).unwrap();
    let object = lab.write("stripped.o", &without_types(&whole));
    lab.replay(&object, &["--mode", "lockstep"]).refused(&["cannot load object stripped", "BTF"]);
}

#[test]
fn rows_of_an_object_without_types_are_bytes_and_say_so() {
    let lab = Lab::new();
    let source = "
        struct bpf_map_def { unsigned int type, key_size, value_size, max_entries, map_flags; };
        struct bpf_map_def SEC(\"maps\") seen = { BPF_MAP_TYPE_ARRAY, 4, 8, 1, 0 };
        SEC(\"xdp\") int count(struct xdp_md *ctx) {
            __u32 key = 0;
            __u64 *packets = bpf_map_lookup_elem(&seen, &key);
            if (packets)
                __sync_fetch_and_add(packets, 1);
            return XDP_PASS;
        }";
    let whole = std::fs::read(lab.object("legacy", source)).unwrap();
    let object = lab.write("legacy.o", &without_types(&whole));
    let ended = lab.replay(&object, &["--mode", "lockstep"]);
    // 16 packets, in the machine's own order.
    ended.says(0, &["rows as bytes: no types for them", "0x1000000000000000"]);
}

//! How quick maps become rows: decoding alone, and a whole map of the kernel's.

use std::error::Error;
use std::hint::black_box;
use std::time::Instant;

use bpflab::kernel::btf::Btf;
use bpflab::object::{LoadOptions, Object, suite};
use bpflab::rows::{Aliases, Decoder, Hints, MapTypes, ReadOptions, Source, TypedMap, map_types};
use bpflab::sys::MapHandle;

use crate::report::{Report, median};

/// Values decoded in one round.
const VALUES: usize = 200_000;
/// Elements of the map that is read as a whole.
const ELEMENTS: u32 = 1_000_000;

/// Prints and records values a second for the key of `FLOWS` (a struct of ten members, 48 bytes, two of them addresses),
/// and elements a second from a hash map of a million such keys to rows, of which a limit keeps 1000.
pub fn run(report: &mut Report, rounds: usize) -> Result<(), Box<dyn Error>> {
    let blob = aya_obj::Object::parse(suite::FLOWS)?.btf.ok_or("the object flows has no types")?.to_bytes();
    let btf = Btf::parse(&blob)?;
    let Some(MapTypes { key: Some(key), .. }) = map_types(&btf, "FLOWS") else {
        return Err("the object flows does not define FLOWS".into());
    };
    let decoder = Decoder::new(&btf, key)?;
    let bytes: Vec<u8> = (0..decoder.size()).map(|at| at as u8).collect();
    let mut rates = Vec::new();
    for _ in 0..rounds {
        let start = Instant::now();
        for _ in 0..VALUES {
            black_box(decoder.decode(black_box(&bytes)));
        }
        rates.push(VALUES as f64 / start.elapsed().as_secs_f64());
    }
    report.heading("Rows")?;
    report.line(&format!("  {:<44} {:>9.0}   values/s", "decode a struct of ten members", median(&rates)))?;
    report.value("rows_decoded_per_second", median(&rates));
    let rate = whole_map()?;
    report.line(&format!("  {:<44} {rate:>9.0}   elements/s", "read a hash map of a million"))?;
    report.value("rows_read_per_second", rate);
    Ok(())
}

fn whole_map() -> Result<f64, Box<dyn Error>> {
    let options = LoadOptions { max_entries: vec![("FLOWS", ELEMENTS)], ..LoadOptions::default() };
    let object = Object::load("flows", suite::FLOWS, &options)?;
    let fd = object.map_fd("FLOWS")?;
    let handle = MapHandle::new(fd)?;
    let (mut key, value) = (vec![0; handle.key_len()], vec![1; handle.value_len()]);
    for index in 0..ELEMENTS {
        key[..4].copy_from_slice(&index.to_be_bytes());
        handle.update(Some(&key), &value, 0)?;
    }
    let hints = Hints { limit: Some(1000), ..Hints::default() };
    let map = TypedMap::open(fd, Source { name: "FLOWS", ..Source::default() }, &hints)?;
    let start = Instant::now();
    let rows = map.read(ReadOptions::default(), &mut Aliases::default())?;
    if rows.rows.len() as u64 + rows.more != u64::from(ELEMENTS) {
        return Err(format!("{} rows and {} more of {ELEMENTS} elements", rows.rows.len(), rows.more).into());
    }
    Ok(f64::from(ELEMENTS) / start.elapsed().as_secs_f64())
}

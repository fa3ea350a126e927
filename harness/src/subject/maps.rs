//! Entries of maps that are not plain values: maps in maps, interfaces; and values without types.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use serde_json::Value;

use crate::kernel::btf::Btf;
use crate::rows::{MapTypes, Source, encode, map_types};
use crate::sys::{self, MapHandle, MapSpec, map_kind};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A number as the bytes of a variable without a type: as many as it has, in this machine's order.
pub(super) fn number(value: &Value, size: usize) -> Result<Vec<u8>, Failure> {
    if let Some(text) = value.as_str() {
        let bytes = unhex(text).filter(|bytes| bytes.len() == size);
        return bytes.ok_or_else(|| format!("the object has no types, so it takes {size} bytes in hexadecimal").into());
    }
    let number = match (value.as_i64(), value.as_u64(), value.as_bool()) {
        (Some(number), ..) => number.to_le_bytes(),
        (_, Some(number), _) => number.to_le_bytes(),
        (.., Some(truth)) => u64::from(truth).to_le_bytes(),
        _ => return Err("the object has no types, so it takes numbers and hexadecimal texts alone".into()),
    };
    let negative = value.as_i64().is_some_and(|number| number < 0);
    let fill = if negative { 0xff } else { 0 };
    let mut bytes: Vec<u8> = number.to_vec();
    bytes.resize(size.max(8), fill);
    if bytes[size..].iter().any(|byte| *byte != fill) {
        return Err(format!("{value} does not fit into {size} bytes").into());
    }
    bytes.truncate(size);
    if cfg!(target_endian = "big") {
        bytes.reverse();
    }
    Ok(bytes)
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<char> = text.trim_start_matches("0x").chars().filter(|digit| !digit.is_whitespace()).collect();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let pair = |pair: &[char]| Some((pair[0].to_digit(16)? * 16 + pair[1].to_digit(16)?) as u8);
    digits.chunks_exact(2).map(pair).collect()
}

/// The bytes of a key, by its type in the object.
pub(super) fn encode_key(map: &MapHandle, source: Source<'_>, key: &Value) -> Result<Vec<u8>, Failure> {
    let what = format!("key of map {}", source.name);
    let types = source.object.and_then(|btf| Some((btf, map_types(btf, source.name)?.key?)));
    match types {
        Some((btf, id)) => Ok(encode(btf, id, &what, key)?),
        None => number(key, map.info().key_size as usize),
    }
}

/// The inner map at `key` of a map of maps: the one that is there, or a new one as the object describes them. `loaded`
/// are the object's types in the kernel.
pub(super) fn inner(
    outer: &MapHandle,
    key: &[u8],
    source: Source<'_>,
    loaded: Option<BorrowedFd<'_>>,
) -> Result<MapHandle, Failure> {
    if let Some(value) = outer.lookup(key)? {
        let id = value.first_chunk().map_or(0, |id| u32::from_ne_bytes(*id));
        if id != 0 {
            return Ok(MapHandle::from_fd(sys::map_by_id(id)?)?);
        }
    }
    let types = source.object.and_then(|btf| Some((btf, *map_types(btf, source.name)?.inner?)));
    let (btf, types) = types.ok_or("the object does not say what its inner maps are like")?;
    let ids = types.key.zip(types.value);
    let typed = loaded.zip(ids).map(|(loaded, (key, value))| (loaded, key, value));
    // An inner map must be like the pattern (bpf_map_meta_equal), from 5.15 to 6.1 in that it has types or has none, too:
    // a map without differs in `timer_off`. With which the loader made the pattern it does not say.
    let mut last: Failure = "there are no types to make it with".into();
    for typed in [typed, None] {
        let made = create(btf, &types, typed).and_then(|made| {
            outer.update(Some(key), &made.fd().as_raw_fd().to_ne_bytes(), 0)?;
            Ok(made)
        });
        match made {
            Ok(made) => return Ok(made),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn create(btf: &Btf, types: &MapTypes, typed: Option<(BorrowedFd<'_>, u32, u32)>) -> Result<MapHandle, Failure> {
    let size = |id: Option<u32>, size: Option<u32>| {
        let of_type = id.and_then(|id| btf.size(id)).and_then(|size| u32::try_from(size).ok());
        of_type.or(size).unwrap_or_default()
    };
    Ok(MapHandle::from_fd(sys::create_map(&MapSpec {
        kind: types.kind.unwrap_or(map_kind::HASH),
        key_size: size(types.key, types.key_size),
        value_size: size(types.value, types.value_size),
        max_entries: types.max_entries.unwrap_or(1),
        flags: types.map_flags.unwrap_or_default(),
        name: "inner",
        inner: None,
        types: typed,
    })?)?)
}

/// Puts an interface into a device map: its number, and no program (`struct bpf_devmap_val`).
pub(super) fn set_interface(map: &MapHandle, key: &Value, ifindex: u32) -> io::Result<()> {
    let index = super::observer::index(key)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a key of a device map is a number"))?;
    let mut value = ifindex.to_ne_bytes().to_vec();
    value.resize(map.info().value_size as usize, 0);
    if value.len() == 8 {
        // No program runs at the device: a descriptor that is none.
        value[4..].copy_from_slice(&(-1_i32).to_ne_bytes());
    }
    map.update(Some(&index.to_ne_bytes()), &value, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_take_the_bytes_that_there_are() {
        assert_eq!(number(&json!(258), 2).unwrap(), 258_u16.to_ne_bytes());
        assert_eq!(number(&json!(-1), 4).unwrap(), [0xff; 4]);
        assert_eq!(number(&json!(true), 1).unwrap(), [1]);
        assert_eq!(number(&json!("0a0b"), 2).unwrap(), [0x0a, 0x0b]);
        assert!(number(&json!(256), 1).unwrap_err().to_string().contains("does not fit"));
        assert!(number(&json!("0a"), 2).is_err());
        assert!(number(&json!([1]), 4).is_err());
    }
}

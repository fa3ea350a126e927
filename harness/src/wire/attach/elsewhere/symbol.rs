//! Where a function lies in a file.

use std::io;
use std::path::Path;

use object::{Object as _, ObjectSection as _, ObjectSegment as _, ObjectSymbol as _};

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) path: String,
    /// Bytes from the start of the file.
    pub(super) offset: u64,
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

/// `name+0x10` or `name+16`, or a name alone.
pub(super) fn split_offset(text: &str) -> io::Result<(&str, u64)> {
    let Some((name, offset)) = text.split_once('+') else { return Ok((text, 0)) };
    let number = match offset.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => offset.parse(),
    };
    number.map(|offset| (name, offset)).map_err(|_| invalid(format!("{offset} is no offset in bytes")))
}

/// Finds `path:symbol+offset`; the path may be the name of a library.
pub(super) fn find(at: &str) -> io::Result<Place> {
    let Some((path, symbol)) = at.rsplit_once(':') else {
        return Err(invalid(format!("{at} is not `path:symbol`")));
    };
    let path = if path.contains('/') { path.to_owned() } else { library(path)? };
    let (name, offset) = split_offset(symbol)?;
    let bytes = std::fs::read(&path).map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))?;
    let file = object::File::parse(&*bytes).map_err(|error| invalid(format!("{path} is no ELF file: {error}")))?;
    let address = file
        .symbols()
        .chain(file.dynamic_symbols())
        .find(|symbol| symbol.is_definition() && symbol.name() == Ok(name))
        .map(|symbol| symbol.address())
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{path} has no function {name}")))?;
    let in_file = |start: u64, size: u64, file_start: u64| {
        (start..start.saturating_add(size)).contains(&address).then(|| address - start + file_start)
    };
    let place = file
        .segments()
        .find_map(|segment| in_file(segment.address(), segment.size(), segment.file_range().0))
        .or_else(|| {
            let section =
                file.sections().find(|section| section.address() <= address && section.file_range().is_some())?;
            in_file(section.address(), section.size(), section.file_range()?.0)
        })
        .ok_or_else(|| invalid(format!("function {name} of {path} lies in no segment")))?;
    Ok(Place { path, offset: place.saturating_add(offset) })
}

/// The file of a library that this process has loaded, else one in the usual folders.
fn library(name: &str) -> io::Result<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let is_it = |path: &str| Path::new(path).file_name().is_some_and(|file| file.to_string_lossy().starts_with(name));
    let loaded = maps.lines().filter_map(|line| line.split_ascii_whitespace().nth(5)).find(|path| is_it(path));
    if let Some(path) = loaded {
        return Ok(path.to_owned());
    }
    let folders = ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/usr/lib", "/lib"];
    let found = folders.iter().map(|folder| format!("{folder}/{name}")).find(|path| Path::new(path).exists());
    found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no library {name} in the usual folders")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_decimal_or_hexadecimal() {
        assert_eq!(split_offset("f").unwrap(), ("f", 0));
        assert_eq!(split_offset("f+16").unwrap(), ("f", 16));
        assert_eq!(split_offset("f+0x10").unwrap(), ("f", 16));
        assert!(split_offset("f+x").is_err());
    }

    #[test]
    fn a_function_of_the_c_library_is_found_and_an_unknown_one_is_not() {
        let place = find("libc.so.6:getpid").unwrap();
        assert!(place.path.ends_with("libc.so.6") && place.offset > 0, "{place:?}");
        assert!(find("libc.so.6:no_such_function").unwrap_err().to_string().contains("has no function"));
        assert!(find("nothing").is_err());
    }
}

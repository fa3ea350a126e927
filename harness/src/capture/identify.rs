//! What a file is, by its first bytes.

use pcap_file::Endianness;

/// Magic numbers of pcap as they stand in the file, big-endian first (`pcap-savefile(5)`).
const PCAP_MICRO: u32 = 0xa1b2_c3d4;
const PCAP_NANO: u32 = 0xa1b2_3c4d;
/// Block type of a section header, the same in both byte orders (`draft-ietf-opsawg-pcapng` section 4.1).
const SECTION_HEADER: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

/// What the first bytes say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Looks {
    Pcap,
    Pcapng,
    Gzip,
    Other(String),
}

/// Other formats by their first bytes: name, and what to do about it.
const OTHERS: &[(&[u8], &str, &str)] = &[
    (b"\x7fELF", "an ELF file (a program, library or eBPF object)", ""),
    (b"PK\x03\x04", "a zip archive", "; unpack it with unzip"),
    (b"\x28\xb5\x2f\xfd", "a zstd-compressed file", "; unpack it with `zstd -d`"),
    (b"\xfd7zXZ\x00", "an xz-compressed file", "; unpack it with `xz -d`"),
    (b"BZh", "a bzip2-compressed file", "; unpack it with `bzip2 -d`"),
    (b"\x04\x22\x4d\x18", "an lz4-compressed file", "; unpack it with `lz4 -d`"),
    (b"snoop\x00\x00\x00", "a snoop capture", "; convert it with `editcap -F pcapng`"),
    (b"GMBU", "a Microsoft Network Monitor capture", "; convert it with `editcap -F pcapng`"),
    (b"RTSS", "a Microsoft Network Monitor capture", "; convert it with `editcap -F pcapng`"),
    (b"\xa1\xb2\xcd\x34", "a pcap with Kuznetzov's extensions", "; convert it with `editcap -F pcap`"),
    (b"\x34\xcd\xb2\xa1", "a pcap with Kuznetzov's extensions", "; convert it with `editcap -F pcap`"),
    (b"\x89PNG", "a PNG image", ""),
    (b"%PDF", "a PDF document", ""),
    (b"SQLite format 3", "an SQLite database", ""),
];

pub(super) fn identify(head: &[u8]) -> Looks {
    let first = head.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes));
    match first {
        Some(magic) if pcap_order(magic).is_some() => return Looks::Pcap,
        _ if head.starts_with(&SECTION_HEADER) => return Looks::Pcapng,
        _ if head.starts_with(&[0x1f, 0x8b]) => return Looks::Gzip,
        _ => {}
    }
    if let Some((_, name, advice)) = OTHERS.iter().find(|(magic, _, _)| head.starts_with(magic)) {
        return Looks::Other(format!("{name}{advice}"));
    }
    Looks::Other(match text_start(head) {
        Some('{' | '[') => "JSON".to_owned(),
        Some('<') => "XML or HTML".to_owned(),
        Some(_) => "text".to_owned(),
        None => {
            let bytes: Vec<_> = head.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            format!("data of an unknown kind (first bytes {})", bytes.join(" "))
        }
    })
}

/// Byte order of a pcap by its magic number read as big-endian, and whether its times are nanoseconds.
pub(super) fn pcap_order(magic: u32) -> Option<(Endianness, bool)> {
    [(Endianness::Big, magic), (Endianness::Little, magic.swap_bytes())].into_iter().find_map(|(order, magic)| {
        match magic {
            PCAP_MICRO => Some((order, false)),
            PCAP_NANO => Some((order, true)),
            _ => None,
        }
    })
}

/// The first visible character, if these bytes are text. The last few bytes may be half a character.
fn text_start(head: &[u8]) -> Option<char> {
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => std::str::from_utf8(&head[..error.valid_up_to()]).ok()?,
        Err(_) => return None,
    };
    let text = text.trim_start_matches('\u{feff}');
    let visible = text.chars().all(|c| !c.is_control() || matches!(c, '\n' | '\r' | '\t' | '\u{1b}'));
    visible.then(|| text.trim_start().chars().next())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_by_their_first_bytes() {
        assert_eq!(identify(&[0xd4, 0xc3, 0xb2, 0xa1]), Looks::Pcap);
        assert_eq!(identify(&[0xa1, 0xb2, 0x3c, 0x4d, 0]), Looks::Pcap);
        assert_eq!(identify(&SECTION_HEADER), Looks::Pcapng);
        assert_eq!(identify(&[0x1f, 0x8b, 8]), Looks::Gzip);
        for (bytes, name) in [
            (&b"\x7fELF\x02\x01"[..], "ELF"),
            (b"PK\x03\x04", "zip"),
            (b" \n{\"version\": 1", "JSON"),
            (b"<?xml", "XML"),
            ("19:00 IP 10.0.0.1 \u{2192}".as_bytes(), "text"),
            (b"\x00\x01\x02\x03", "unknown kind (first bytes 00 01 02 03)"),
            (b"\xd4", "unknown kind"),
        ] {
            match identify(bytes) {
                Looks::Other(looks) => assert!(looks.contains(name), "{looks}"),
                other => panic!("{other:?}"),
            }
        }
    }
}

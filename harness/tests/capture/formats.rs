//! Every format and link type, and what is said about files that are none.

use std::io::Write as _;
use std::path::Path;

use bpflab::capture::{CaptureError, End, Format, Kind, LinkType, Options, Reader, Survey, Writer};

use super::files::{CLIENT, Order, PLAIN, Pcapng, SERVER, START_S, Temp, pcap, record, tcp, udp};
use super::run;

const START_NS: u64 = START_S as u64 * 1_000_000_000;

/// Number, time, wire length and bytes of a packet.
type Read = (u64, u64, u32, Vec<u8>);

/// Every packet, and the end.
fn read(path: &Path) -> (Vec<Read>, End) {
    let mut reader = Reader::open(path).unwrap();
    let mut packets = Vec::new();
    while let Some(packet) = reader.next_packet().unwrap() {
        packets.push((packet.number, packet.time_ns, packet.wire_len, packet.data.to_vec()));
    }
    let end = reader.end().cloned().unwrap();
    (packets, end)
}

#[test]
fn pcap_is_read_in_both_orders_and_resolutions() {
    let data = tcp(CLIENT, SERVER, PLAIN, b"hello");
    for big in [false, true] {
        for nano in [false, true] {
            let records = [record(1_234_567_891, data.clone()), record(2_000_000_000, data[..20].to_vec())];
            let file = Temp::new(&pcap(big, nano, 1, &records));
            let first = START_NS + if nano { 1_234_567_891 } else { 1_234_567_000 };
            let expected = vec![
                (1, first, data.len() as u32, data.clone()),
                (2, START_NS + 2_000_000_000, 20, data[..20].to_vec()),
            ];
            assert_eq!(read(&file.path()), (expected, End::Complete));
        }
    }
}

#[test]
fn pcapng_sections_interfaces_resolutions_and_offsets() {
    let data = udp(CLIENT, SERVER, (1, 2), b"x");
    for big in [false, true] {
        let mut file = Pcapng::new(big);
        let offset = if big { 100_i64.to_be_bytes() } else { 100_i64.to_le_bytes() };
        file.interface(1, 0, &[(2, b"eth0"), (9, &[9])])
            .interface(1, 0, &[(9, &[0x8a]), (14, &offset)])
            .block(0xbad, b"custom")
            .block(5, &[0; 12])
            .enhanced(0, START_NS, &data, 99)
            .enhanced(1, 1536, &data, data.len() as u32)
            .obsolete(0, START_NS + 7, &data)
            .simple(&data, data.len() as u32);
        // The other byte order, and an interface 0 of its own: raw IP, microseconds.
        file.section(!big).interface(101, 0, &[(2, b"\xff\xfe")]).enhanced(0, 5_000_000, &data[14..], 29);
        let file = Temp::new(&file.out);
        let (packets, end) = read(&file.path());
        assert_eq!(end, End::Complete);
        let times: Vec<_> = packets.iter().map(|packet| packet.1).collect();
        // 1536 / 2^10 s = 1.5 s, and 100 s of offset. A simple block has the time of the one before.
        assert_eq!(times, [START_NS, 101_500_000_000, START_NS + 7, START_NS + 7, 5_000_000_000]);
        assert_eq!(packets[0].2, 99);
        assert!(packets[..4].iter().all(|packet| packet.3 == data));

        let (survey, frames) = run(&file.path(), &Options::default());
        assert_eq!((survey.format, survey.packets, frames.len()), (Format::Pcapng, 5, 5));
        let interfaces: Vec<_> = survey
            .interfaces
            .iter()
            .map(|i| (i.section, i.id, i.name.as_deref(), i.link.0, i.resolution.to_string(), i.packets))
            .collect();
        assert_eq!(
            interfaces,
            [
                (0, 0, Some("eth0"), 1, "nanoseconds".to_owned(), 3),
                (0, 1, None, 1, "2^-10 s".to_owned(), 1),
                (1, 0, Some("\u{fffd}\u{fffd}"), 101, "microseconds".to_owned(), 1),
            ]
        );
        assert_eq!(survey.finding(Kind::Untimed).unwrap().first, Some(4));
        assert_eq!(frames[4].data[12..], data[12..], "raw IP became Ethernet");
    }
}

#[test]
fn a_simple_packet_is_as_long_as_snaplen_left_it() {
    let data = udp(CLIENT, SERVER, (1, 2), &[5; 100]);
    let mut file = Pcapng::new(false);
    // 61 bytes are padded to 64 in the file; the padding is no data.
    file.interface(1, 61, &[]).simple(&data[..61], data.len() as u32);
    let file = Temp::new(&file.out);
    assert_eq!(read(&file.path()).0, [(1, 0, 142, data[..61].to_vec())]);
}

#[test]
fn frame_check_sequences_are_left_out() {
    let data = tcp(CLIENT, SERVER, PLAIN, b"data");
    let with_fcs = [&data[..], &[1, 2, 3, 4]].concat();
    // Bit 26 and a length of 2 units of 16 bits.
    let file = Temp::new(&pcap(false, false, 0x2400_0001, &[record(0, with_fcs.clone())]));
    let (_, frames) = run(&file.path(), &Options::default());
    assert_eq!((frames[0].wire_len, &frames[0].data), (data.len() as u32, &data));
    let mut file = Pcapng::new(true);
    file.interface(1, 0, &[(13, &[32])]).enhanced(0, 0, &with_fcs, with_fcs.len() as u32);
    assert_eq!(run(&Temp::new(&file.out).path(), &Options::default()).1[0].data, data);
}

#[test]
fn gzip_is_read_through_and_its_own_cut_is_found() {
    let records: Vec<_> = (0..200).map(|i| record(i, tcp(CLIENT, SERVER, PLAIN, &i.to_be_bytes()))).collect();
    let plain = pcap(false, true, 1, &records);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&plain).unwrap();
    let packed = encoder.finish().unwrap();
    let file = Temp::new(&packed);
    let (survey, frames) = run(&file.path(), &Options::default());
    assert!(survey.gzip && survey.findings.is_empty(), "{:?}", survey.findings);
    assert_eq!((survey.file_len, frames.len()), (packed.len() as u64, 200));

    let (survey, frames) = run(&Temp::new(&packed[..packed.len() / 2]).path(), &Options::default());
    assert!(survey.finding(Kind::CutOff).is_some());
    assert!((1..200).contains(&frames.len()));
}

#[test]
fn files_that_are_no_captures_are_named() {
    let error = |bytes: &[u8]| Survey::of(&Temp::new(bytes).path(), &Options::default()).unwrap_err().to_string();
    assert!(error(b"").contains("is empty"));
    assert!(error(b"\x7fELF\x02\x01\x01").contains("ELF"));
    assert!(error(b"{\"version\": 1}").contains("JSON"));
    assert!(error(b"\x28\xb5\x2f\xfd").contains("zstd -d"));
    assert!(error(&[0xd4, 0xc3, 0xb2, 0xa1, 2, 0]).contains("cut off inside its pcap file header: 6 bytes"));
    let mut version = pcap(true, false, 1, &[]);
    version[5] = 9;
    assert!(error(&version).contains("pcap version 9.4"), "{}", error(&version));
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(b"just text").unwrap();
    assert!(error(&encoder.finish().unwrap()).contains("a gzip file of text"));
    let missing = Survey::of(Path::new("/nonexistent/x.pcap"), &Options::default()).unwrap_err();
    assert!(missing.to_string().contains("/nonexistent/x.pcap"));
    assert!(matches!(missing, CaptureError::Open { source, .. } if source.kind() == std::io::ErrorKind::NotFound));
    assert!(matches!(
        Survey::of(Path::new("/tmp"), &Options::default()),
        Err(CaptureError::NotAFile { what: "a directory", .. })
    ));
}

#[test]
fn unsupported_link_types_are_refused_or_counted() {
    let file = Temp::new(&pcap(false, false, 127, &[record(0, vec![0; 60])]));
    let error = Survey::of(&file.path(), &Options::default()).unwrap_err();
    assert!(matches!(error, CaptureError::UnsupportedLink { link: LinkType(127), .. }));
    assert!(error.to_string().contains("IEEE802_11_RADIOTAP (127)") && error.to_string().contains("Ethernet (1)"));

    let data = tcp(CLIENT, SERVER, PLAIN, b"");
    let mut file = Pcapng::new(false);
    file.interface(127, 0, &[]).interface(1, 0, &[]).enhanced(0, 0, &data, 54).enhanced(1, 1, &data, 54);
    let (survey, frames) = run(&Temp::new(&file.out).path(), &Options::default());
    let finding = survey.finding(Kind::UnsupportedLink).unwrap();
    assert_eq!((finding.count, finding.refused, finding.first, survey.refused), (1, 1, Some(1), 1));
    assert_eq!(frames[0].number, 2, "numbers are those of the file");
}

#[test]
fn a_cut_file_gives_the_packets_before_the_cut() {
    let data = tcp(CLIENT, SERVER, PLAIN, b"0123456789");
    let whole = pcap(false, false, 1, &[record(0, data.clone()), record(1, data.clone())]);
    let second = 24 + 16 + data.len();
    for len in second + 1..whole.len() {
        let (survey, frames) = run(&Temp::new(&whole[..len]).path(), &Options::default());
        assert_eq!((survey.packets, frames.len()), (1, 1), "cut at {len}");
        assert!(survey.finding(Kind::CutOff).unwrap().text.contains("1 packet before the cut"));
    }
    let error = Survey::of(&Temp::new(&whole[..second - 1]).path(), &Options::default()).unwrap_err();
    assert!(matches!(error, CaptureError::NothingReadable { .. }), "{error}");
    let (survey, _) = run(&Temp::new(&whole[..24]).path(), &Options::default());
    assert!(survey.finding(Kind::NoPackets).is_some());
}

#[test]
fn damage_ends_the_reading_with_its_reason() {
    let data = tcp(CLIENT, SERVER, PLAIN, b"");
    let mut bytes = pcap(false, false, 1, &[record(0, data.clone()), record(1, data.clone())]);
    let second = 24 + 16 + data.len();
    bytes[second + 8..second + 12].copy_from_slice(&0x7fff_ffff_u32.to_le_bytes());
    let (survey, _) = run(&Temp::new(&bytes).path(), &Options::default());
    assert!(survey.finding(Kind::Damaged).unwrap().text.contains("packet 2 claims 2147483647 captured bytes"));

    let mut file = Pcapng::new(false);
    file.interface(1, 0, &[]).enhanced(7, 0, &data, 54).enhanced(0, 0, &data, 54);
    let mut lies = Order { big: false }.u32(0).to_vec();
    lies.extend([0; 8]);
    lies.extend(1000_u32.to_le_bytes());
    lies.extend([0; 4]);
    file.block(6, &lies);
    let (survey, frames) = run(&Temp::new(&file.out).path(), &Options::default());
    assert_eq!(survey.finding(Kind::NoInterface).unwrap().first, Some(1));
    assert_eq!(survey.finding(Kind::BadRecord).unwrap().first, Some(3));
    assert_eq!((survey.packets, survey.refused, frames.len()), (3, 2, 1));
}

#[test]
fn the_writer_is_read_back_by_the_reader() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.pcapng");
    let data = tcp(CLIENT, SERVER, PLAIN, b"abc");
    let mut writer = Writer::create(&path).unwrap();
    writer.write(START_NS + 1, &data, 0).unwrap();
    writer.write_commented(START_NS + 2, &data[..60 - 10], 1500, "cut here").unwrap();
    writer.finish().unwrap();
    let expected =
        vec![(1, START_NS + 1, data.len() as u32, data.clone()), (2, START_NS + 2, 1500, data[..50].to_vec())];
    assert_eq!(read(&path), (expected, End::Complete));
}

#[test]
fn the_hash_covers_the_whole_file() {
    use sha2::Digest as _;
    let mut bytes = pcap(false, false, 1, &[record(0, tcp(CLIENT, SERVER, PLAIN, b""))]);
    bytes.resize(3_000_000, 0xff);
    let (survey, _) = run(&Temp::new(&bytes).path(), &Options::default());
    let expected: String = sha2::Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(survey.sha256, expected);
}

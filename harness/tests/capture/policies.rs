//! What becomes of unusual frames under each policy, and what is said about it.

use bpflab::capture::{CaptureError, Checksums, Frame, Frames, Kind, Options, Oversize, Survey, Truncated};

use super::files::{CLIENT, PLAIN, Record, SERVER, Temp, pcap, record, tcp, udp};
use super::run;

fn file(records: &[Record]) -> Temp {
    Temp::new(&pcap(false, true, 1, records))
}

fn checksums_are_right(frame: &Frame) -> bool {
    let sliced = etherparse::SlicedPacket::from_ethernet(&frame.data).unwrap();
    let Some(etherparse::NetSlice::Ipv4(ip)) = sliced.net else { panic!("no IPv4") };
    let header = ip.header().to_header();
    let transport = match sliced.transport.unwrap() {
        etherparse::TransportSlice::Tcp(tcp) => {
            tcp.to_header().calc_checksum_ipv4(&header, tcp.payload()).unwrap() == tcp.checksum()
        }
        etherparse::TransportSlice::Udp(udp) => {
            udp.to_header().calc_checksum_ipv4(&header, udp.payload()).unwrap() == udp.checksum()
        }
        _ => panic!("neither TCP nor UDP"),
    };
    transport && header.calc_header_checksum() == header.header_checksum
}

#[test]
fn super_frames_are_segmented_or_refused_as_announced() {
    // 10000 bytes over a TCP header of 20: 6 segments of 1460 and one of 1240.
    let records = [record(5, tcp(CLIENT, SERVER, PLAIN, &[7; 10_000])), record(9, tcp(SERVER, CLIENT, PLAIN, b""))];
    let file = file(&records);
    let (survey, frames) = run(&file.path(), &Options::default());
    assert_eq!(frames.iter().map(|f| f.data.len()).collect::<Vec<_>>(), [1514, 1514, 1514, 1514, 1514, 1514, 1294, 54]);
    assert!(frames.iter().all(checksums_are_right));
    assert!(frames[..7].iter().all(|f| (f.number, f.time_ns % 1000, f.side) == (1, 5, frames[0].side)));
    let finding = survey.finding(Kind::OversizeTcp).unwrap();
    assert_eq!((finding.count, finding.refused, finding.first), (1, 0, Some(1)));
    assert!(finding.text.ends_with("cut into 7 segments"), "{}", finding.text);

    let refuse = Options { oversize: Oversize::Refuse, ..Options::default() };
    let (survey, frames) = run(&file.path(), &refuse);
    assert_eq!((survey.refused, frames.len()), (1, 1));
    assert!(survey.finding(Kind::OversizeTcp).unwrap().text.ends_with("refused"));

    let jumbo = Options { mtu: 65_535, ..Options::default() };
    assert_eq!(run(&file.path(), &jumbo).0.findings, []);
}

#[test]
fn oversize_frames_that_are_not_tcp_are_refused_and_trailers_cut() {
    let mut trailer = udp(CLIENT, SERVER, (1, 2), &[3; 1472]);
    assert_eq!(trailer.len(), 1514);
    trailer.extend([0xde, 0xad, 0xbe, 0xef]);
    let cut_super_frame = Record { wire_len: 20_000, ..record(0, tcp(CLIENT, SERVER, PLAIN, &[7; 3000])) };
    let file = file(&[record(0, udp(CLIENT, SERVER, (1, 2), &[3; 1473])), record(1, trailer), cut_super_frame]);
    let (survey, frames) = run(&file.path(), &Options::default());
    assert_eq!(survey.finding(Kind::OversizeOther).unwrap().refused, 1);
    assert_eq!(survey.finding(Kind::OversizeTrailer).unwrap().first, Some(2));
    assert_eq!(survey.finding(Kind::OversizeUncut).unwrap().first, Some(3));
    assert_eq!(frames.len(), 1);
    assert_eq!((frames[0].data.len(), frames[0].wire_len), (1514, 1514));
    assert!(checksums_are_right(&frames[0]));
}

#[test]
fn vlan_tags_raise_the_limit_by_4_bytes_each() {
    let mut data = tcp(CLIENT, SERVER, PLAIN, &[1; 1460]);
    data.splice(12..12, [0x81, 0x00, 0, 5]);
    let file = file(&[record(0, data.clone())]);
    assert_eq!(run(&file.path(), &Options::default()).0.findings, []);
    let smaller = Options { mtu: 1499, ..Options::default() };
    let (_, frames) = run(&file.path(), &smaller);
    assert_eq!(frames.len(), 2);
    assert!(frames.iter().all(|frame| frame.data[12..16] == [0x81, 0x00, 0, 5]));
}

#[test]
fn truncated_frames_are_kept_refused_or_padded() {
    let whole = tcp(CLIENT, SERVER, PLAIN, &[9; 500]);
    let file = file(&[Record { wire_len: whole.len() as u32, ..record(0, whole[..96].to_vec()) }]);
    let with = |truncated| Options { truncated, ..Options::default() };

    let (survey, frames) = run(&file.path(), &with(Truncated::Keep));
    assert_eq!((frames[0].data.len(), frames[0].wire_len), (96, 554));
    assert_eq!(survey.findings.len(), 1, "no verdict on checksums that cannot be computed");
    assert!(survey.findings[0].text.ends_with("offered as captured"));

    let (survey, frames) = run(&file.path(), &with(Truncated::Refuse));
    assert_eq!((survey.refused, frames.len()), (1, 0));

    let (survey, frames) = run(&file.path(), &with(Truncated::Pad));
    assert_eq!(frames[0].data[..16], whole[..16]);
    assert_eq!(frames[0].data.len(), 554);
    assert!(frames[0].data[96..].iter().all(|byte| *byte == 0) && checksums_are_right(&frames[0]));
    assert!(survey.findings[0].text.contains("filled with zeros"));
}

#[test]
fn a_padded_super_frame_is_segmented_and_an_absurd_length_refused() {
    let whole = tcp(CLIENT, SERVER, PLAIN, &[9; 5000]);
    let absurd = Record { wire_len: u32::MAX, ..record(1, whole[..96].to_vec()) };
    let file = file(&[Record { wire_len: whole.len() as u32, ..record(0, whole[..96].to_vec()) }, absurd]);
    let (survey, frames) = run(&file.path(), &Options { truncated: Truncated::Pad, ..Options::default() });
    assert_eq!(frames.len(), 4, "5000 bytes in segments of 1460");
    assert!(frames.iter().all(checksums_are_right));
    assert_eq!(survey.finding(Kind::Truncated).unwrap().refused, 1);
}

#[test]
fn wrong_checksums_are_told_apart_and_repaired_on_request() {
    let good = tcp(CLIENT, SERVER, PLAIN, b"payload");
    let mut bad_ip = good.clone();
    bad_ip[24] ^= 0xff;
    let mut bad_tcp = good.clone();
    bad_tcp[50] ^= 0x40;
    // The folded sum of the pseudo-header: 0a00 + 0001 + 0a00 + 0002 + 6 + 27 bytes.
    let mut offload = good.clone();
    offload[50..52].copy_from_slice(&(0x0a00_u16 + 1 + 0x0a00 + 2 + 6 + 27).to_be_bytes());
    let mut bad_udp = udp(CLIENT, SERVER, (1, 2), b"x");
    bad_udp[40] ^= 1;
    let all: Vec<_> = [bad_ip, bad_tcp, offload, bad_udp, good].into_iter().map(|data| record(0, data)).collect();
    let file = file(&all);
    let (survey, frames) = run(&file.path(), &Options::default());
    let found: Vec<_> = survey.findings.iter().map(|finding| (finding.kind, finding.first.unwrap())).collect();
    let expected =
        [(Kind::BadIpv4Checksum, 1), (Kind::ChecksumOffload, 3), (Kind::BadTcpChecksum, 2), (Kind::BadUdpChecksum, 4)];
    assert_eq!(found, expected);
    assert_eq!(frames.iter().filter(|frame| checksums_are_right(frame)).count(), 1);
    assert!(frames.iter().zip(&all).all(|(frame, record)| frame.data == record.data), "kept as captured");

    let (survey, frames) = run(&file.path(), &Options { checksums: Checksums::Repair, ..Options::default() });
    assert!(frames.iter().all(checksums_are_right));
    assert!(survey.findings.iter().all(|finding| finding.text.ends_with("repaired")));
}

#[test]
fn runts_and_times_that_go_backwards_are_named() {
    let data = tcp(CLIENT, SERVER, PLAIN, b"");
    let file = file(&[record(9, data.clone()), record(5, data.clone()), record(6, vec![1; 13])]);
    let (survey, frames) = run(&file.path(), &Options::default());
    assert_eq!(survey.finding(Kind::Runt).unwrap().refused, 1);
    assert_eq!(survey.finding(Kind::TimeBackwards).unwrap().first, Some(2));
    assert_eq!(frames[1].time_ns + 4, frames[0].time_ns, "times are kept");
    assert_eq!((survey.first_ns, survey.last_ns), (Some(frames[1].time_ns), Some(frames[0].time_ns)));
}

#[cfg(feature = "filter")]
#[test]
fn a_limit_counts_packets_after_the_filter() {
    let records: Vec<_> = (0..10)
        .map(|i| record(i, if i % 2 == 0 { tcp(CLIENT, SERVER, PLAIN, b"") } else { udp(CLIENT, SERVER, (1, 2), b"") }))
        .collect();
    let file = file(&records);
    let options = Options { filter: Some("udp".to_owned()), limit: Some(3), ..Options::default() };
    let (survey, frames) = run(&file.path(), &options);
    assert_eq!(frames.iter().map(|frame| frame.number).collect::<Vec<_>>(), [2, 4, 6]);
    assert_eq!((survey.selected, survey.filtered_out, survey.beyond_limit), (3, 3, 4));
    let none = Options { filter: Some("icmp".to_owned()), ..Options::default() };
    let (survey, _) = run(&file.path(), &none);
    assert!(survey.finding(Kind::NothingSelected).unwrap().text.contains("10 packets"));
}

#[cfg(feature = "filter")]
#[test]
fn a_filter_looks_at_the_original_link_type_and_length() {
    let data = tcp(CLIENT, SERVER, PLAIN, &[1; 500]);
    let short = Record { wire_len: data.len() as u32, ..record(0, data[..96].to_vec()) };
    let options = |filter: &str| Options { filter: Some(filter.to_owned()), ..Options::default() };
    assert_eq!(run(&file(&[short]).path(), &options("greater 500")).1.len(), 1, "length on the wire");
    for (link, header) in [(101, &[][..]), (113, &[0, 4, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0, 8, 0]), (0, &[2, 0, 0, 0])]
    {
        let packet = [header, &data[14..]].concat();
        let file = Temp::new(&pcap(false, false, link, &[record(0, packet)]));
        assert_eq!(run(&file.path(), &options("tcp and src host 10.0.0.1")).1.len(), 1, "link type {link}");
        assert_eq!(run(&file.path(), &options("udp")).1.len(), 0, "link type {link}");
    }
}

#[cfg(feature = "filter")]
#[test]
fn a_wrong_filter_or_mtu_is_an_error_even_without_packets() {
    let file = file(&[]);
    let error = |options: &Options| Survey::of(&file.path(), options).unwrap_err();
    let wrong = Options { filter: Some("tcp prot 80".to_owned()), ..Options::default() };
    let message = error(&wrong).to_string();
    assert!(message.contains("`tcp prot 80`") && message.contains("syntax error"), "{message}");
    assert!(matches!(error(&Options { mtu: 20, ..Options::default() }), CaptureError::Mtu { mtu: 20 }));
}

#[cfg(not(feature = "filter"))]
#[test]
fn a_filter_without_libpcap_is_an_error_that_says_so() {
    let options = Options { filter: Some("udp".to_owned()), ..Options::default() };
    let error = Survey::of(&file(&[]).path(), &options).unwrap_err().to_string();
    assert!(error.contains("`udp`") && error.contains("built without the `filter` feature"), "{error}");
}

#[test]
fn a_file_that_changed_after_its_survey_is_refused() {
    let data = tcp(CLIENT, SERVER, PLAIN, b"");
    let file = file(&[record(0, data.clone()), record(0, data.clone())]);
    let options = Options::default();
    let survey = Survey::of(&file.path(), &options).unwrap();
    std::fs::write(file.path(), pcap(false, true, 1, &[record(0, data.clone())])).unwrap();
    assert!(matches!(Frames::open(&file.path(), &options, &survey), Err(CaptureError::Changed { .. })));
    // The same length, with one packet more than announced or less.
    let other = pcap(false, true, 1, &[record(0, [&data[..], &data, &[0; 16]].concat())]);
    std::fs::write(file.path(), other).unwrap();
    let results: Vec<_> = Frames::open(&file.path(), &options, &survey).unwrap().collect();
    assert!(matches!(results.last(), Some(Err(CaptureError::Changed { .. }))));
    assert_eq!(results.len(), 2);
}

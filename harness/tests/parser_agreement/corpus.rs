//! Well-formed frames of every kind that the parser knows, and some that it does not: what the mutations start from.

use std::path::Path;

use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, IpFragOffset, IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header,
    Ipv4Options, Ipv6Extensions, Ipv6FlowLabel, Ipv6Header, PacketBuilder, TcpOptionElement, VlanId,
};

const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const CLIENT: [u8; 4] = [10, 0, 0, 1];
const SERVER: [u8; 4] = [10, 0, 1, 2];
const CLIENT6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const SERVER6: [u8; 16] = [0xfd, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

/// Longest frame taken from a capture: what a veth with the usual MTU carries, VLAN tag included.
const MAX_FRAME: usize = 1518;
/// Frames taken from one capture.
const PER_CAPTURE: usize = 16;

type Ethernet = etherparse::PacketBuilderStep<etherparse::Ethernet2Header>;

fn ethernet() -> Ethernet {
    PacketBuilder::ethernet2(CLIENT_MAC, SERVER_MAC)
}

/// Finishes a packet of etherparse's builder.
macro_rules! built {
    ($builder:expr $(, $argument:expr)*) => {{
        let mut frame = Vec::new();
        $builder.write(&mut frame $(, $argument)*).expect("the corpus can be built");
        frame
    }};
}

/// All frames: the built ones, then those of the captures in `directory`, in order of their names.
pub fn frames(directory: &Path) -> Vec<Vec<u8>> {
    let mut frames = [ipv4(), ipv6(), link()].concat();
    let mut captures: Vec<_> = std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "pcap"))
        .collect();
    captures.sort();
    for path in captures {
        let Ok(file) = std::fs::File::open(&path) else { continue };
        // A capture may be cut off or of another link type on purpose; whatever bytes it has will do here.
        let Ok(mut reader) = pcap_file::pcap::PcapReader::new(file) else { continue };
        let packets = std::iter::from_fn(|| reader.next_packet()?.ok().map(|packet| packet.data.into_owned()));
        frames.extend(packets.filter(|frame| (14..=MAX_FRAME).contains(&frame.len())).take(PER_CAPTURE));
    }
    frames
}

fn ipv4() -> Vec<Vec<u8>> {
    let plain = || ethernet().ipv4(CLIENT, SERVER, 64);
    let syn_options = [
        TcpOptionElement::MaximumSegmentSize(1460),
        TcpOptionElement::SelectiveAcknowledgementPermitted,
        TcpOptionElement::Timestamp(1, 0),
        TcpOptionElement::Noop,
        TcpOptionElement::WindowScale(7),
    ];
    let mut options = Ipv4Header::new(0, 64, IpNumber::TCP, CLIENT, SERVER).expect("no payload yet");
    // Record route with room for 9 addresses, and an end of list: 40 bytes, the most there can be.
    let record_route = [&[7, 39, 4][..], &[0; 37]].concat();
    options.options = Ipv4Options::try_from(record_route.as_slice()).expect("40 bytes");
    let mut short_options = options.clone();
    short_options.options = Ipv4Options::try_from(&[0x94, 4, 0, 0][..]).expect("4 bytes");
    let with = |header: &Ipv4Header| ethernet().ip(IpHeaders::Ipv4(header.clone(), Ipv4Extensions::default()));
    let mut frames = vec![
        built!(plain().tcp(40000, 80, 1000, 64240).syn().options(&syn_options).expect("20 bytes"), &[]),
        built!(plain().tcp(80, 40000, 5000, 65535).syn().ack(1001), &[]),
        built!(plain().tcp(40000, 80, 1001, 502).psh().ack(5001), b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n"),
        built!(plain().tcp(40000, 80, 1030, 502).fin().ack(5001), &[]),
        built!(plain().tcp(40000, 80, 1030, 0).rst(), &[]),
        built!(plain().udp(5353, 53), &[0; 40]),
        built!(plain().udp(5000, 4789), &[8; 50]),
        built!(plain().icmpv4_echo_request(1, 2), &[0x55; 56]),
        built!(plain().icmpv4_raw(13, 0, [0; 4]), &[0; 12]),
        built!(with(&options).tcp(40000, 80, 1, 500).ack(1), b"options"),
        built!(with(&short_options).udp(1, 2), b"options"),
        built!(
            ethernet().single_vlan(VlanId::try_new(100).expect("12 bits")).ipv4(CLIENT, SERVER, 64).udp(1, 2),
            &[1; 8]
        ),
        built!(
            ethernet()
                .double_vlan(VlanId::try_new(200).expect("12 bits"), VlanId::try_new(100).expect("12 bits"))
                .ipv4(CLIENT, SERVER, 64)
                .tcp(1, 2, 3, 4)
                .ack(5),
            &[1; 8]
        ),
        ip_payload(2, &[0x16, 0, 0, 0, 224, 0, 0, 9]),
        ip_payload(47, &[0x30, 0, 8, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0x45, 0, 0, 20]),
        ip_payload(50, &[7; 32]),
        ip_payload(51, &[6, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]),
        ip_payload(132, &[0, 7, 0, 9, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 20]),
        ip_payload(255, &[]),
    ];
    for (offset, more) in [(0, true), (2, true), (4, false)] {
        let mut header = Ipv4Header::new(0, 64, IpNumber::UDP, CLIENT, SERVER).expect("no payload yet");
        header.identification = 0x1234;
        header.dont_fragment = false;
        header.more_fragments = more;
        header.fragment_offset = IpFragOffset::try_new(offset).expect("13 bits");
        frames.push(built!(with(&header), IpNumber::UDP, &[0x13, 0x88, 0, 53, 0, 48, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]));
    }
    // A short packet in a frame of Ethernet's least length.
    let mut padded = built!(plain().tcp(1, 2, 3, 4).ack(5), &[]);
    padded.resize(60, 0);
    frames.push(padded);
    frames
}

fn ip_payload(proto: u8, payload: &[u8]) -> Vec<u8> {
    let header = Ipv4Header::new(0, 64, IpNumber(proto), CLIENT, SERVER).expect("no payload yet");
    built!(ethernet().ip(IpHeaders::Ipv4(header, Ipv4Extensions::default())), IpNumber(proto), payload)
}

fn ipv6() -> Vec<Vec<u8>> {
    let plain = || ethernet().ipv6(CLIENT6, SERVER6, 64);
    const TCP: [u8; 24] =
        [0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x18, 2, 0, 0, 0, 0, 0, b'd', b'a', b't', b'a'];
    const UDP: [u8; 12] = [0x13, 0x88, 0, 53, 0, 12, 0, 0, 1, 2, 3, 4];
    // Each list names the headers in front of the transport header; see `chain`.
    let mut frames = vec![
        built!(plain().tcp(40000, 443, 1, 500).syn(), &[]),
        built!(plain().udp(5000, 53), &[0; 30]),
        built!(plain().udp(5000, 4789), &[8; 50]),
        built!(plain().icmpv6_echo_request(1, 2), &[0x55; 56]),
        built!(plain().icmpv6_raw(135, 0, [0; 4]), &SERVER6),
        chain(&[0], 58, &[143, 0, 0, 0, 0, 0, 0, 0]),
        chain(&[0, 60, 43, 60], 6, &TCP),
        chain(&[51], 17, &UDP),
        chain(&[44], 17, &UDP),
        chain(&[0, 44, 60], 6, &TCP),
        chain(&[60; 8], 6, &TCP),
        chain(&[60; 9], 6, &TCP),
        chain(&[43], 132, &[0, 7, 0, 9, 0, 0, 0, 1, 0, 0, 0, 0]),
        chain(&[], 47, &[0, 0, 0x86, 0xdd]),
        chain(&[60], 59, &[]),
        chain(&[], 135, &[59, 0, 5, 0, 0, 0, 0, 0]),
    ];
    // The fragment header of the chain, made a first and then a later fragment.
    for field in [[0, 1], [0, 17], [0, 16]] {
        let mut frame = chain(&[44], 17, &UDP);
        frame[56..58].copy_from_slice(&field);
        frames.push(frame);
    }
    frames
}

/// An IPv6 frame with one 8-byte extension header for each number in `extensions` (24 bytes for 51), then `payload`.
fn chain(extensions: &[u8], proto: u8, payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    for (index, kind) in extensions.iter().enumerate() {
        let next = extensions.get(index + 1).copied().unwrap_or(proto);
        match kind {
            // An authentication header of 6 words: SPI, sequence number, 12 bytes of integrity check value.
            51 => body.extend([next, 4].into_iter().chain([0; 22])),
            // A fragment header of a packet in one piece (RFC 6946), identification 7.
            44 => body.extend([next, 0, 0, 0, 0, 0, 0, 7]),
            // Padding option of 6 bytes.
            _ => body.extend([next, 0, 1, 4, 0, 0, 0, 0]),
        }
    }
    body.extend(payload);
    let header = Ipv6Header {
        traffic_class: 0,
        flow_label: Ipv6FlowLabel::ZERO,
        payload_length: 0,
        next_header: IpNumber(extensions.first().copied().unwrap_or(proto)),
        hop_limit: 64,
        source: CLIENT6,
        destination: SERVER6,
    };
    let next = header.next_header;
    // The builder would move a known extension header's number to the end: it gets an unknown one first.
    let mut frame = built!(ethernet().ip(IpHeaders::Ipv6(header, Ipv6Extensions::default())), IpNumber(253), &body);
    frame[20] = next.0;
    frame
}

fn link() -> Vec<Vec<u8>> {
    let arp = |operation| {
        ArpPacket::new(
            ArpHardwareId::ETHERNET,
            EtherType::IPV4,
            ArpOperation(operation),
            &CLIENT_MAC,
            &CLIENT,
            &[0; 6],
            &SERVER,
        )
        .expect("lengths agree")
    };
    let mut frames = vec![built!(ethernet().arp(arp(1))), built!(ethernet().arp(arp(2)))];
    for ethertype in [0x88cc, 0x88e5, 0x0026, 0x0842] {
        frames.push(raw(ethertype, &[0xaa; 46]));
    }
    for labels in [1, 2, 4, 5] {
        // Label 16 and up, time to live 64, and the bottom-of-stack bit on the last.
        let stack: Vec<u8> = (1..=labels).flat_map(|label| [0, 1, u8::from(label == labels), 64]).collect();
        frames.push(raw(0x8847, &[&stack[..], &frames[0][14..]].concat()));
    }
    // Three tags around an IPv4 header's first bytes.
    frames.push(raw(0x88a8, &[0, 1, 0x81, 0, 0, 2, 0x91, 0, 0, 3, 8, 0, 0x45, 0, 0, 20]));
    frames.push(raw(0x9100, &[0, 1, 0x88, 0xcc]));
    frames
}

fn raw(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&SERVER_MAC[..], &CLIENT_MAC, &ethertype.to_be_bytes(), payload].concat()
}

use etherparse::PacketBuilder;

use super::*;

/// Asks the frames themselves.
struct Asks<F>(F, u64);

impl<F: FnMut(&[Frame]) -> bool> Probe for Asks<F> {
    fn holds(&mut self, capture: &Path) -> Result<bool, MinimizeError> {
        self.1 += 1;
        Ok((self.0)(&read(capture)))
    }
}

fn read(path: &Path) -> Vec<Frame> {
    let options = crate::capture::Options::default();
    let survey = crate::capture::Survey::of(path, &options).unwrap();
    crate::capture::Frames::open(path, &options, &survey).unwrap().map(Result::unwrap).collect()
}

fn datagram(port: u16, payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        .udp(port, 53);
    let mut out = Vec::new();
    builder.write(&mut out, payload).unwrap();
    out
}

/// 100 conversations of 5 datagrams each.
fn frames() -> Vec<Frame> {
    let frame = |number: u64| {
        let data =
            datagram(1000 + u16::try_from(number % 100).unwrap(), format!("datagram number {number:05}").as_bytes());
        Frame { number, time_ns: number * 1000, wire_len: data.len() as u32, data, ..Frame::default() }
    };
    (1..=500).map(frame).collect()
}

fn capture(folder: &Path) -> PathBuf {
    let path = folder.join("whole.pcapng");
    let mut writer = Writer::create(&path).unwrap();
    for frame in frames() {
        writer.write(frame.time_ns, &frame.data, frame.wire_len).unwrap();
    }
    writer.finish().unwrap();
    path
}

fn limits(stop: &AtomicBool) -> Limits<'_> {
    Limits { deadline: None, stop, tries: 1 }
}

fn has(frames: &[Frame], text: &str) -> bool {
    frames.iter().any(|frame| frame.data.windows(text.len()).any(|bytes| bytes == text.as_bytes()))
}

#[test]
fn one_guilty_byte_is_all_that_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let (path, stop) = (capture(folder.path()), AtomicBool::new(false));
    let mut probe = Asks(|frames: &[Frame]| has(frames, "r 00321"), 0);
    let found = minimize(&path, frames(), folder.path(), &mut probe, limits(&stop), &mut |_| ()).unwrap();
    assert!(found.complete);
    let [only] = &found.frames[..] else { panic!("{:?}", found.frames) };
    assert_eq!(only.time_ns, 321_000);
    // 22 bytes in blocks of one: zeros, and the text that the condition asks for.
    let payload = &only.data[edit::payload(&only.data).unwrap()];
    assert_eq!(payload, b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0r 00321");
    let numbers: Vec<(Stage, usize, usize)> =
        found.stages.iter().map(|one| (one.stage, one.before, one.after)).collect();
    assert_eq!(numbers, [(Stage::Flows, 100, 1), (Stage::Packets, 5, 1), (Stage::Bytes, 21, 7)]);
    assert_eq!(etherparse::SlicedPacket::from_ethernet(&only.data).unwrap().payload_len(), 21);
}

trait PayloadLen {
    fn payload_len(&self) -> usize;
}

impl PayloadLen for etherparse::SlicedPacket<'_> {
    fn payload_len(&self) -> usize {
        let Some(etherparse::TransportSlice::Udp(udp)) = &self.transport else { panic!("{self:?}") };
        udp.payload().len()
    }
}

#[test]
fn two_packets_of_two_conversations_are_both_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (path, stop) = (capture(folder.path()), AtomicBool::new(false));
    let both = |frames: &[Frame]| has(frames, "00007") && has(frames, "00450");
    let found = minimize(&path, frames(), folder.path(), &mut Asks(both, 0), limits(&stop), &mut |_| ()).unwrap();
    assert_eq!(found.frames.iter().map(|frame| frame.time_ns).collect::<Vec<_>>(), [7_000, 450_000]);
}

#[test]
fn a_condition_that_does_not_hold_or_not_each_time_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let (path, stop) = (capture(folder.path()), AtomicBool::new(false));
    let run = |probe: &mut dyn Probe, tries| {
        let limits = Limits { tries, ..limits(&stop) };
        minimize(&path, frames(), folder.path(), probe, limits, &mut |_| ()).unwrap_err()
    };
    assert!(matches!(run(&mut Asks(|_: &[Frame]| false, 0), 1), MinimizeError::HoldsNot { .. }));
    let mut turn = 0;
    let unsteady = run(
        &mut Asks(
            |_: &[Frame]| {
                turn += 1;
                turn % 2 == 0
            },
            0,
        ),
        2,
    );
    assert!(matches!(unsteady, MinimizeError::Unsteady { tries: 2, held: 1, .. }), "{unsteady}");
}

#[test]
fn a_search_that_is_stopped_gives_what_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let (path, stop) = (capture(folder.path()), AtomicBool::new(false));
    let mut asked = 0;
    let probe = |frames: &[Frame]| {
        asked += 1;
        if asked == 6 {
            stop.store(true, Ordering::Relaxed);
        }
        has(frames, "00321")
    };
    let found = minimize(&path, frames(), folder.path(), &mut Asks(probe, 0), limits(&stop), &mut |_| ()).unwrap();
    assert!(!found.complete);
    assert!(found.frames.len() < 500 && has(&found.frames, "00321"), "{}", found.frames.len());
}

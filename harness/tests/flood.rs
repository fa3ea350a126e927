//! The highest rate: both engines, both sides, frames of every length, captures larger than memory, and what is said
//! when frames do not arrive. Run as root.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bpflab::capture::{Frame, Side};
use bpflab::topology::{Network, Topology, presets};
use bpflab::wire::{self, Attachments, Engine, EngineChoice, FloodOptions, FloodOutcome, Given, Repeat, WireError};

/// A frame of an ethertype that nobody has, `len` bytes long, that says its number.
fn plain(number: u64, len: usize, side: Side) -> Frame {
    let mut data = vec![0; len];
    data[..12].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
    data[12..14].copy_from_slice(&[0x88, 0xb5]);
    for (byte, value) in data.iter_mut().skip(14).zip(number.to_be_bytes().iter().cycle()) {
        *byte = *value;
    }
    Frame { number, time_ns: number, wire_len: u32::try_from(len).unwrap(), data, side }
}

fn try_flood(topology: &Topology, frames: &[Frame], options: &FloodOptions) -> Result<FloodOutcome, WireError> {
    let network = Network::build(topology).unwrap();
    let attachments = Attachments::new(&network).unwrap();
    let stop = AtomicBool::new(false);
    let outcome = wire::flood(&network, &attachments, &mut Given::new(frames), options, &stop, &mut |_| {});
    drop(attachments);
    network.close().unwrap();
    outcome
}

/// Whether this kernel has live frames: by what the lab chooses.
fn has_live_frames() -> bool {
    bpflab::kernel::probe::unmet(&["xdp-live-frames".parse().unwrap()]).is_empty()
}

const LIVE: FloodOptions = FloodOptions {
    engine: EngineChoice::Auto,
    repeat: Repeat::Times(1),
    deadline: Duration::from_secs(5),
    most_bytes: 256 << 20,
};

#[test]
fn every_frame_of_both_sides_arrives_at_the_other_end() {
    let frames: Vec<Frame> = (0..10_000)
        .map(|number| {
            plain(number, 60 + (number as usize * 7) % 1455, if number % 3 == 0 { Side::Server } else { Side::Client })
        })
        .collect();
    for repeat in [1, 7] {
        let options = FloodOptions { repeat: Repeat::Times(repeat), ..LIVE };
        let outcome = try_flood(&presets::bridge(), &frames, &options).unwrap();
        println!("{outcome:?}");
        let [client, server] = outcome.sides;
        // Every third frame from 0 on is the server's: 3334 of 10 000.
        assert_eq!((client.sent, server.sent), (6_666 * repeat, 3_334 * repeat));
        assert_eq!((client.taken_in, server.taken_in), (client.sent, server.sent));
        assert_eq!((client.arrived, server.arrived), (server.sent, client.sent));
        assert_eq!((client.arrived_bytes, server.arrived_bytes), (server.sent_bytes, client.sent_bytes));
        assert_eq!(outcome.engine.engine == Engine::LiveFrames, has_live_frames(), "{}", outcome.engine);
    }
}

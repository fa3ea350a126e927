//! What puts frames on the links, and why that.
//!
//! - `live-frames`: the kernel itself sends (`BPF_PROG_TEST_RUN` with live frames, Linux 5.18). A list of frames in a
//!   map goes out by one system call: several times as fast as any socket, and, where each frame has its time, without
//!   anything between the clock and the link. It holds frames of up to a page only, and the other end of a link takes its
//!   frames only if that runs NAPI (native XDP there, or GRO).
//! - `sendmmsg`: packet sockets past the queueing discipline. They know no limit but the interface's, and exist on every
//!   kernel.

use std::os::fd::AsFd as _;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use super::{Speed, WireError};
use crate::sys::{self, ProgramKind};

/// What the user wants to send frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum EngineChoice {
    /// The fastest that fits.
    #[default]
    Auto,
    /// The kernel's live frames, or an error that says what keeps them from being used.
    LiveFrames,
    /// Packet sockets.
    Sendmmsg,
}

/// What sends frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// The kernel's live frames.
    LiveFrames,
    /// Packet sockets.
    Sendmmsg,
}

impl std::fmt::Display for Engine {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::LiveFrames => "live frames",
            Self::Sendmmsg => "sendmmsg + qdisc bypass",
        })
    }
}

/// What sends frames, and why that: as reports show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chosen {
    /// What sends.
    pub engine: Engine,
    /// Why, half a sentence.
    pub why: String,
}

impl std::fmt::Display for Chosen {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} ({})", self.engine, self.why)
    }
}

/// What an engine must be able to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Needs<'a> {
    pub(super) speed: Speed,
    /// Bytes of the longest frame, as far as that is known.
    pub(super) longest: Option<usize>,
    /// An interface of the device under test that runs no NAPI, because XDP there is not native.
    pub(super) without_napi: Option<&'a str>,
}

/// Chooses; `largest` is what [`largest_live_frame`] says.
pub(super) fn choose(
    choice: EngineChoice,
    needs: Needs<'_>,
    largest: impl FnOnce() -> Result<usize, String>,
) -> Result<Chosen, WireError> {
    let sendmmsg = |why: String| Ok(Chosen { engine: Engine::Sendmmsg, why });
    if choice == EngineChoice::Sendmmsg {
        return sendmmsg("asked for".to_owned());
    }
    match (obstacle(needs, largest), choice) {
        (None, EngineChoice::Auto) => {
            let why = match needs.speed {
                Speed::Top => "top speed, this kernel has them, and all frames fit",
                _ => "each frame waits in the kernel until it is due",
            };
            Ok(Chosen { engine: Engine::LiveFrames, why: why.to_owned() })
        }
        (None, _) => Ok(Chosen { engine: Engine::LiveFrames, why: "asked for".to_owned() }),
        (Some(why), EngineChoice::Auto) => sendmmsg(why),
        (Some(why), _) => Err(WireError::Engine { engine: Engine::LiveFrames, why }),
    }
}

/// What keeps live frames from being used.
fn obstacle(needs: Needs<'_>, largest: impl FnOnce() -> Result<usize, String>) -> Option<String> {
    if let Some(interface) = needs.without_napi {
        return Some(format!(
            "XDP at interface {interface} of the device under test is not native, and live frames vanish there"
        ));
    }
    match (largest(), needs.longest) {
        (Err(why), _) => Some(why),
        (Ok(largest), Some(longest)) if longest > largest => {
            Some(format!("a frame of {longest} bytes is over the {largest} of a live frame"))
        }
        (Ok(_), _) => None,
    }
}

/// Bytes of the longest live frame that the running kernel takes, found by trying; or why it takes none. A frame shares
/// its page with its headroom, with what the kernel keeps before it (`struct xdp_page_head`, which differs between
/// kernels) and behind it.
pub(super) fn largest_live_frame() -> Result<usize, String> {
    static LARGEST: OnceLock<Result<usize, String>> = OnceLock::new();
    LARGEST.get_or_init(try_lengths).clone()
}

fn try_lengths() -> Result<usize, String> {
    const XDP_PROGRAM: ProgramKind = ProgramKind { program: 6, attach: 37, btf_id: 0 };
    const XDP_DROP: i32 = 1;
    let program = sys::load_trivial_program(XDP_PROGRAM, XDP_DROP)
        .map_err(|error| format!("this kernel does not load an XDP program: {error}"))?;
    let frame = [0; bpflab_programs::replayer::LARGEST];
    match sys::test_run_live(program.as_fd(), &frame[..64]) {
        // Before 5.18 the flag is ignored, and the program's verdict comes back.
        Ok(0) => {}
        Ok(_) => return Err("this kernel has no live frames, which came with Linux 5.18".to_owned()),
        Err(error) => return Err(format!("this kernel runs no live frames: {error}")),
    }
    // Every length up to some limit is taken.
    let (mut taken, mut refused) = (64, frame.len() + 1);
    while refused - taken > 1 {
        let middle = usize::midpoint(taken, refused);
        match sys::test_run_live(program.as_fd(), &frame[..middle]) {
            Ok(_) => taken = middle,
            Err(_) => refused = middle,
        }
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDS: Needs<'_> = Needs { speed: Speed::Top, longest: Some(1514), without_napi: None };

    fn chosen(choice: EngineChoice, needs: Needs<'_>, largest: Result<usize, &str>) -> String {
        let largest = || largest.map_err(str::to_owned);
        choose(choice, needs, largest).map_or_else(|error| error.to_string(), |chosen| chosen.to_string())
    }

    #[test]
    fn the_fastest_that_fits() {
        let auto = |needs, largest| chosen(EngineChoice::Auto, needs, largest);
        assert_eq!(auto(NEEDS, Ok(3408)), "live frames (top speed, this kernel has them, and all frames fit)");
        assert_eq!(auto(NEEDS, Err("no such kernel")), "sendmmsg + qdisc bypass (no such kernel)");
        assert_eq!(
            auto(Needs { speed: Speed::Scaled(1.0), ..NEEDS }, Ok(3408)),
            "live frames (each frame waits in the kernel until it is due)"
        );
        assert_eq!(
            auto(Needs { longest: Some(3409), ..NEEDS }, Ok(3408)),
            "sendmmsg + qdisc bypass (a frame of 3409 bytes is over the 3408 of a live frame)"
        );
        assert_eq!(
            auto(Needs { without_napi: Some("eth0"), ..NEEDS }, Ok(3408)),
            "sendmmsg + qdisc bypass (XDP at interface eth0 of the device under test is not native, and live frames \
             vanish there)"
        );
    }

    #[test]
    fn what_is_asked_for_is_used_or_refused() {
        assert_eq!(chosen(EngineChoice::Sendmmsg, NEEDS, Ok(3408)), "sendmmsg + qdisc bypass (asked for)");
        assert_eq!(chosen(EngineChoice::LiveFrames, NEEDS, Ok(3408)), "live frames (asked for)");
        assert_eq!(
            chosen(EngineChoice::LiveFrames, Needs { longest: Some(9000), ..NEEDS }, Ok(3408)),
            "cannot send by live frames: a frame of 9000 bytes is over the 3408 of a live frame"
        );
    }

    #[test]
    fn a_live_frame_holds_less_than_a_page() {
        // 256 bytes of headroom and 320 of `struct skb_shared_info` leave 3520; `struct xdp_page_head` has over 100.
        if let Ok(largest) = largest_live_frame() {
            assert!((3300..3520).contains(&largest), "{largest}");
        }
    }
}

//! DHCP for IPv4 (RFC 2131): addresses are replaced, parameters that identify nobody stay, everything else is not kept.

use super::Tools;
use super::frame::Frame;

/// Length of the fixed part, and the cookie that options begin with (RFC 2131 section 3).
const FIXED: usize = 236;
const COOKIE: [u8; 4] = [0x63, 0x82, 0x53, 0x63];

/// Rewrites the message at `start`, up to `end`.
pub(super) fn rewrite(frame: &mut Frame<'_>, start: usize, end: usize, tools: &mut Tools) {
    tools.counts.add("dhcp_messages", 1);
    // Operation to flags.
    frame.keep(start..(start + 12).min(end));
    for at in [12, 16, 20, 24] {
        super::put_v4(frame, start + at, end, tools);
    }
    let ethernet = frame.u8(start + 1) == Some(1) && frame.u8(start + 2) == Some(6);
    if ethernet {
        super::put_mac(frame, start + 28, end, tools);
    }
    // The server's name and the boot file stay zeros.
    if frame.array(start + FIXED) != Some(COOKIE) {
        return;
    }
    frame.keep(start + FIXED..(start + FIXED + 4).min(end));
    let mut at = start + FIXED + 4;
    while let Some(code) = frame.u8(at).filter(|_| at < end) {
        match code {
            0 => at += 1,
            255 => return frame.keep(at..at + 1),
            _ => {
                let Some(len) = frame.u8(at + 1).map(usize::from) else { return };
                if at + 2 + len > end {
                    return;
                }
                frame.keep(at..at + 2);
                option(frame, code, at + 2, at + 2 + len, tools);
                at += 2 + len;
            }
        }
    }
}

/// Codes of the IANA registry of BOOTP and DHCP parameters.
fn option(frame: &mut Frame<'_>, code: u8, start: usize, end: usize, tools: &mut Tools) {
    match code {
        // Mask, time offset, forwarding, sizes, TTL, MTU; lease, overload, type, requested parameters, maximum size, times.
        1 | 2 | 13 | 19 | 22 | 23 | 26 | 51 | 52 | 53 | 55 | 57 | 58 | 59 | 108 | 116 => frame.keep(start..end),
        // Lists of addresses: routers, servers of all kinds, broadcast, requested address, server identifier.
        3..=11 | 16 | 21 | 28 | 32 | 33 | 41 | 42 | 44 | 45 | 48..=50 | 54 | 65 | 68..=76 | 118 | 150 => {
            for at in (start..end).step_by(4).filter(|at| at + 4 <= end) {
                super::put_v4(frame, at, end, tools);
            }
        }
        // Client identifier: hardware type and address (RFC 2132 section 9.14); others are made of anything.
        61 if frame.u8(start) == Some(1) && end - start == 7 => {
            frame.keep(start..start + 1);
            super::put_mac(frame, start + 1, end, tools);
        }
        // Host and domain.
        12 | 15 => {
            let range = frame.clip(start..end);
            let from = &frame.from[range.clone()];
            tools.words.host(from, &mut frame.to[range], &mut tools.ids);
            tools.counts.add("dhcp_names", 1);
        }
        _ => tools.counts.add("dhcp_options_zeroed", 1),
    }
}

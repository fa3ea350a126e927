//! Packets from the driver on, and the account of each step.

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use bpflab_programs::atomic::add_u64;
use bpflab_programs::latency::{
    BUCKETS, Event, Histogram, Journey, LOST_EVENTS, LOST_STEPS, STAGE_DRIVER, STAGE_READ, STAGE_RECEIVE, STAGE_TOTAL,
    StepKey,
};
use bpflab_programs::packet::FlowKey;

use crate::dissect::dissect;
use crate::fields::netns_of_packet;
use crate::{EVENTS, FLOWS, NETNS, PACKETS, STAGE_MASK, TOTALS, hit, lost};

/// What a new histogram starts from; too large for the stack.
// SAFETY: plain integers, for which all zeros is a value.
static EMPTY: Histogram = unsafe { core::mem::zeroed() };

#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: the helper has no precondition.
    unsafe { bpf_ktime_get_ns() }
}

/// A packet enters the stack, or is seen for the first time where no driver's hand-over was seen.
///
/// A packet that a bridge or tunnel hands to the stack a second time, as coming from another interface, is another one.
#[inline(always)]
pub fn enter(skb: *const u8, stage: u8, point: u32) {
    let id = skb as u64;
    let netns = netns_of_packet(skb);
    if NETNS.get_ptr(netns).is_none() {
        // The buffer may have been that of a packet whose end nobody told us.
        let _ = PACKETS.remove(id);
        return;
    }
    let now = now();
    hit(point);
    if stage == STAGE_RECEIVE
        && let Some(journey) = PACKETS.get_ptr_mut(id)
    {
        advance(journey, stage, now);
        return;
    }
    let mut journey = Journey { first_ns: now, last_ns: now, netns, ..Journey::default() };
    dissect(skb, &mut journey);
    if PACKETS.insert(id, &journey, u64::from(BPF_ANY)).is_ok()
        && let Some(journey) = PACKETS.get_ptr_mut(id)
    {
        advance(journey, stage, now);
    }
}

/// A packet under way passes a function.
#[inline(always)]
pub fn pass(skb: *const u8, stage: u8, point: u32) {
    if let Some(journey) = PACKETS.get_ptr_mut(skb as u64) {
        hit(point);
        advance(journey, stage, now());
    }
}

/// Accounts for a step of a packet; the second time that it reaches a stage, and a stage that is not to be timed, do not
/// count.
#[inline(never)]
pub fn advance(journey: *mut Journey, stage: u8, now: u64) -> u64 {
    let bit = 1_u32 << (stage & 7);
    // SAFETY: a map's value, valid until the program ends; a packet is at one place at a time.
    let journey = unsafe { &mut *journey };
    if STAGE_MASK.load() & bit == 0 || u32::from(journey.reached) & bit != 0 {
        return 0;
    }
    if journey.reached == 0 {
        journey.first_ns = now;
        journey.last_ns = now;
        journey.stage = stage;
    }
    let (from, since) = (journey.stage, journey.last_ns);
    let begun_at_the_driver = u32::from(journey.reached) & (1 << STAGE_DRIVER) != 0;
    let begun = begun_at_the_driver || u32::from(journey.reached) & (1 << STAGE_RECEIVE) != 0;
    journey.reached |= bit as u8;
    journey.stage = stage;
    journey.last_ns = now;
    record(journey, from, stage, now.saturating_sub(since));
    if stage == STAGE_READ && begun {
        let first = if begun_at_the_driver { STAGE_DRIVER } else { STAGE_RECEIVE };
        record(journey, first, STAGE_TOTAL, now.saturating_sub(journey.first_ns));
    }
    0
}

/// Counts one step in both histograms and reports its time.
#[inline(never)]
fn record(journey: *const Journey, from: u8, stage: u8, ns: u64) -> u64 {
    // SAFETY: as in `advance`.
    let journey = unsafe { &*journey };
    let bucket = bucket(ns);
    let (netns, kind, direction) = (journey.netns, journey.kind, journey.direction);
    let mut event = Event { step: StepKey { flow: FlowKey::default(), netns, kind, from, stage, direction: 0 }, ns };
    let mut histogram = TOTALS.get_ptr_mut(&event.step);
    if histogram.is_none() {
        let _ = TOTALS.insert(&event.step, &EMPTY, u64::from(BPF_NOEXIST));
        histogram = TOTALS.get_ptr_mut(&event.step);
    }
    count(histogram, ns, bucket);
    event.step.flow = journey.flow;
    event.step.direction = direction;
    let mut histogram = FLOWS.get_ptr_mut(&event.step);
    if histogram.is_none() {
        // Another CPU may be quicker: then its entry is found.
        let _ = FLOWS.insert(&event.step, &EMPTY, u64::from(BPF_NOEXIST));
        histogram = FLOWS.get_ptr_mut(&event.step);
    }
    count(histogram, ns, bucket);
    if from != stage && EVENTS.output_untyped::<Event>(&event, 0).is_err() {
        lost(LOST_EVENTS);
    }
    0
}

#[inline(always)]
fn count(histogram: Option<*mut Histogram>, ns: u64, bucket: usize) {
    let Some(histogram) = histogram else {
        lost(LOST_STEPS);
        return;
    };
    // SAFETY: a map's value, 8-byte aligned, valid until the program ends. Counters are only added to, atomically; of two
    // maxima at the same time one may win, so that the greatest exact time is the better one where both are known.
    unsafe {
        add_u64(&raw mut (*histogram).count, 1);
        add_u64(&raw mut (*histogram).sum_ns, ns);
        if ns > (*histogram).max_ns {
            (*histogram).max_ns = ns;
        }
        add_u64((&raw mut (*histogram).buckets).cast::<u64>().add(bucket), 1);
    }
}

/// Number of bits of `ns`, at most `BUCKETS - 1`.
///
/// Without a branch: the verifier follows each path through this, times those through the loops that it is called from.
#[inline(always)]
fn bucket(ns: u64) -> usize {
    /// Moves by `by` bits if there is anything above them; `rest` has at most `2 * by` bits.
    #[inline(always)]
    fn halve(rest: &mut u64, bits: &mut u64, by: u64) {
        let above = *rest >> by;
        // 1 if `above` is not 0: it carries.
        let shift = ((above + ((1 << by) - 1)) >> by) * by;
        *rest >>= shift & 63;
        *bits += shift;
    }
    let (mut rest, mut bits) = (ns, 0);
    for by in [32, 16, 8, 4, 2, 1] {
        halve(&mut rest, &mut bits, by);
    }
    bits += rest;
    let bits = (bits & 63) as usize;
    if bits < BUCKETS { bits } else { BUCKETS - 1 }
}

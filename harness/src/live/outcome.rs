//! What became of each conversation, in words.

use std::collections::BTreeMap;

use super::Dut;
use super::end::End;
use super::play::State;
use super::script::{Flow, Script};
use crate::observation::PerDirection;
use crate::observation::live::{Fate, Live, LiveFlow};

/// What became of all of them.
pub(super) fn tell_all(script: &Script, states: &[State], dut: Dut, counters: BTreeMap<String, u64>) -> Live {
    let mut live = Live { dut: dut.text().to_owned(), counters, ..Live::default() };
    for (flow, state) in script.flows.iter().zip(states) {
        let told = tell(flow, state, dut);
        *live.fates.entry(told.fate).or_default() += 1;
        let as_recorded = told.recorded_end == told.live_end && told.recorded_bytes == told.socket_bytes;
        live.as_recorded += u64::from(told.fate != Fate::Refused && as_recorded);
        live.flows.push(told);
    }
    live
}

/// What became of a conversation.
fn tell(flow: &Flow, state: &State, dut: Dut) -> LiveFlow {
    let live_side = usize::from(dut == Dut::Server);
    let mut bytes = [0; 2];
    (bytes[live_side], bytes[1 - live_side]) = (state.responder.written_bytes, state.responder.read_bytes);
    let direction = |[a_to_b, b_to_a]: [u64; 2]| PerDirection { a_to_b, b_to_a };
    let text = |end: End, is_refused: bool| match (flow.tcp, is_refused) {
        (true, _) => end.text(),
        (false, true) => "refused".to_owned(),
        (false, false) => "datagrams".to_owned(),
    };
    // What the played server says is sent as it is.
    let is_refused = state.peer.refused > 0 || (dut == Dut::Client && flow.is_refused && left(flow, state) == 0);
    let mut told = LiveFlow {
        proto: if flow.tcp { "tcp" } else { "udp" }.to_owned(),
        client: flow.client.to_string(),
        server: flow.server.to_string(),
        fate: Fate::Replayed,
        reasons: Vec::new(),
        recorded_end: text(flow.end, flow.is_refused),
        live_end: text(state.peer.end, is_refused),
        recorded_bytes: direction(flow.bytes),
        socket_bytes: direction(bytes),
        sent: state.peer.packets,
        received: state.peer.received,
        forwarded_to: state.forwarded_to.clone(),
    };
    if let Some(why) = &flow.refused {
        (told.fate, told.reasons) = (Fate::Refused, vec![why.clone()]);
        told.live_end = "not played".to_owned();
        return told;
    }
    if state.forwarded_to.is_some() {
        tell_forwarded(flow, state, &mut told);
        return told;
    }
    let failures = failures(flow, state, &told, dut);
    if !failures.is_empty() {
        (told.fate, told.reasons) = (Fate::Failed, failures);
    }
    if flow.is_ignored(dut) && state.peer.received + state.peer.refused > 0 {
        told.reasons.push("the kernel answers, the recorded server did not".to_owned());
    }
    told.reasons.extend(flow.notes.iter().cloned());
    told.reasons.extend(state.peer.adapted.iter().cloned());
    if state.tails > 0 {
        told.reasons.push(format!("{} acknowledgements that the capture does not have", state.tails));
    }
    if told.fate == Fate::Replayed && !told.reasons.is_empty() {
        told.fate = Fate::Adapted;
    }
    told
}

/// What a real application made of it: whatever it answered is no failure.
fn tell_forwarded(flow: &Flow, state: &State, told: &mut LiveFlow) {
    let responder = &state.responder;
    if let Some(error) = &responder.error {
        (told.fate, told.reasons) = (Fate::Failed, vec![error.clone()]);
        return;
    }
    if told.live_end != told.recorded_end {
        told.reasons.push(format!("it is {} instead of {}", told.live_end, told.recorded_end));
    }
    let (asked, recorded) = (told.socket_bytes.a_to_b, told.recorded_bytes.a_to_b);
    if asked != recorded {
        told.reasons.push(format!("{asked} of {recorded} bytes of the client reached the application"));
    }
    let (answered, recorded) = (told.socket_bytes.b_to_a, told.recorded_bytes.b_to_a);
    if answered != recorded {
        told.reasons.push(format!("the application answered {answered} instead of {recorded} bytes"));
    }
    if let Some(from) = responder.answers_differ.filter(|from| *from < recorded) {
        told.reasons.push(format!("its answer differs from byte {} on", from + 1));
    }
    if responder.differs {
        told.reasons.push("other bytes than recorded came out of the socket".to_owned());
    }
    let left = left(flow, state);
    if left > 0 {
        told.reasons.push(format!("{left} of {} packets of the played end were not sent", flow.steps.len()));
    }
    if let Some(follow) = state.peer.follow.as_ref().filter(|follow| follow.skipped > 0) {
        told.reasons.push(format!("{} recorded acknowledgements were left out", follow.skipped));
    }
    if !told.reasons.is_empty() {
        told.reasons.extend(state.failure.clone());
    }
    told.reasons.extend(flow.notes.iter().cloned());
    told.reasons.extend(state.peer.adapted.iter().cloned());
    told.fate = if told.reasons.is_empty() { Fate::Replayed } else { Fate::Adapted };
    if responder.differs {
        told.fate = Fate::Failed;
    }
}

/// Packets of the played end that were not sent.
fn left(flow: &Flow, state: &State) -> usize {
    if flow.tcp {
        state.peer.left(flow)
    } else {
        flow.steps.len().saturating_sub(usize::try_from(state.peer.packets).unwrap_or(usize::MAX))
    }
}

/// Why it did not come to its recorded end.
fn failures(flow: &Flow, state: &State, told: &LiveFlow, dut: Dut) -> Vec<String> {
    let mut failures = Vec::new();
    let is_expected = flow.is_ignored(dut);
    if told.live_end != told.recorded_end && !is_expected {
        failures.push(format!("it is {} instead of {}", told.live_end, told.recorded_end));
    }
    for (name, recorded, got) in [
        ("client", told.recorded_bytes.a_to_b, told.socket_bytes.a_to_b),
        ("server", told.recorded_bytes.b_to_a, told.socket_bytes.b_to_a),
    ] {
        if recorded != got && !is_expected {
            failures.push(format!("{got} of {recorded} bytes of the {name}"));
        }
    }
    if state.responder.differs {
        failures.push("other bytes than recorded came out of the socket".to_owned());
    }
    failures.extend(state.responder.error.clone());
    let left = left(flow, state);
    if left > 0 {
        failures.push(format!("{left} of {} packets of the played end were not sent", flow.steps.len()));
    }
    if !failures.is_empty() {
        failures.extend(state.failure.clone());
    }
    failures
}

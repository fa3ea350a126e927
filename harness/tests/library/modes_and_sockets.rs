// The same packets in both modes, and a program in the way of real sockets.

use std::time::Duration;

use bpflab::lab::{self, EbpfObject as _, Hook, Lab, LabError, Subject, eventually, presets};
use bpflab::require;
use etherparse::PacketBuilder;
use rstest::rstest;

/// `door.bpf.c` drops UDP to blocked ports; this one blocks port 53.
fn door() -> Result<Subject, LabError> {
    let door = Subject::open(lab::compile(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/library/door.bpf.c"))?)?;
    door.typed_map("blocked")?.set(53, 0)?;
    Ok(door)
}

/// A lab by the name of its mode.
fn lab(mode: &str) -> Result<Lab, LabError> {
    if mode == "wire" { Lab::wire(&presets::router()) } else { Lab::lockstep() }
}

/// A datagram from the client to the server of the topology `router`.
fn datagram(port: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    builder.ipv4([10, 71, 1, 1], [10, 71, 2, 2], 64).udp(4000, port).write(&mut frame, b"ping").unwrap();
    frame
}

#[rstest]
#[case::open(80, 1)]
#[case::blocked(53, 0)]
fn only_open_ports_are_reached(
    #[values("lockstep", "wire")] mode: &str,
    #[case] port: u16,
    #[case] delivered: u64,
) -> Result<(), LabError> {
    require!(&format!("mode:{mode}"));
    let (mut door, mut lab) = (door()?, lab(mode)?);
    lab.attach(&mut door, "door", Hook::xdp())?;
    let outcome = lab.send([datagram(port)])?;
    assert_eq!(outcome.ledger().delivered, delivered);
    assert_eq!(outcome.received.len() as u64, delivered);
    assert_eq!(outcome.ended_by("door").get("XDP_DROP").copied().unwrap_or_default(), 1 - delivered);
    Ok(())
}

#[test]
fn a_real_socket_is_deaf_until_its_port_is_opened() -> Result<(), LabError> {
    require!("mode:wire");
    let (mut door, mut lab) = (door()?, Lab::wire(&presets::router())?);
    lab.attach(&mut door, "door", Hook::xdp().at("dut.eth0"))?;
    let (client, server) = (lab.udp("client", 0)?, lab.udp("server", 53)?);
    server.set_nonblocking(true).unwrap();
    client.connect(server.local_addr().unwrap()).unwrap();

    // Not a datagram arrives, but the program counts those that it turns away.
    let blocked = door.typed_map("blocked")?;
    client.send(b"ping").unwrap();
    eventually(Duration::from_secs(5), || match blocked.get::<u64>(53) {
        Ok(Some(1)) => Ok(()),
        other => Err(other),
    })?;
    assert!(server.recv(&mut [0; 4]).is_err(), "a datagram has come through the closed door");

    // Open the port while everything runs.
    assert!(blocked.delete(53)?);
    client.send(b"pong").unwrap();
    let mut buffer = [0; 4];
    eventually(Duration::from_secs(5), || server.recv(&mut buffer))?;
    assert_eq!(&buffer, b"pong");

    // TCP was never shut out.
    let (mut near, mut far) = lab.tcp("client", "server", 80)?;
    std::io::Write::write_all(&mut near, b"over TCP").unwrap();
    let mut buffer = [0; 8];
    std::io::Read::read_exact(&mut far, &mut buffer).unwrap();
    assert_eq!(&buffer, b"over TCP");
    Ok(())
}

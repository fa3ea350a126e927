//! The kernel's own transitions: a real connection between two threads in a network namespace of the test's own.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use aya::programs::Program;
use futures_util::TryStreamExt as _;
use netns_rs::NetNs;
use rtnetlink::LinkUnspec;

use crate::object::Clock;
use crate::observation::{Observation, Transition};
use crate::suite::tcp_state::{TcpState, TcpStateSettings};
use crate::suite::{Analyzer as _, WatchedHost};

/// A network namespace that is gone when the test ends, however it ends.
struct Namespace(Option<NetNs>);

impl Namespace {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("bpflab-tcp-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Self(Some(NetNs::new(name).expect("root may make a namespace")))
    }

    fn get(&self) -> &NetNs {
        self.0.as_ref().expect("there until dropped")
    }

    fn inode(&self) -> u32 {
        let metadata = std::fs::metadata(self.get().path()).expect("the namespace is mounted");
        u32::try_from(metadata.ino()).expect("inode numbers of namespaces have 32 bits")
    }

    /// Runs `work` on a thread inside the namespace, with the loopback interface up.
    fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.get().enter().expect("root may enter it");
                loopback_up();
                work()
            });
            inside.join().expect("the work does not panic")
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Some(netns) = self.0.take() {
            let _ = netns.remove();
        }
    }
}

fn loopback_up() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().expect("a netlink socket");
        tokio::spawn(connection);
        let mut links = handle.link().get().match_name("lo".to_owned()).execute();
        let lo = links.try_next().await.expect("an answer").expect("every namespace has lo");
        handle
            .link()
            .set(LinkUnspec::new_with_index(lo.header.index).up().build())
            .execute()
            .await
            .expect("lo goes up");
    });
}

/// One connection to `address`: the client sends two bytes and closes first. Returns the listener's and the client's
/// address.
fn converse(address: SocketAddr) -> (SocketAddr, SocketAddr) {
    let listener = TcpListener::bind(address).expect("a free port");
    let at = listener.local_addr().expect("it is bound");
    std::thread::scope(|scope| {
        let client = scope.spawn(move || {
            let mut stream = TcpStream::connect(at).expect("somebody listens");
            stream.write_all(b"hi").expect("it is open");
            stream.local_addr().expect("it is bound")
        });
        let (mut stream, _) = listener.accept().expect("a client comes");
        let mut text = Vec::new();
        // Ends when the client has closed: its FIN comes before the server's.
        stream.read_to_end(&mut text).expect("the client closes");
        assert_eq!(text, b"hi");
        (at, client.join().expect("the client does not panic"))
    })
}

/// The transitions of a conversation at `address`, in the order of events, as soon as `count` have come.
fn transitions(address: SocketAddr, count: usize) -> (Vec<Transition>, SocketAddr, SocketAddr) {
    let (ours, other) = (Namespace::new(), Namespace::new());
    let mut state = TcpState::load(Clock::Kernel, &TcpStateSettings::default()).expect("the object loads");
    let host = WatchedHost { name: "host".to_owned(), netns: ours.inode(), silent: 0, interfaces: Vec::new() };
    state.watch(&[host]).expect("there is room");
    let btf = aya::Btf::from_sys_fs().expect("the kernel has BTF");
    state
        .object_mut()
        .load_program("sock_state", Some(("inet_sock_set_state", &btf)))
        .expect("the verifier accepts it");
    let Some(Program::BtfTracePoint(program)) = state.object_mut().ebpf.program_mut("sock_state") else {
        panic!("a BTF tracepoint");
    };
    program.attach().expect("the tracepoint exists");

    // Nobody watches the other one, so nothing of this is reported.
    other.run(|| converse(address));
    let (server, client) = ours.run(|| converse(address));
    let deadline = Instant::now() + Duration::from_secs(10);
    while state.transitions.len() < count && Instant::now() < deadline {
        state.drain().expect("the ring can be read");
        std::thread::yield_now();
    }
    let mut observation = Observation::default();
    state.finish(0, &mut observation).expect("the maps can be read");
    assert!(observation.losses.is_empty(), "{:?}", observation.losses);
    (observation.tcp.expect("there is a report").kernel_transitions, server, client)
}

/// Checks the states of all three sockets of a conversation.
fn check(address: SocketAddr) {
    let (all, server, client) = transitions(address, 12);
    let (server, client) = (server.to_string(), client.to_string());
    let steps = |chosen: &dyn Fn(&Transition) -> bool| -> Vec<String> {
        let chosen = all.iter().filter(|transition| chosen(transition));
        chosen.map(|transition| format!("{} {}", transition.from, transition.to)).collect()
    };
    assert!(all.iter().all(|transition| transition.host == "host"), "{all:#?}");
    assert_eq!(all.len(), 12, "only the watched namespace, and all of it: {all:#?}");
    // The client's port is chosen after its first step.
    let of_client = |transition: &Transition| transition.remote == server;
    let expected =
        ["CLOSE SYN_SENT", "SYN_SENT ESTABLISHED", "ESTABLISHED FIN_WAIT1", "FIN_WAIT1 FIN_WAIT2", "FIN_WAIT2 CLOSE"];
    assert_eq!(steps(&of_client), expected, "{all:#?}");
    assert!(all.iter().filter(|transition| of_client(transition)).skip(1).all(|transition| transition.local == client));
    // The server's socket is made as a copy of the listener.
    let of_server = |transition: &Transition| {
        transition.local == server && (transition.remote == client || transition.to == "SYN_RECV")
    };
    let expected =
        ["LISTEN SYN_RECV", "SYN_RECV ESTABLISHED", "ESTABLISHED CLOSE_WAIT", "CLOSE_WAIT LAST_ACK", "LAST_ACK CLOSE"];
    assert_eq!(steps(&of_server), expected, "{all:#?}");
    let of_listener = |transition: &Transition| transition.local == server && !of_server(transition);
    assert_eq!(steps(&of_listener), ["CLOSE LISTEN", "LISTEN CLOSE"], "{all:#?}");
}

#[test]
fn kernel_sockets_go_through_their_states() {
    check((Ipv4Addr::LOCALHOST, 0).into());
}

#[test]
fn kernel_sockets_of_ipv6_are_reported_as_well() {
    check((Ipv6Addr::LOCALHOST, 0).into());
}

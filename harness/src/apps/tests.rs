//! Applications that behave, and those that do not. Shells stand for them: what they are is not the point.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::*;
use crate::topology::presets;

fn app(name: &str, host: &str, script: &str) -> AppSpec {
    AppSpec {
        name: name.to_owned(),
        host: host.to_owned(),
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        timeout_s: 20,
        ..AppSpec::default()
    }
}

/// A server that is ready once it has said so.
fn server(name: &str, script: &str) -> AppSpec {
    let ready = Ready { output: Some("ready now".to_owned()), ..Ready::default() };
    AppSpec { role: AppRole::Server, ready, ..app(name, "server", script) }
}

struct Played {
    outcome: Result<AppsOutcome, AppsError>,
    /// Processes that were left in the hosts' namespaces.
    left: usize,
    folder: tempfile::TempDir,
}

fn played(apps: &[AppSpec]) -> Played {
    played_until(apps, &AtomicBool::new(false))
}

fn played_until(apps: &[AppSpec], stop: &AtomicBool) -> Played {
    let network = Network::build(&presets::router()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let outcome = play(&network, apps, folder.path(), stop, &mut |_| Ok::<_, AppsError>(()));
    let left = network.hosts().iter().map(|host| process::sweep(host, Duration::ZERO)).sum();
    network.close().unwrap();
    Played { outcome, left, folder }
}

#[track_caller]
fn refused(apps: &[AppSpec]) -> String {
    let Played { outcome, left, .. } = played(apps);
    assert_eq!(left, 0, "processes are left");
    outcome.unwrap_err().to_string()
}

fn read(folder: &Path, file: &str) -> String {
    std::fs::read_to_string(folder.join(file)).unwrap()
}

#[test]
fn a_server_serves_and_a_client_finds_it() {
    // Two of the words: its own folder, the other's address.
    let mut server = server("greeter", "cat {dir}/words; echo ready now; exec sleep 60");
    server.files.insert("words".to_owned(), "from {host.server}\n".to_owned());
    let mut client = app("asker", "client", "read line; echo $line $NAME {host6.server}; pwd");
    client.input = Some("asked\n".to_owned());
    client.env.insert("NAME".to_owned(), "by name".to_owned());
    let Played { outcome, left, folder } = played(&[server, client]);
    let outcome = outcome.unwrap();
    assert_eq!(left, 0);
    let ends: Vec<_> = outcome.apps.iter().map(|app| (app.name.as_str(), app.end.as_str(), &app.problem)).collect();
    assert_eq!(ends, [("greeter", "killed by signal 15", &None), ("asker", "exit code 0", &None)]);
    assert!(outcome.apps[0].ready_ms.is_some() && outcome.notes.is_empty());
    assert_eq!(read(folder.path(), "greeter.out"), "from 10.71.2.2\nready now\n");
    let asked = read(folder.path(), "asker.out");
    assert!(asked.starts_with("asked by name fd71:2::2\n") && asked.trim_end().ends_with("/asker"), "{asked}");
}

#[test]
fn a_port_is_waited_for_and_belongs_to_its_host() {
    // The kernel's list has the port only once the shell's child has opened it: perl and python are not everywhere, so
    // the server is this test's own thread.
    let network = Network::build(&presets::router()).unwrap();
    let host = network.host("server").unwrap();
    assert!(!host.run(|| ports::is_open(Proto::Tcp, 7)).unwrap());
    let listener = host.run(|| std::net::TcpListener::bind("10.71.2.2:7").unwrap());
    assert!(host.run(|| ports::is_open(Proto::Tcp, 7)).unwrap());
    assert!(!network.host("client").unwrap().run(|| ports::is_open(Proto::Tcp, 7)).unwrap());
    drop(listener);
    network.close().unwrap();
}

#[test]
fn one_that_ends_early_or_never_gets_ready_is_named_with_its_words() {
    let client = app("asker", "client", "exit 0");
    let early = refused(&[server("bad", "echo no config >&2; exit 3"), client.clone()]);
    let expected = "application bad ended before it was ready (exit code 3); the end of its output:\nno config";
    assert_eq!(early, expected);
    let slow = AppSpec { timeout_s: 1, ..server("slow", "echo still busy; exec sleep 60") };
    let never = refused(&[slow, client.clone()]);
    assert!(never.starts_with("application slow was not ready after 1 s: `ready now` was not written"), "{never}");
    assert!(never.ends_with("still busy"), "{never}");
    let deaf = AppSpec {
        ready: Ready { port: Some(81), ..Ready::default() },
        timeout_s: 1,
        ..server("deaf", "exec sleep 60")
    };
    let deaf = refused(&[deaf, client.clone()]);
    assert!(
        deaf.contains("no socket of tcp port 81 on host server; the end of its output:\nit wrote nothing"),
        "{deaf}"
    );
    let gone = refused(&[server("gone", "echo ready now; exit 0"), app("asker", "client", "exec sleep 60")]);
    // It may be seen to have ended before or after it was seen to be ready.
    assert!(gone.starts_with("application gone ended "), "{gone}");
    let missing = AppSpec { command: vec!["no-such-program".to_owned()], ..client };
    assert!(refused(&[missing]).starts_with("cannot start application asker (no-such-program)"));
}

#[test]
fn a_client_that_fails_or_hangs_is_a_problem_and_no_error() {
    let wrong = app("wrong", "client", "echo what; exit 7");
    let hangs = AppSpec { timeout_s: 1, ..app("hangs", "client", "echo waiting; exec sleep 60") };
    let right = AppSpec { exit_code: 7, ..app("right", "client", "exit 7") };
    let Played { outcome, left, .. } = played(&[wrong, hangs, right]);
    let outcome = outcome.unwrap();
    assert_eq!(left, 0);
    let problems: Vec<_> = outcome.apps.iter().map(|app| app.problem.as_deref().unwrap_or("none")).collect();
    assert_eq!(
        problems,
        [
            "ended with exit code 7, not 0; the end of its output:\nwhat",
            "did not end within 1 s; the end of its output:\nwaiting",
            "none",
        ]
    );
}

#[test]
fn clients_run_one_after_the_other_or_together() {
    // Each waits for what the other leaves, which takes both at the same time.
    let one = app("one", "client", "touch {dir}/here; until [ -e {dir.two}/here ]; do sleep 0.01; done");
    let two = app("two", "client", "touch {dir}/here; until [ -e {dir.one}/here ]; do sleep 0.01; done");
    let Played { outcome, .. } = played(&[one, AppSpec { together: true, ..two }]);
    assert!(outcome.unwrap().apps.iter().all(|app| app.problem.is_none()));
    let first = app("first", "client", "sleep 0.1; touch {dir}/done");
    let second = app("second", "client", "test -e {dir.first}/done");
    let Played { outcome, .. } = played(&[first, second]);
    assert!(outcome.unwrap().apps.iter().all(|app| app.problem.is_none()));
}

#[test]
fn a_flood_of_output_is_cut_and_told() {
    let flood = app("flood", "client", "head -c 3000000 /dev/zero");
    let Played { outcome, folder, .. } = played(&[flood]);
    let outcome = outcome.unwrap();
    assert_eq!((outcome.apps[0].output_bytes, outcome.apps[0].problem.is_none()), (3_000_000, true));
    assert_eq!(outcome.notes, [format!("application flood wrote 3000000 bytes; of each output {KEPT} are kept")]);
    let kept = std::fs::metadata(folder.path().join("flood.out")).unwrap().len();
    assert!((KEPT..KEPT + 100).contains(&kept), "{kept}");
}

#[test]
fn what_hides_in_sessions_of_its_own_ends_as_well() {
    let daemon =
        server("daemon", "setsid sleep 60 & setsid sh -c 'trap \"\" TERM HUP; sleep 60' & echo ready now; wait");
    let Played { outcome, left, .. } = played(&[daemon, app("asker", "client", "exit 0")]);
    assert_eq!((outcome.unwrap().apps.len(), left), (2, 0));
}

#[test]
fn a_run_that_is_stopped_leaves_nothing() {
    let begun = Instant::now();
    let Played { outcome, left, .. } =
        played_until(&[server("slow", "exec sleep 60"), app("asker", "client", "exit 0")], &AtomicBool::new(true));
    let outcome = outcome.unwrap();
    assert!(outcome.interrupted && left == 0 && begun.elapsed() < Duration::from_secs(15), "{outcome:?}");
}

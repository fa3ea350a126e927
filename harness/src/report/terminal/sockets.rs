//! What the kernel says of its own sockets.

use super::{Page, bytes, time};
use crate::observation::{KernelSocket, Tcp};

/// The sockets, and in what they and the path's view differ.
pub(super) fn section(page: &mut Page, tcp: &Tcp) {
    if tcp.kernel_sockets.is_empty() {
        return;
    }
    page.line("  the kernel's own view of its sockets");
    let rows: Vec<Vec<String>> = tcp.kernel_sockets.iter().map(row).collect();
    page.table(&["host", "local", "remote", "state", "srtt", "cwnd", "receive window", "retrans", "rst in/out"], &rows);
    if tcp.disagreements.is_empty() {
        page.line("  it agrees with what was seen on the wire");
        return;
    }
    let heading = page.warn("it disagrees with what was seen on the wire");
    page.line(format!("  {heading}"));
    let rows: Vec<Vec<String>> = tcp
        .disagreements
        .iter()
        .map(|one| {
            let [host, local, remote] = [&one.host, &one.local, &one.remote].map(Clone::clone);
            vec![host, local, remote, one.property.clone(), one.wire.clone(), one.kernel.clone()]
        })
        .collect();
    page.table(&["host", "local", "remote", "property", "on the wire", "at the socket"], &rows);
}

fn row(socket: &KernelSocket) -> Vec<String> {
    vec![
        socket.host.clone(),
        socket.local.clone(),
        socket.remote.clone(),
        socket.state.clone(),
        socket.srtt_us.map_or_else(|| "-".to_owned(), time),
        format!("{} (max {})", socket.cwnd, socket.cwnd_max),
        socket.receive_window.map_or_else(|| "-".to_owned(), bytes),
        socket.retransmissions.to_string(),
        format!("{} / {}", socket.resets_received, socket.resets_sent),
    ]
}

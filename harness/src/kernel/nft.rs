//! Rules of the packet filter, which nft(8) loads.

use std::io::{self, Write as _};
use std::process::{Command, Stdio};

use super::probe::tools;

/// The program that loads rules.
const NFT: &str = "nft";

/// Loads rules in the language of nft(8) into the calling thread's network namespace.
///
/// # Errors
/// `NotFound` where there is no nft; what it says about the rules.
pub fn load_rules(rules: &str) -> io::Result<()> {
    let Some(nft) = tools::find(NFT) else {
        let message = format!("no program {NFT} in PATH ({})", tools::how_to_get(NFT));
        return Err(io::Error::new(io::ErrorKind::NotFound, message));
    };
    let mut command = Command::new(nft);
    command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    // A child that does not read says why it ended.
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(rules.as_bytes()));
    let output = child.wait_with_output()?;
    if output.status.success() {
        return written;
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(said.trim().lines().collect::<Vec<_>>().join("; ")))
}

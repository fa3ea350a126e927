//! What an application writes: kept in a file as far as there is room, looked through for a text, its end remembered.

use std::fs::File;
use std::io::{PipeReader, Read as _, Write as _};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Bytes of each output that are kept. What is beyond is read and thrown away, so that the application never waits.
pub const KEPT: u64 = 1 << 20;
/// Bytes of the end that an error shows.
const TAIL: usize = 2048;

/// What is known of an output.
#[derive(Debug, Default)]
struct State {
    bytes: u64,
    /// The last bytes.
    tail: Vec<u8>,
    /// The text that is waited for was found.
    found: bool,
    closed: bool,
}

/// One output of an application.
#[derive(Clone, Debug, Default)]
pub(super) struct Output(Arc<(Mutex<State>, Condvar)>);

impl Output {
    /// Reads `from` on a thread of its own and keeps what comes in `file`. `wanted` is looked for.
    pub(super) fn keep(mut from: PipeReader, file: File, wanted: Option<String>) -> std::io::Result<Self> {
        let this = Self::default();
        let output = this.clone();
        std::thread::Builder::new().name("output".to_owned()).spawn(move || {
            let mut piece = [0; 16 << 10];
            // An error ends an output like its end.
            while let Ok(read @ 1..) = from.read(&mut piece) {
                output.take(&piece[..read], &file, wanted.as_deref());
            }
            output.close(&file);
        })?;
        Ok(this)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, piece: &[u8], mut file: &File, wanted: Option<&str>) {
        let mut state = self.state();
        let room = usize::try_from(KEPT.saturating_sub(state.bytes)).unwrap_or(usize::MAX);
        // A full disk is no reason to stop the application; what is missing shows in the file's length.
        _ = file.write_all(&piece[..piece.len().min(room)]);
        state.bytes += piece.len() as u64;
        state.tail.extend_from_slice(piece);
        if let Some(wanted) = wanted.filter(|_| !state.found) {
            state.found = state.tail.windows(wanted.len().max(1)).any(|window| window == wanted.as_bytes());
        }
        // The text may come in two pieces, the first of which must be there when the second comes.
        let keep = TAIL.max(wanted.map_or(0, str::len));
        let surplus = state.tail.len().saturating_sub(keep);
        state.tail.drain(..surplus);
    }

    fn close(&self, mut file: &File) {
        let mut state = self.state();
        let lost = state.bytes.saturating_sub(KEPT);
        if lost > 0 {
            _ = writeln!(file, "\n[cut by the lab: {lost} more bytes]");
        }
        state.closed = true;
        self.0.1.notify_all();
    }

    /// Bytes that were written.
    pub(super) fn bytes(&self) -> u64 {
        self.state().bytes
    }

    /// Whether the text that is waited for has come.
    pub(super) fn found(&self) -> bool {
        self.state().found
    }

    /// The last lines, for an error.
    pub(super) fn tail(&self) -> String {
        String::from_utf8_lossy(&self.state().tail).trim().to_owned()
    }

    /// Waits for the end of the output, which comes when the last process that has it is gone; says whether it came.
    pub(super) fn wait_closed(&self, limit: Duration) -> bool {
        let state = self.state();
        let waited = self.0.1.wait_timeout_while(state, limit, |state| !state.closed);
        waited.unwrap_or_else(PoisonError::into_inner).0.closed
    }
}

/// Opens the file of an output.
pub(super) fn file(path: &Path) -> std::io::Result<File> {
    File::create(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_said_and_its_end_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let (reader, mut writer) = std::io::pipe().unwrap();
        let output = Output::keep(reader, file(&path).unwrap(), Some("never".to_owned())).unwrap();
        let line = [b'x'; 1024];
        for _ in 0..2 * KEPT / 1024 {
            writer.write_all(&line).unwrap();
        }
        writer.write_all(b"the end").unwrap();
        drop(writer);
        assert!(output.wait_closed(Duration::from_secs(10)));
        let kept = std::fs::read(&path).unwrap();
        assert_eq!(output.bytes(), 2 * KEPT + 7);
        let note = format!("\n[cut by the lab: {} more bytes]\n", KEPT + 7);
        assert_eq!(kept.len(), usize::try_from(KEPT).unwrap() + note.len());
        assert!(kept.ends_with(note.as_bytes()));
        assert!(output.tail().ends_with("xthe end") && output.tail().len() <= TAIL);
        assert!(!output.found());
    }

    #[test]
    fn a_text_is_found_even_in_two_pieces() {
        let folder = tempfile::tempdir().unwrap();
        let (reader, mut writer) = std::io::pipe().unwrap();
        let kept = file(&folder.path().join("out")).unwrap();
        let output = Output::keep(reader, kept, Some("ready to accept".to_owned())).unwrap();
        for piece in ["noise\nready ", "to acc", "ept\n"] {
            assert!(!output.found());
            writer.write_all(piece.as_bytes()).unwrap();
        }
        drop(writer);
        assert!(output.wait_closed(Duration::from_secs(10)));
        assert!(output.found());
    }
}

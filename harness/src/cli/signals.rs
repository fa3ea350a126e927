//! SIGINT and SIGTERM end a run after the packet under way, so that everything it made is undone.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

/// The flag that a first signal sets. A second one ends the process at once.
pub fn stop_flag() -> &'static AtomicBool {
    static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    FLAG.get_or_init(|| {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            // Registration fails for forbidden signals only, and these are not.
            let _ = signal_hook::flag::register_conditional_default(signal, Arc::clone(&flag));
            let _ = signal_hook::flag::register(signal, Arc::clone(&flag));
        }
        flag
    })
}

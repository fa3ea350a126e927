//! What is read rather than tried: rights, mounts, settings.

use std::fs;

use super::Answer;
use crate::kernel;

/// The capabilities that the lab needs, by number (`include/uapi/linux/capability.h`), and what for.
const CAPABILITIES: [(u32, &str); 3] = [(12, "CAP_NET_ADMIN"), (13, "CAP_NET_RAW"), (21, "CAP_SYS_ADMIN")];
/// Bytes of locked memory that the suite's maps take on a kernel that counts them so.
const MEMLOCK_NEEDED: u64 = 64 << 20;

/// Which capabilities this process lacks; all of them if that cannot be read.
pub fn missing_capabilities() -> Vec<&'static str> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    missing_in(&status)
}

fn missing_in(status: &str) -> Vec<&'static str> {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    CAPABILITIES.iter().filter(|(bit, _)| effective & (1 << bit) == 0).map(|(_, name)| *name).collect()
}

/// Whether this process may do what the lab does: load programs, make namespaces and interfaces, send raw frames.
pub fn root() -> Answer {
    let missing = missing_capabilities();
    if missing.is_empty() {
        let names: Vec<&str> = CAPABILITIES.iter().map(|(_, name)| *name).collect();
        Answer::Yes(names.join(", "))
    } else {
        Answer::No(format!("this process lacks {}", missing.join(", ")))
    }
}

/// Where a file system of type `kind` is mounted.
fn mounted(kind: &str) -> Answer {
    match fs::read_to_string("/proc/self/mountinfo") {
        Err(error) => Answer::CouldNotTell(format!("cannot read /proc/self/mountinfo: {error}")),
        Ok(mounts) => match mount_point(&mounts, kind) {
            Some(point) => Answer::Yes(format!("mounted on {point}")),
            None => Answer::No("not mounted".to_owned()),
        },
    }
}

/// Fields of a line: the fifth is where; after a lone `-`, the type.
fn mount_point<'a>(mountinfo: &'a str, kind: &str) -> Option<&'a str> {
    mountinfo.lines().find_map(|line| {
        let (head, tail) = line.split_once(" - ")?;
        (tail.split(' ').next() == Some(kind)).then(|| head.split(' ').nth(4))?
    })
}

pub fn bpffs() -> Answer {
    mounted("bpf")
}

/// The tracer's file system, mounted for everybody or not.
pub fn tracefs() -> Answer {
    match crate::kernel::tracefs::tracepoint("net/netif_receive_skb") {
        Ok(number) => Answer::Yes(format!("tracepoint net/netif_receive_skb has the number {number}")),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Answer::CouldNotTell(format!("only root may look: {error}"))
        }
        Err(error) => Answer::No(error.to_string()),
    }
}

pub fn cgroup2() -> Answer {
    mounted("cgroup2")
}

pub fn jit() -> Answer {
    const ENABLE: &str = "/proc/sys/net/core/bpf_jit_enable";
    match fs::read_to_string(ENABLE).as_deref().map(str::trim) {
        Ok("0") => Answer::No(format!("{ENABLE} is 0")),
        Ok(value) => Answer::Yes(format!("{ENABLE} is {value}")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Answer::No(format!("{ENABLE} does not exist")),
        Err(error) => Answer::CouldNotTell(format!("cannot read {ENABLE}: {error}")),
    }
}

/// Whether locked memory limits maps, after the lab has lifted the limit as far as it may.
pub fn memlock() -> Answer {
    if !kernel::counts_locked_memory() {
        return Answer::Yes("maps do not count as locked memory on this kernel".to_owned());
    }
    kernel::make_room_for_maps();
    match fs::read_to_string("/proc/self/limits") {
        Err(error) => Answer::CouldNotTell(format!("cannot read /proc/self/limits: {error}")),
        Ok(limits) => locked_memory(&limits),
    }
}

fn locked_memory(limits: &str) -> Answer {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"));
    match line.and_then(|line| line.split_whitespace().next()) {
        Some("unlimited") => Answer::Yes("unlimited".to_owned()),
        Some(soft) => match soft.parse::<u64>() {
            Ok(bytes) if bytes >= MEMLOCK_NEEDED => Answer::Yes(format!("{bytes} bytes")),
            Ok(bytes) => Answer::No(format!("{bytes} bytes, {MEMLOCK_NEEDED} are needed")),
            Err(_) => Answer::CouldNotTell(format!("unknown limit `{soft}`")),
        },
        None => Answer::CouldNotTell("/proc/self/limits does not name locked memory".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_their_mask() {
        // Bits 12 and 13 set, 21 not.
        assert_eq!(missing_in("Name:\tx\nCapEff:\t0000000000003000\n"), ["CAP_SYS_ADMIN"]);
        assert_eq!(missing_in("CapEff:\t000001ffffffffff\n"), [""; 0]);
        assert_eq!(missing_in("").len(), 3, "what cannot be read is not there");
    }

    #[test]
    fn mounts_are_found_by_type() {
        let mounts = "22 1 0:21 / /proc rw - proc proc rw\n\
                      30 1 0:30 / /sys/fs/bpf rw,nosuid shared:9 - bpf bpf rw,mode=700\n";
        assert_eq!(mount_point(mounts, "bpf"), Some("/sys/fs/bpf"));
        assert_eq!(mount_point(mounts, "tracefs"), None);
    }

    #[test]
    fn locked_memory_is_counted_before_5_11() {
        let limits = |soft: &str| format!("Limit  Soft  Hard  Units\nMax locked memory         {soft}   x   bytes\n");
        assert!(matches!(locked_memory(&limits("65536")), Answer::No(_)));
        assert!(matches!(locked_memory(&limits("67108864")), Answer::Yes(_)));
        assert!(matches!(locked_memory(&limits("unlimited")), Answer::Yes(_)));
        assert!(matches!(locked_memory("nothing"), Answer::CouldNotTell(_)));
    }
}

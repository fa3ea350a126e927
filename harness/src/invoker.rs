//! The person behind the lab: under sudo not root, but who called sudo.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Home folder of whoever started the lab; none if the system knows of none.
#[must_use]
pub fn home() -> Option<PathBuf> {
    match sudo() {
        Some((uid, _)) => home_of(uid),
        None => std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from),
    }
}

/// User and group number that files in the home folder are to belong to; none if they are this process's own.
#[must_use]
pub fn owner() -> Option<(u32, u32)> {
    sudo()
}

/// Gives everything at and below `path` to `owner`, if there is one.
pub fn give(path: &Path, owner: Option<(u32, u32)>) {
    let Some((uid, gid)) = owner else { return };
    // A file that stays root's can be read all the same.
    let _ = std::os::unix::fs::lchown(path, Some(uid), Some(gid));
    if path.is_dir() && !path.is_symlink() {
        for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
            give(&entry.path(), owner);
        }
    }
}

/// Who called sudo, if this process is root by sudo and the caller was not root already.
fn sudo() -> Option<(u32, u32)> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    let effective = std::fs::metadata("/proc/self").ok()?.uid();
    let (uid, gid) = (number("SUDO_UID")?, number("SUDO_GID")?);
    (effective == 0 && uid != 0).then_some((uid, gid))
}

/// From the user database, whichever services it is made of.
fn home_of(uid: u32) -> Option<PathBuf> {
    let local = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    field(&local, uid).or_else(|| {
        let output = Command::new("getent").args(["passwd", &uid.to_string()]).output().ok()?;
        field(&String::from_utf8_lossy(&output.stdout), uid)
    })
}

/// The sixth field of the user's line (`passwd(5)`).
fn field(passwd: &str, uid: u32) -> Option<PathBuf> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':').skip(2);
        let found = fields.next()?.parse::<u32>().ok()? == uid;
        fields.nth(2).filter(|home| found && !home.is_empty()).map(PathBuf::from)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_home_folder_is_the_sixth_field_of_the_users_line() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nbroken\nada:x:1000:1000:,,,:/home/ada:/bin/sh\n";
        assert_eq!(field(passwd, 1000), Some(PathBuf::from("/home/ada")));
        assert_eq!(field(passwd, 1001), None);
        assert_eq!(field("x:x:7:7::", 7), None);
    }
}

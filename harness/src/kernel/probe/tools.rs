//! Programs that scenarios and the lab call, and where Debian has them.

use std::path::PathBuf;
use std::process::Command;

use super::Answer;

/// Directories that are not in everybody's `PATH`.
/// Not `/usr/lib/qemu`: the virtiofsd there is an older program, whose options virtme-ng does not use.
const MORE_DIRECTORIES: [&str; 5] = ["/usr/local/bin", "/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/libexec"];

/// Directories below a home folder that cargo, pip and pyenv install into.
const HOME_DIRECTORIES: [&str; 3] = [".cargo/bin", ".local/bin", ".pyenv/shims"];

/// Tools whose Debian package has another name.
const PACKAGES: [(&str, &str); 33] = [
    ("bpftool", "bpftool"),
    // The one that needs no libraries.
    ("busybox", "busybox-static"),
    ("delv", "bind9-dnsutils"),
    ("dig", "bind9-dnsutils"),
    ("dnsmasq", "dnsmasq-base"),
    ("ethtool", "ethtool"),
    ("host", "bind9-host"),
    ("initdb", "postgresql"),
    ("ip", "iproute2"),
    ("named", "bind9"),
    ("nc", "netcat-openbsd"),
    ("ncat", "ncat"),
    ("nft", "nftables"),
    ("ping", "iputils-ping"),
    ("pg_ctl", "postgresql"),
    ("postgres", "postgresql"),
    ("psql", "postgresql-client"),
    ("python3", "python3-minimal"),
    ("qemu-system-aarch64", "qemu-system-arm"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("redis-cli", "redis-tools"),
    ("redis-server", "redis-server"),
    ("ss", "iproute2"),
    ("ssh", "openssh-client"),
    ("sshd", "openssh-server"),
    ("ssh-keygen", "openssh-client"),
    ("pg_isready", "postgresql-client"),
    ("tc", "iproute2"),
    ("tcpreplay", "tcpreplay"),
    ("depmod", "kmod"),
    ("ldd", "libc-bin"),
    ("mke2fs", "e2fsprogs"),
    ("xz", "xz-utils"),
];

/// The Debian package that has `tool`: its own name if nothing else is known.
pub fn package(tool: &str) -> &str {
    PACKAGES.iter().find(|(known, _)| *known == tool).map_or(tool, |(_, package)| package)
}

/// How a program is installed.
#[must_use]
pub fn how_to_get(tool: &str) -> String {
    match tool {
        // Debian has them since trixie, as other versions than the lab is tried with.
        "vng" => "`pip install virtme-ng`, which `ci/setup` does".to_owned(),
        "virtiofsd" => "`cargo install virtiofsd`, which `ci/setup` does".to_owned(),
        "bpf-linker" => "`cargo install bpf-linker`, which `ci/setup` does".to_owned(),
        tool => format!("`apt install {}`", package(tool)),
    }
}

/// Where a program is: in `PATH`, in the system's folders, or in those of the user's own installers, which sudo takes
/// out of `PATH`.
#[must_use]
pub fn find(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = MORE_DIRECTORIES.iter().map(PathBuf::from);
    let home = crate::invoker::home();
    let own = HOME_DIRECTORIES.iter().filter_map(|folder| home.as_ref().map(|home| home.join(folder)));
    find_in(tool, std::env::split_paths(&path).chain(system).chain(own).chain(postgresql()))
}

/// Where Debian has the programs of PostgreSQL's server, newest version first (postgresql-common(7)).
fn postgresql() -> impl Iterator<Item = PathBuf> {
    let version = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    let folders = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|entry| entry.path());
    let mut folders: Vec<PathBuf> = folders.filter(|path| version(path).is_some()).collect();
    folders.sort_by_key(|path| std::cmp::Reverse(version(path)));
    folders.into_iter().map(|folder| folder.join("bin"))
}

/// The first of `directories` that has the program.
pub fn find_in(tool: &str, directories: impl Iterator<Item = PathBuf>) -> Option<PathBuf> {
    directories.map(|directory| directory.join(tool)).find(|file| is_executable(file))
}

fn is_executable(file: &std::path::Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Whether a program is installed.
pub fn tool(tool: &str) -> Answer {
    match find(tool) {
        Some(file) => Answer::Yes(file.display().to_string()),
        None => Answer::No(format!("no program {tool} in PATH")),
    }
}

/// Whether the toolchain that compiles the objects is complete: nightly, with the source of `core`.
pub fn nightly() -> Answer {
    let toolchain = std::env::var("BPFLAB_EBPF_TOOLCHAIN").unwrap_or_else(|_| "nightly".to_owned());
    let Some(rustup) = find("rustup") else {
        return Answer::No("no program rustup in PATH".to_owned());
    };
    let output = Command::new(rustup).args(["run", &toolchain, "rustc", "--print", "sysroot"]).output();
    match output {
        Err(error) => Answer::CouldNotTell(format!("cannot run rustup: {error}")),
        Ok(output) if !output.status.success() => Answer::No(format!("no toolchain {toolchain}")),
        Ok(output) => {
            let sysroot = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
            if sysroot.join("lib/rustlib/src/rust/library/core").is_dir() {
                Answer::Yes(sysroot.display().to_string())
            } else {
                Answer::No(format!("toolchain {toolchain} has no rust-src"))
            }
        }
    }
}

/// Whether libpcap can be linked: the library itself is there, since this program runs, but its link for the linker
/// comes with the development package.
pub fn libpcap() -> Answer {
    let multiarch = format!("{}-linux-gnu", std::env::consts::ARCH);
    let directories =
        [format!("/usr/lib/{multiarch}"), "/usr/lib64".to_owned(), "/usr/lib".to_owned(), "/usr/local/lib".to_owned()];
    let found =
        directories.iter().map(|directory| PathBuf::from(directory).join("libpcap.so")).find(|file| file.exists());
    match found {
        Some(file) => Answer::Yes(file.display().to_string()),
        None => Answer::No("no libpcap.so to link with".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_are_found_and_their_packages_named() {
        assert!(matches!(tool("sh"), Answer::Yes(path) if path.ends_with("/sh")));
        assert!(matches!(tool("no-such-tool"), Answer::No(_)));
        assert_eq!((package("dig"), package("nginx")), ("bind9-dnsutils", "nginx"));
        assert!(find("../sh").is_none_or(|file| file.exists()));
    }
}

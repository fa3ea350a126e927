//! Kernel parameters of the calling thread's network namespace, through `/proc/sys/net`.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

/// The file of a parameter, or nothing where the name is not one of a network namespace. As in sysctl(8), the first
/// separator in the name, dot or slash, is the one that separates, and the other one stands for a dot.
pub(crate) fn path(name: &str) -> Option<PathBuf> {
    let slashes = match name.find(['.', '/']).map(|at| name.as_bytes()[at]) {
        Some(b'/') => name.to_owned(),
        _ => name
            .chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect(),
    };
    let mut parts = slashes.split('/');
    let sound = parts.next() == Some("net") && slashes.split('/').all(|part| !matches!(part, "" | "." | ".."));
    (sound && parts.next().is_some()).then(|| PathBuf::from("/proc/sys").join(slashes))
}

/// Reads a parameter, without the newline.
pub(crate) fn get(name: &str) -> io::Result<String> {
    let path = path(name).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(std::fs::read_to_string(path)?.trim_end().to_owned())
}

/// Writes a parameter.
pub(crate) fn set(name: &str, value: &str) -> io::Result<()> {
    std::fs::write(path(name).ok_or(io::ErrorKind::InvalidInput)?, value)
}

/// Writes parameters that this kernel may not have: a missing one is left out.
pub(crate) fn set_known(values: &[(&str, &str)]) -> Result<(), (String, io::Error)> {
    for (name, value) in values {
        match set(name, value) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(((*name).to_owned(), error)),
            _ => {}
        }
    }
    Ok(())
}

/// Writes a host's own parameters, in the order of their names.
pub(crate) fn set_all(values: &BTreeMap<String, String>) -> Result<(), (String, io::Error)> {
    values.iter().try_for_each(|(name, value)| set(name, value).map_err(|error| (name.clone(), error)))
}

/// What makes a fresh namespace silent and its answers repeatable. Interfaces made later inherit `default`.
pub(crate) const QUIET: &[(&str, &str)] = &[
    // Nobody asks for addresses, and nobody routers: no duplicate address detection, no router solicitation, no
    // link-local address. IPv6 itself is enabled interface by interface.
    ("net.ipv6.conf.default.accept_dad", "0"),
    ("net.ipv6.conf.all.accept_dad", "0"),
    ("net.ipv6.conf.default.dad_transmits", "0"),
    ("net.ipv6.conf.default.accept_ra", "0"),
    ("net.ipv6.conf.default.router_solicitations", "0"),
    ("net.ipv6.conf.default.accept_redirects", "0"),
    ("net.ipv6.conf.default.addr_gen_mode", "1"),
    ("net.ipv6.conf.default.disable_ipv6", "1"),
    ("net.ipv6.conf.lo.disable_ipv6", "0"),
    // The initial namespace's IPv4 defaults are inherited (net.core.devconf_inherit_init_net): whatever this machine
    // is set to must not change a verdict.
    ("net.ipv4.ip_forward", "0"),
    ("net.ipv4.conf.all.rp_filter", "0"),
    ("net.ipv4.conf.default.rp_filter", "0"),
    ("net.ipv4.conf.all.send_redirects", "0"),
    ("net.ipv4.conf.default.send_redirects", "0"),
    ("net.ipv4.conf.all.accept_redirects", "0"),
    ("net.ipv4.conf.default.accept_redirects", "0"),
    ("net.ipv4.conf.all.log_martians", "0"),
    ("net.ipv4.conf.default.log_martians", "0"),
    // ICMP errors are answers to be counted: no rate limit, per destination or global, for any type.
    ("net.ipv4.icmp_ratelimit", "0"),
    ("net.ipv4.icmp_ratemask", "0"),
    ("net.ipv6.icmp.ratelimit", "0"),
    ("net.ipv6.icmp.ratemask", "255"),
    // A captured ping to everybody is not answered by the lab.
    ("net.ipv4.icmp_echo_ignore_broadcasts", "1"),
    ("net.ipv6.icmp.echo_ignore_multicast", "1"),
    ("net.ipv6.icmp.echo_ignore_anycast", "1"),
    // With br_netfilter loaded a bridge checks and drops IP packets like a router; ours forwards what it gets.
    ("net.bridge.bridge-nf-call-iptables", "0"),
    ("net.bridge.bridge-nf-call-ip6tables", "0"),
    ("net.bridge.bridge-nf-call-arptables", "0"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_parameters_of_a_network_namespace_have_a_file() {
        assert_eq!(path("net.ipv4.ip_forward").unwrap(), PathBuf::from("/proc/sys/net/ipv4/ip_forward"));
        let dotted = path("net/ipv4/conf/eth0.7/rp_filter").unwrap();
        assert_eq!(dotted, PathBuf::from("/proc/sys/net/ipv4/conf/eth0.7/rp_filter"));
        assert_eq!(path("net.ipv4.conf.eth0/7.rp_filter").unwrap(), dotted);
        for wrong in ["kernel.panic", "net", "net.", "net..x", "net/../kernel/panic", "/net/ipv4/ip_forward", ""] {
            assert_eq!(path(wrong), None, "{wrong}");
        }
    }
}

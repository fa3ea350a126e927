//! What names of types and members say about bytes, where the type alone does not.

/// Whether a member of that name holds an Internet address: `saddr`, `daddr`, `src_addr`, `ip`, `src_ip`, `vip`, `ip6`.
pub(super) fn is_address(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let is_ip = |word: &str| {
        let word = word.trim_end_matches(|letter: char| letter.is_ascii_digit());
        // `vip`, `sip`, `srcip`, `ipv4`; not `description` or `pipeline`.
        word.len() <= 5 && (word.starts_with("ip") || word.ends_with("ip")) && !matches!(word, "skip" | "flip" | "chip")
    };
    name.contains("addr") || name.split('_').any(|word| is_ip(word.trim_end_matches('v')))
}

/// Whether six bytes of that name are an Ethernet address: `h_dest`, `h_source`, `src_mac`, `mac`, `eth_addr`.
pub(super) fn is_mac(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let last = name.rsplit('_').next().unwrap_or_default();
    name.contains("mac")
        || name.contains("ether")
        || name.contains("addr")
        || matches!(last, "dest" | "source" | "dst" | "src")
}

/// The byte order that a typedef's name promises: big-endian for `__be16` and its like, little-endian for `__le16`.
pub(super) fn byte_order(typedef: &str) -> Option<bool> {
    match typedef {
        "__be16" | "__be32" | "__be64" | "be16" | "be32" | "be64" => Some(true),
        "__le16" | "__le32" | "__le64" => Some(false),
        _ => None,
    }
}

/// Whether a Rust type of that name is nothing but its one member: newtypes are told by the member (`__0`), these by
/// their own name, in which BTF has `_3C_` for `<`.
pub(super) fn is_wrapper(ty: &str) -> bool {
    const WRAPPERS: [&str; 9] = [
        "Global",
        "MaybeUninit",
        "ManuallyDrop",
        "MaybeDangling",
        "UnsafeCell",
        "SyncUnsafeCell",
        "Cell",
        "Volatile",
        "Atomic",
    ];
    let name = ty.split("_3C_").next().unwrap_or(ty);
    let atomic = name.strip_prefix("Atomic").is_some_and(|rest| rest.starts_with(['U', 'I', 'B']));
    WRAPPERS.contains(&name) || atomic
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_addresses_are_told_from_words_that_contain_them() {
        for name in ["saddr", "daddr", "ip", "src_ip", "vip", "ipv4", "ip4_dst", "dst_ipv4", "SADDR", "remote_ip6"] {
            assert!(is_address(name), "{name}");
        }
        for name in ["description", "pipeline", "skip", "recipient", "port", ""] {
            assert!(!is_address(name), "{name}");
        }
        assert!(is_mac("h_dest") && is_mac("h_source") && is_mac("smac") && !is_mac("cookie"));
        assert!(is_wrapper("Global_3C_u32_3E_") && is_wrapper("AtomicU64") && !is_wrapper("Globals"));
    }
}

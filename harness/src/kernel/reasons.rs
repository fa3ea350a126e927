//! The names of drop reasons, which move from kernel to kernel and so come from the running kernel's BTF.

use std::collections::BTreeMap;

use super::btf::Btf;

/// Prefix of `enum skb_drop_reason`.
const CORE: &str = "SKB_DROP_REASON_";
/// Prefix of `enum skb_drop_reason_subsys`.
const SUBSYSTEM: &str = "SKB_DROP_REASON_SUBSYS_";
/// A reason is `subsystem << 16 | number` (`SKB_DROP_REASON_SUBSYS_SHIFT`, include/net/dropreason.h).
const SUBSYSTEM_SHIFT: u32 = 16;
/// Enums of subsystems, whose values contain the subsystem, and the prefix of their names. Those of modules are not in
/// the kernel's own BTF.
const SUBSYSTEM_ENUMS: [(&str, &str); 3] =
    [("qdisc_drop_reason", "QDISC_DROP_"), ("mac80211_drop_reason", "RX_DROP_"), ("ovs_drop_reason", "OVS_DROP_")];
/// What the kernel calls the end of a packet that was not dropped at all (include/net/dropreason-core.h).
const NO_DROPS: [&str; 2] = ["SKB_NOT_DROPPED_YET", "SKB_CONSUMED"];

/// The name of a drop on a kernel that gives no reasons (before 5.17).
pub const UNKNOWN: &str = "UNKNOWN";

/// Drop reasons of one kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DropReasons {
    /// Name by number, without prefix.
    names: BTreeMap<u32, String>,
    /// Name of a subsystem by its number, without prefix.
    subsystems: BTreeMap<u32, String>,
    /// Numbers that stand for no drop.
    no_drops: Vec<u32>,
}

impl DropReasons {
    /// The reasons that `btf` describes; none on a kernel before 5.17.
    #[must_use]
    pub fn new(btf: &Btf) -> Self {
        // The last names of these enums are bounds, not reasons.
        let bound = |name: &str| ["_MAX", "_NUM", "_MASK"].iter().any(|end| name.ends_with(end));
        let values = |name: &str| {
            let names = btf.enum_names(name).unwrap_or_default().into_iter();
            names.filter(|(_, name)| !bound(name)).filter_map(|(value, name)| Some((u32::try_from(value).ok()?, name)))
        };
        let mut reasons = Self::default();
        for (value, name) in values("skb_drop_reason") {
            if NO_DROPS.contains(&name.as_str()) {
                reasons.no_drops.push(value);
            }
            let name = name.strip_prefix(CORE).or_else(|| name.strip_prefix("SKB_")).unwrap_or(&name);
            reasons.names.insert(value, name.to_owned());
        }
        for (value, name) in values("skb_drop_reason_subsys") {
            reasons.subsystems.insert(value, name.strip_prefix(SUBSYSTEM).unwrap_or(&name).to_owned());
        }
        for (subsystem_enum, prefix) in SUBSYSTEM_ENUMS {
            for (value, name) in values(subsystem_enum).filter(|(value, _)| *value >> SUBSYSTEM_SHIFT != 0) {
                let subsystem = reasons.subsystem(value >> SUBSYSTEM_SHIFT);
                let name = name.trim_start_matches('_').strip_prefix(prefix).unwrap_or(&name).to_owned();
                reasons.names.entry(value).or_insert_with(|| format!("{subsystem}_{name}"));
            }
        }
        reasons
    }

    fn subsystem(&self, number: u32) -> String {
        self.subsystems.get(&number).cloned().unwrap_or_else(|| format!("subsys-{number}"))
    }

    /// The kernel's name of a reason: `NO_SOCKET`; of a subsystem's, with the subsystem in front:
    /// `QDISC_OVERLIMIT`, which was also that reason's name before it moved into a subsystem.
    ///
    /// A number without a name becomes `subsys-N/reason-M`, with the subsystem's name where that is known; any number
    /// is [`UNKNOWN`] on a kernel without reasons, where only the place of a drop tells its cause.
    #[must_use]
    pub fn name(&self, reason: u32) -> String {
        if self.names.is_empty() {
            return UNKNOWN.to_owned();
        }
        let (subsystem, number) = (reason >> SUBSYSTEM_SHIFT, reason & ((1 << SUBSYSTEM_SHIFT) - 1));
        match self.names.get(&reason) {
            Some(name) => name.clone(),
            None if subsystem == 0 => format!("subsys-0/reason-{number}"),
            None => format!("{}/reason-{number}", self.subsystem(subsystem)),
        }
    }

    /// The number of a reason by its name without prefix.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<u32> {
        self.names.iter().find(|(_, found)| *found == name).map(|(number, _)| *number)
    }

    /// Numbers that the kernel gives to packets that it did not drop.
    #[must_use]
    pub fn no_drops(&self) -> &[u32] {
        &self.no_drops
    }

    /// Whether this kernel gives reasons at all.
    #[must_use]
    pub fn known(&self) -> bool {
        !self.names.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reasons(names: &[(u32, &str)], subsystems: &[(u32, &str)]) -> DropReasons {
        let map = |pairs: &[(u32, &str)]| pairs.iter().map(|(number, name)| (*number, (*name).to_owned())).collect();
        DropReasons { names: map(names), subsystems: map(subsystems), no_drops: vec![0, 1] }
    }

    #[test]
    fn every_number_has_a_name() {
        let reasons = reasons(&[(3, "NO_SOCKET"), (0x30002, "QDISC_OVERLIMIT")], &[(0, "CORE"), (2, "OPENVSWITCH")]);
        assert_eq!(reasons.name(3), "NO_SOCKET");
        assert_eq!(reasons.name(999), "subsys-0/reason-999");
        assert_eq!(reasons.name(0x20005), "OPENVSWITCH/reason-5");
        assert_eq!(reasons.name(0x30002), "QDISC_OVERLIMIT");
        assert_eq!(reasons.name(0x70001), "subsys-7/reason-1");
        assert_eq!(reasons.name(u32::MAX), "subsys-65535/reason-65535");
        assert_eq!(reasons.number("NO_SOCKET"), Some(3));
    }

    #[test]
    fn a_kernel_without_reasons_has_one_name() {
        let none = DropReasons::default();
        assert_eq!((none.name(0).as_str(), none.name(7).as_str(), none.known()), (UNKNOWN, UNKNOWN, false));
    }

    #[test]
    fn the_running_kernels_reasons() {
        let reasons = DropReasons::new(Btf::kernel().unwrap());
        if reasons.known() {
            let number = reasons.number("NO_SOCKET").unwrap();
            assert_eq!(reasons.name(number), "NO_SOCKET");
            assert!(reasons.no_drops().contains(&0), "SKB_NOT_DROPPED_YET is 0 on every kernel");
            assert!(reasons.number("MAX").is_none() && reasons.subsystems.values().all(|name| name != "NUM"));
        }
    }
}

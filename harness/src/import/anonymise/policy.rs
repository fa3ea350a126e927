//! What is replaced, and by what.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What becomes of payload that no rule reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Payload {
    /// It stays, whatever it says.
    Keep,
    /// It becomes zeros.
    #[default]
    Zero,
    /// It becomes random bytes, made of the key and the seed.
    Random,
}

/// What becomes of MAC addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum Macs {
    /// They stay.
    Keep,
    /// The vendor's three bytes stay, the rest is replaced. Locally administered addresses have no vendor.
    KeepVendor,
    /// They are replaced but for the group and local bits.
    #[default]
    Replace,
}

/// Whether a kind of thing is replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Replace {
    /// It stays.
    Keep,
    /// It is replaced.
    #[default]
    Replace,
}

/// Everything that may be chosen about anonymising. The default replaces everything; a TOML file may say otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// IP addresses, wherever they stand: headers, ARP, NDP, DNS, DHCP, quoted packets.
    pub addresses: Replace,
    /// MAC addresses.
    pub macs: Macs,
    /// Names of hosts: DNS, HTTP, TLS.
    pub names: Replace,
    /// Top-level domains stay as they are, where they are well-known ones.
    pub keep_tld: bool,
    /// HTTP: targets, cookies, authorisation, and all header values that are not made of the protocol's own words.
    pub http: Replace,
    /// HTTP headers whose values stay as they are, in lower case.
    pub keep_headers: Vec<String>,
    /// Payload of unknown protocols, bodies, certificates.
    pub payload: Payload,
    /// Chooses among the random bytes of one key.
    pub seed: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            addresses: Replace::default(),
            macs: Macs::default(),
            names: Replace::default(),
            keep_tld: true,
            http: Replace::default(),
            keep_headers: Vec::new(),
            payload: Payload::default(),
            seed: 0,
        }
    }
}

impl FromStr for Policy {
    type Err = toml::de::Error;

    /// Reads a policy file.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut policy: Self = toml::from_str(text)?;
        policy.keep_headers.iter_mut().for_each(|name| name.make_ascii_lowercase());
        Ok(policy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_what_differs_from_the_default() {
        let policy: Policy =
            "payload = \"random\"\nmacs = \"keep-vendor\"\nkeep_headers = [\"User-Agent\"]".parse().unwrap();
        assert_eq!((policy.payload, policy.macs), (Payload::Random, Macs::KeepVendor));
        assert_eq!(policy.keep_headers, ["user-agent"]);
        assert_eq!(policy.addresses, Replace::Replace);
        assert!("payloads = \"zero\"".parse::<Policy>().unwrap_err().message().contains("unknown field `payloads`"));
        assert_eq!("".parse::<Policy>().unwrap(), Policy::default());
    }
}

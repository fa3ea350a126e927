//! An interface's offloads and statistics, by ethtool's ioctl.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

const SIOCETHTOOL: libc::Ioctl = 0x8946;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSTATS: u32 = 0x1d;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETHTOOL_SFEATURES: u32 = 0x3b;
const ETH_GSTRING_LEN: usize = 32;
/// 32-bit words that an ethtool reply may have beyond its expected length. The kernel writes as many strings or
/// statistics as the interface has at that moment, whatever length was asked for; should their number grow between the
/// question for it and the request, the reply still fits: this is room for 2048 more strings.
const ETHTOOL_SLACK: usize = 2048 * ETH_GSTRING_LEN / 4;

/// A set of names that an interface has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EthtoolStrings {
    /// `ETH_SS_STATS`: the driver's statistics.
    Statistics = 1,
    /// `ETH_SS_FEATURES`: the kernel's device features, in the order of their bits.
    Features = 4,
}

/// One ethtool request in `words` (`include/uapi/linux/ethtool.h`), answered in place.
///
/// # Safety
/// `words` must be as long as the kernel may write for this command.
unsafe fn ethtool(socket: BorrowedFd<'_>, interface: &str, words: &mut [u32]) -> io::Result<()> {
    #[repr(C)]
    struct Request {
        name: [u8; libc::IFNAMSIZ],
        data: *mut u32,
        rest: [u8; 16],
    }
    let mut request = Request { name: [0; libc::IFNAMSIZ], data: words.as_mut_ptr(), rest: [0; 16] };
    let name = request.name.get_mut(..interface.len()).filter(|name| name.len() < libc::IFNAMSIZ);
    name.ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(interface.as_bytes());
    // SAFETY: `request` is at least as long as a `struct ifreq`; its data is as long as the caller promises.
    match unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, std::ptr::from_mut(&mut request)) } {
        ..0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// How many names of a set an interface has.
fn ethtool_count(socket: BorrowedFd<'_>, interface: &str, set: EthtoolStrings) -> io::Result<usize> {
    // struct ethtool_sset_info: command, reserved, 64-bit mask of sets, one count per set in the mask.
    let mask = 1_u64 << set as u32;
    let mut words = [ETHTOOL_GSSET_INFO, 0, 0, 0, 0];
    words[2..4].copy_from_slice(&[mask as u32, (mask >> 32) as u32]);
    if cfg!(target_endian = "big") {
        words.swap(2, 3);
    }
    // SAFETY: the mask has one bit, so one count is written.
    unsafe { ethtool(socket, interface, &mut words)? };
    // The kernel clears the mask's bit where the interface has no such set.
    Ok(if words[2] | words[3] == 0 { 0 } else { words[4] as usize })
}

/// The names of a set, in the kernel's order. `socket` may be of any family: its network namespace counts.
///
/// # Errors
/// `ENODEV` where there is no such interface, `EPERM`.
pub fn ethtool_strings(socket: BorrowedFd<'_>, interface: &str, set: EthtoolStrings) -> io::Result<Vec<String>> {
    let count = ethtool_count(socket, interface, set)?;
    if count == 0 {
        return Ok(Vec::new());
    }
    // struct ethtool_gstrings: command, set, length, then 32 bytes a string.
    let mut words = vec![0; 3 + count * ETH_GSTRING_LEN / 4 + ETHTOOL_SLACK];
    words[..3].copy_from_slice(&[ETHTOOL_GSTRINGS, set as u32, u32::try_from(count).unwrap_or(u32::MAX)]);
    // SAFETY: room for the strings there are, and for many more.
    unsafe { ethtool(socket, interface, &mut words)? };
    let text = |string: &[u32]| {
        let bytes: Vec<u8> = string.iter().flat_map(|word| word.to_ne_bytes()).take_while(|byte| *byte != 0).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let count = count.min(words[2] as usize);
    Ok(words[3..].chunks_exact(ETH_GSTRING_LEN / 4).take(count).map(text).collect())
}

/// The driver's statistics, in the order of [`EthtoolStrings::Statistics`].
///
/// # Errors
/// `ENODEV` where there is no such interface.
pub fn ethtool_statistics(socket: BorrowedFd<'_>, interface: &str) -> io::Result<Vec<u64>> {
    let count = ethtool_count(socket, interface, EthtoolStrings::Statistics)?;
    if count == 0 {
        return Ok(Vec::new());
    }
    // struct ethtool_stats: command, count, then 64 bits a statistic.
    let mut words = vec![0; 2 + count * 2 + ETHTOOL_SLACK];
    words[..2].copy_from_slice(&[ETHTOOL_GSTATS, u32::try_from(count).unwrap_or(u32::MAX)]);
    // SAFETY: room for the statistics there are, and for many more.
    unsafe { ethtool(socket, interface, &mut words)? };
    let count = count.min(words[1] as usize);
    let value = |pair: &[u32]| {
        let [a, b, c, d] = pair[0].to_ne_bytes();
        let [e, f, g, h] = pair[1].to_ne_bytes();
        u64::from_ne_bytes([a, b, c, d, e, f, g, h])
    };
    Ok(words[2..].chunks_exact(2).take(count).map(value).collect())
}

/// The state of an interface's features, by bit number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EthtoolFeatures {
    /// Four words for each 32 bits: available, requested, active, never changed.
    blocks: Vec<[u32; 4]>,
}

impl EthtoolFeatures {
    fn bit(&self, bit: usize, word: usize) -> bool {
        self.blocks.get(bit / 32).is_some_and(|block| block[word] >> (bit % 32) & 1 == 1)
    }

    /// Whether the feature is on.
    #[must_use]
    pub fn active(&self, bit: usize) -> bool {
        self.bit(bit, 2)
    }

    /// Whether it can be turned on and off.
    #[must_use]
    pub fn changeable(&self, bit: usize) -> bool {
        self.bit(bit, 0) && !self.bit(bit, 3)
    }
}

/// The state of an interface's first `count` features.
///
/// # Errors
/// `ENODEV` where there is no such interface.
pub fn ethtool_features(socket: BorrowedFd<'_>, interface: &str, count: usize) -> io::Result<EthtoolFeatures> {
    let blocks = count.div_ceil(32);
    // struct ethtool_gfeatures: command, number of blocks, then four words a block.
    let mut words = vec![0; 2 + blocks * 4];
    words[..2].copy_from_slice(&[ETHTOOL_GFEATURES, u32::try_from(blocks).map_err(|_| io::ErrorKind::InvalidInput)?]);
    // SAFETY: the kernel writes no more blocks than the request says.
    unsafe { ethtool(socket, interface, &mut words)? };
    Ok(EthtoolFeatures { blocks: words[2..].chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]).collect() })
}

/// Turns features on and off, by bit number, of the `count` that the kernel has.
///
/// # Errors
/// `EPERM`, `ENODEV`, `EINVAL` where `count` is not the kernel's. A driver may refuse or add changes without an error:
/// read them back.
pub fn set_ethtool_features(
    socket: BorrowedFd<'_>,
    interface: &str,
    count: usize,
    changes: &[(usize, bool)],
) -> io::Result<()> {
    let blocks = count.div_ceil(32);
    // struct ethtool_sfeatures: command, number of blocks, then two words a block: valid, requested.
    let mut words = vec![0; 2 + blocks * 2];
    words[..2].copy_from_slice(&[ETHTOOL_SFEATURES, u32::try_from(blocks).map_err(|_| io::ErrorKind::InvalidInput)?]);
    for &(bit, on) in changes.iter().filter(|(bit, _)| *bit < count) {
        let block = 2 + bit / 32 * 2;
        words[block] |= 1 << (bit % 32);
        words[block + 1] |= u32::from(on) << (bit % 32);
    }
    // SAFETY: the kernel only reads this request.
    unsafe { ethtool(socket, interface, &mut words) }
}

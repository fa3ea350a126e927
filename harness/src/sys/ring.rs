//! Packets as they pass an interface, by a packet socket's ring in shared memory (packet(7), `TPACKET_V3`).

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use super::check;

/// Bytes of a block, which the kernel fills with packets and hands over as a whole.
const BLOCK: usize = 1 << 20;
/// Blocks of a ring.
const BLOCKS: usize = 16;
/// A block that is not full is handed over after so many ms.
const RETIRE_MS: u32 = 10;

/// A packet in the ring.
#[derive(Clone, Copy, Debug)]
pub struct RingPacket<'a> {
    /// Kernel time, ns since the UNIX epoch.
    pub time_ns: u64,
    /// Bytes on the wire, without a tag that the kernel took out.
    pub wire_len: u32,
    /// The frame, from its Ethernet header on.
    pub data: &'a [u8],
    /// Whether it leaves by the interface.
    pub outgoing: bool,
    /// The VLAN tag that the kernel took out of it: Ethertype, then tag, in network byte order.
    pub vlan: Option<[u8; 4]>,
}

/// A packet socket that sees every frame of one interface, both ways, with a ring of 16 MiB.
#[derive(Debug)]
pub struct PacketRing {
    socket: OwnedFd,
    map: *mut u8,
    /// The block that the kernel hands over next.
    next: usize,
}

// SAFETY: the memory belongs to the value alone, and no method needs a certain thread.
unsafe impl Send for PacketRing {}

impl PacketRing {
    /// Opens a ring on interface `ifindex` of the calling thread's network namespace. It sees what passes from then on:
    /// frames that XDP has let in, before tc; frames that leave after tc and the queueing discipline.
    ///
    /// # Errors
    /// `EPERM` without `CAP_NET_RAW`, `ENODEV`, `ENOMEM`.
    pub fn open(ifindex: u32) -> io::Result<Self> {
        // SAFETY: a plain system call; protocol 0 lets nothing in before the ring is there.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        check(fd)?;
        // SAFETY: the descriptor was just returned and belongs to nobody else.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let version = libc::tpacket_versions::TPACKET_V3 as libc::c_int;
        set(&socket, libc::PACKET_VERSION, &version)?;
        let request = libc::tpacket_req3 {
            tp_block_size: BLOCK as u32,
            tp_block_nr: BLOCKS as u32,
            // Only its product with the number of frames counts in this version.
            tp_frame_size: BLOCK as u32,
            tp_frame_nr: BLOCKS as u32,
            tp_retire_blk_tov: RETIRE_MS,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        };
        set(&socket, libc::PACKET_RX_RING, &request)?;
        // SAFETY: a new mapping of the ring's whole size, which nothing else refers to.
        let map = unsafe {
            let (access, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
            libc::mmap(std::ptr::null_mut(), BLOCK * BLOCKS, access, shared, socket.as_raw_fd(), 0)
        };
        if map == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let ring = Self { socket, map: map.cast(), next: 0 };
        // SAFETY: all-zero is a valid `sockaddr_ll`.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET.cast_unsigned() as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = ifindex.cast_signed();
        // SAFETY: the address is valid for its stated size.
        check(unsafe {
            let size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            libc::bind(fd, std::ptr::from_ref(&address).cast(), size)
        })?;
        Ok(ring)
    }

    /// Hands over the packets of all blocks that the kernel has filled, and gives the blocks back.
    pub fn read(&mut self, take: &mut dyn FnMut(RingPacket<'_>)) {
        for _ in 0..BLOCKS {
            let start = self.next * BLOCK;
            // SAFETY: within the mapping, which lives as long as the value; the status is a word that the kernel changes
            // too, hence atomic.
            let status = unsafe {
                let offset = std::mem::offset_of!(libc::tpacket_block_desc, hdr);
                AtomicU32::from_ptr(self.map.add(start + offset).cast())
            };
            if status.load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
                return;
            }
            // SAFETY: within the mapping; the kernel leaves a block alone that it has handed over.
            let block = unsafe { std::slice::from_raw_parts(self.map.add(start), BLOCK) };
            packets(block, take);
            status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
            self.next = (self.next + 1) % BLOCKS;
        }
    }

    /// Packets that were to go into the ring since the last call, and how many of them found no room.
    ///
    /// # Errors
    /// None is known.
    pub fn statistics(&self) -> io::Result<(u64, u64)> {
        let mut found = libc::tpacket_stats_v3 { tp_packets: 0, tp_drops: 0, tp_freeze_q_cnt: 0 };
        let mut size = size_of::<libc::tpacket_stats_v3>() as libc::socklen_t;
        // SAFETY: the result is valid for writes of the stated size.
        check(unsafe {
            let value = std::ptr::from_mut(&mut found).cast();
            libc::getsockopt(self.socket.as_raw_fd(), libc::SOL_PACKET, libc::PACKET_STATISTICS, value, &raw mut size)
        })?;
        Ok((found.tp_packets.into(), found.tp_drops.into()))
    }
}

impl AsFd for PacketRing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for PacketRing {
    fn drop(&mut self) {
        // SAFETY: the mapping that was made, with its size; nothing refers to it any more.
        unsafe { libc::munmap(self.map.cast(), BLOCK * BLOCKS) };
    }
}

fn set<T>(socket: &OwnedFd, option: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: the value is valid for its size.
    check(unsafe {
        let size = size_of::<T>() as libc::socklen_t;
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, option, std::ptr::from_ref(value).cast(), size)
    })
}

/// The packets of a block, as far as its own numbers stay within it.
fn packets(block: &[u8], take: &mut dyn FnMut(RingPacket<'_>)) {
    let header = std::mem::offset_of!(libc::tpacket_block_desc, hdr);
    let field = |offset: usize| word(block, header + offset);
    let count = field(std::mem::offset_of!(libc::tpacket_hdr_v1, num_pkts)).unwrap_or(0);
    let mut at = field(std::mem::offset_of!(libc::tpacket_hdr_v1, offset_to_first_pkt)).unwrap_or(0) as usize;
    for _ in 0..count {
        let Some(packet) = packet(block, at) else { return };
        take(packet);
        match word(block, at + std::mem::offset_of!(libc::tpacket3_hdr, tp_next_offset)) {
            Some(next @ 1..) => at += next as usize,
            _ => return,
        }
    }
}

/// The packet whose `struct tpacket3_hdr` is at `at`; the socket's address follows (`TPACKET3_HDRLEN`).
fn packet(block: &[u8], at: usize) -> Option<RingPacket<'_>> {
    use std::mem::offset_of;
    type Header = libc::tpacket3_hdr;
    let field = |offset: usize| word(block, at + offset);
    let short = |offset: usize| Some(u16::from_ne_bytes(block.get(at + offset..at + offset + 2)?.try_into().ok()?));
    let status = field(offset_of!(Header, tp_status))?;
    let mac = at + usize::from(short(offset_of!(Header, tp_mac))?);
    let data = block.get(mac..mac + field(offset_of!(Header, tp_snaplen))? as usize)?;
    let seconds = u64::from(field(offset_of!(Header, tp_sec))?);
    let address = at + size_of::<Header>().next_multiple_of(libc::TPACKET_ALIGNMENT);
    let kind = *block.get(address + offset_of!(libc::sockaddr_ll, sll_pkttype))?;
    // `struct tpacket_hdr_variant1`: hash, tag, Ethertype.
    let variant = offset_of!(Header, hv1);
    let vlan = (status & libc::TP_STATUS_VLAN_VALID != 0).then(|| {
        let known = status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
        let kind = short(variant + 8).filter(|_| known).unwrap_or(0x8100).to_be_bytes();
        let tag = (field(variant + 4).unwrap_or(0) as u16).to_be_bytes();
        [kind[0], kind[1], tag[0], tag[1]]
    });
    Some(RingPacket {
        time_ns: seconds * 1_000_000_000 + u64::from(field(offset_of!(Header, tp_nsec))?),
        wire_len: field(offset_of!(Header, tp_len))?,
        data,
        outgoing: kind == libc::PACKET_OUTGOING,
        vlan,
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_that_makes_no_sense_is_no_panic() {
        let mut block = vec![0xff_u8; 4096];
        packets(&block, &mut |_| ());
        for at in 0..64 {
            block[at] = 0;
            packets(&block, &mut |_| ());
            packets(&block[..at], &mut |_| ());
        }
    }

    #[test]
    fn an_interface_that_is_down_shows_nothing() {
        std::thread::spawn(|| {
            super::super::unshare_network().unwrap();
            let mut ring = PacketRing::open(1).unwrap();
            let mut seen = 0;
            ring.read(&mut |_| seen += 1);
            assert_eq!((seen, ring.statistics().unwrap()), (0, (0, 0)));
        })
        .join()
        .unwrap();
    }
}

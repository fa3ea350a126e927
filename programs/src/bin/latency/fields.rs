//! Fields of the kernel's structs.

use aya_ebpf::helpers::bpf_probe_read_kernel;

/// Inode numbers of namespaces are above this (`PROC_DYNAMIC_FIRST` and the fixed ones just below it).
const LOWEST_INUM: u32 = 0xe000_0000;

/// One offset of the running kernel. Read alone: a copy of the whole layout would fill a quarter of the stack.
macro_rules! offset {
    ($field:ident) => {
        // SAFETY: the global holds a layout, which userspace sets before the program is loaded; the read is volatile, so
        // that the compiler does not take the initial value for the final one.
        unsafe { core::ptr::read_volatile(&raw const (*(&raw const crate::LAYOUT).cast::<crate::Layout>()).$field) }
    };
}
pub(crate) use offset;

/// Reads a field of a struct behind `base`; zero if that address cannot be read.
///
/// The verifier lets a typed pointer move by a small offset only, and may know the offset merely as some 32-bit number;
/// no field used here lies beyond a page of the start.
#[inline(always)]
pub fn field<T: Copy + Default>(base: *const u8, offset: u32) -> T {
    at(base.wrapping_add((offset & 0xfff) as usize))
}

/// Reads kernel memory; zero if that address cannot be read.
#[inline(always)]
pub fn at<T: Copy + Default>(address: *const u8) -> T {
    // SAFETY: the helper checks the address and fails on a bad one.
    unsafe { bpf_probe_read_kernel(address.cast::<T>()) }.unwrap_or_default()
}

/// Inode number of the namespace of the interface that a packet is at; 0 if it cannot be told.
#[inline(always)]
pub fn netns_of_packet(skb: *const u8) -> u32 {
    let device: usize = field(skb, offset!(skb_dev));
    if device == 0 {
        return 0;
    }
    inum(at((device as *const u8).wrapping_add(offset!(dev_net) as usize)))
}

/// Inode number of a socket's namespace; 0 if it cannot be told.
#[inline(always)]
pub fn netns_of_socket(sk: *const u8) -> u32 {
    inum(field(sk, offset!(sock_net)))
}

#[inline(always)]
fn inum(net: usize) -> u32 {
    if net == 0 {
        return 0;
    }
    let inum: u32 = at((net as *const u8).wrapping_add(offset!(net_inum) as usize));
    if inum >= LOWEST_INUM { inum } else { 0 }
}

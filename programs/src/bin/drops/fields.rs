//! Fields of the kernel's structs, and the namespace that they lead to.

use core::mem::MaybeUninit;

use aya_ebpf::helpers::generated;
use bpflab_programs::drops::Layout;

/// Inode numbers of namespaces are above this (`PROC_DYNAMIC_FIRST` and the fixed ones just below it). `skb->dev`
/// shares its place with other data while a packet is queued in a socket; what that leads to is told by this.
const LOWEST_INUM: u32 = 0xe000_0000;

/// Reads a field of a struct behind `base`; zero if that address cannot be read.
///
/// The verifier lets a typed pointer move by a small offset only, and may know the offset merely as some 32-bit
/// number; no field used here lies beyond a page of the start.
#[inline(always)]
pub fn field<T: Copy + Default>(base: *const u8, offset: u32) -> T {
    at(base.wrapping_add((offset & 0xfff) as usize))
}

/// Reads kernel memory; zero if that address cannot be read.
///
/// Without a look at the helper's result, which would double the verifier's paths for each field: where the helper
/// fails, it fills the destination with zeros (`bpf_probe_read_kernel_common`, kernel/trace/bpf_trace.c).
#[inline(always)]
pub fn at<T: Copy + Default>(address: *const u8) -> T {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: room for a `T`, which is an integer here, and is written in any case; the helper checks the address.
    unsafe {
        generated::bpf_probe_read_kernel(value.as_mut_ptr().cast(), size_of::<T>() as u32, address.cast());
        value.assume_init()
    }
}

/// Inode number of the namespace that dropped the packet; 0 if it cannot be told.
///
/// The receiving socket is certain. `skb->dev` is absent in TCP and overwritten in queues of sockets; then the owning
/// socket (of a packet under way out), then the device of its route tell.
#[inline(always)]
pub fn netns(skb: *const u8, rx_sk: *const u8, layout: &Layout) -> u32 {
    let of_socket = |sk: *const u8| inum(field(sk, layout.sock_net), layout);
    let of_device = |dev: *const u8| inum(at(dev.wrapping_add(layout.dev_net as usize)), layout);
    if !rx_sk.is_null() {
        let found = of_socket(rx_sk);
        if found != 0 {
            return found;
        }
    }
    let found = of_device(pointer(field(skb, layout.skb_dev)));
    if found != 0 {
        return found;
    }
    let found = of_socket(pointer(field(skb, layout.skb_sk)));
    if found != 0 {
        return found;
    }
    // The lowest bit says that the route is not counted as a reference (SKB_DST_NOREF).
    let dst = pointer(field::<usize>(skb, layout.skb_dst) & !1);
    of_device(pointer(at(dst.wrapping_add(layout.dst_dev as usize))))
}

#[inline(always)]
pub fn pointer(address: usize) -> *const u8 {
    address as *const u8
}

#[inline(always)]
pub fn inum(net: usize, layout: &Layout) -> u32 {
    if net == 0 {
        return 0;
    }
    let inum: u32 = at(pointer(net).wrapping_add(layout.net_inum as usize));
    if inum >= LOWEST_INUM { inum } else { 0 }
}

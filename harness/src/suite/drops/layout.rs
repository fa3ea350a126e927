//! Where the fields that the object reads are.

use bpflab_programs::drops::Layout;

use crate::kernel::btf::{Btf, BtfError};

/// Where the fields that the object reads are in this kernel.
pub(super) fn layout(btf: &Btf) -> Result<Layout, BtfError> {
    let (skb_vlan_present, vlan_present_mask) = vlan_present(btf)?;
    Ok(Layout {
        skb_head: btf.offset("sk_buff.head")?,
        skb_data: btf.offset("sk_buff.data")?,
        skb_tail: btf.offset("sk_buff.tail")?,
        skb_len: btf.offset("sk_buff.len")?,
        skb_dev: btf.offset("sk_buff.dev")?,
        skb_sk: btf.offset("sk_buff.sk")?,
        skb_dst: btf.offset("sk_buff._skb_refdst")?,
        skb_mac_header: btf.offset("sk_buff.mac_header")?,
        skb_network_header: btf.offset("sk_buff.network_header")?,
        skb_protocol: btf.offset("sk_buff.protocol")?,
        skb_vlan_tci: btf.offset("sk_buff.vlan_tci")?,
        skb_vlan_present,
        vlan_present_mask,
        dev_net: btf.offset("net_device.nd_net.net")?,
        dev_ifindex: btf.offset("net_device.ifindex")?,
        sock_net: btf.offset("sock.__sk_common.skc_net.net")?,
        dst_dev: btf.offset("dst_entry.dev")?,
        net_inum: btf.offset("net.ns.inum")?,
    })
}

/// What says that a packet has a VLAN tag beside its data: offset of a 32-bit word and the bits that count.
///
/// `sk_buff.vlan_all` is not zero then; kernels before 6.3 have the bit `vlan_present` instead, whose mask is only
/// certain where the first bit of a byte is the lowest.
pub(in crate::suite) fn vlan_present(btf: &Btf) -> Result<(u32, u32), BtfError> {
    if btf.has_field("sk_buff.vlan_all") {
        return Ok((btf.offset("sk_buff.vlan_all")?, u32::MAX));
    }
    match btf.field("sk_buff.vlan_present") {
        Ok(field) if cfg!(target_endian = "little") => Ok((field.bit_offset / 8, 1 << (field.bit_offset % 8))),
        _ => Ok((0, 0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_fits_the_objects_limits() {
        let layout = layout(Btf::kernel().unwrap()).unwrap();
        // The object masks these with 0xfff.
        for offset in [layout.skb_head, layout.skb_tail, layout.skb_vlan_present, layout.sock_net] {
            assert!(offset < 4096, "{layout:?}");
        }
        assert!(layout.vlan_present_mask != 0);
    }
}

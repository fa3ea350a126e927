// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/* Programs that end packets in every way in which programs can, one way each. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

/* No machine that runs tests has so many interfaces. */
#define NOWHERE 9999

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u32);
} ports SEC(".maps");

SEC("xdp")
int xdp_drop(struct xdp_md *ctx)
{
	return XDP_DROP;
}

SEC("xdp")
int xdp_aborted(struct xdp_md *ctx)
{
	return XDP_ABORTED;
}

SEC("xdp")
int xdp_unknown(struct xdp_md *ctx)
{
	return 77;
}

SEC("xdp")
int xdp_back(struct xdp_md *ctx)
{
	return XDP_TX;
}

SEC("xdp")
int xdp_nowhere(struct xdp_md *ctx)
{
	return bpf_redirect(NOWHERE, 0);
}

/* The map is empty, so the helper gives back the verdict in its flags. */
SEC("xdp")
int xdp_empty_map(struct xdp_md *ctx)
{
	return bpf_redirect_map(&ports, 0, XDP_DROP);
}

SEC("tc")
int tc_shot(struct __sk_buff *skb)
{
	return TC_ACT_SHOT;
}

SEC("tc")
int tc_stolen(struct __sk_buff *skb)
{
	return TC_ACT_STOLEN;
}

SEC("tc")
int tc_nowhere(struct __sk_buff *skb)
{
	return bpf_redirect(NOWHERE, 0);
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";

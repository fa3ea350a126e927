// SPDX-License-Identifier: GPL-2.0-only OR MIT OR Apache-2.0
/*
 * One program for each kind of hook, each of which counts the packets that it
 * meets there. Tracepoints and functions see the traffic of the whole machine:
 * what is counted is a packet of one length in one network namespace.
 */
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <linux/types.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#define ETHERNET 14
/* Length of the IP packet, bytes. */
#define LENGTH 763

enum hook {
	HOOK_XDP,
	HOOK_TCX_INGRESS,
	HOOK_TC_INGRESS,
	HOOK_SOCKET_FILTER,
	HOOK_TRACEPOINT,
	HOOK_RAW_TRACEPOINT,
	HOOK_TP_BTF,
	HOOK_SK_LOOKUP,
	HOOK_CGROUP,
	HOOK_KPROBE,
	HOOK_KRETPROBE,
	HOOK_FENTRY,
	HOOK_FEXIT,
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 32);
	__type(key, enum hook);
	__type(value, __u64);
} met SEC(".maps");

/* Network namespaces whose packets count, by inode number. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8);
	__type(key, __u32);
	__type(value, __u32);
} namespaces SEC(".maps");

/* The parts of the kernel's structs that are read; CO-RE finds where they are. */
struct ns_common {
	unsigned int inum;
} __attribute__((preserve_access_index));

struct net {
	struct ns_common ns;
} __attribute__((preserve_access_index));

typedef struct {
	struct net *net;
} possible_net_t;

struct net_device {
	possible_net_t nd_net;
} __attribute__((preserve_access_index));

struct sk_buff {
	unsigned int len;
	struct net_device *dev;
} __attribute__((preserve_access_index));

static __always_inline void meet(enum hook hook)
{
	__u64 one = 1, *count = bpf_map_lookup_elem(&met, &hook);

	if (count)
		__sync_fetch_and_add(count, 1);
	else
		bpf_map_update_elem(&met, &hook, &one, BPF_ANY);
}

static __always_inline int is_ours(struct sk_buff *skb)
{
	__u32 inum = BPF_CORE_READ(skb, dev, nd_net.net, ns.inum);

	return BPF_CORE_READ(skb, len) == LENGTH &&
	       bpf_map_lookup_elem(&namespaces, &inum);
}

SEC("xdp")
int at_xdp(struct xdp_md *ctx)
{
	if (ctx->data_end - ctx->data == ETHERNET + LENGTH)
		meet(HOOK_XDP);
	return XDP_PASS;
}

SEC("tcx/ingress")
int at_tcx(struct __sk_buff *skb)
{
	if (skb->len == ETHERNET + LENGTH)
		meet(HOOK_TCX_INGRESS);
	return -1; /* the next program decides */
}

SEC("tc")
int at_tc(struct __sk_buff *skb)
{
	if (skb->len == ETHERNET + LENGTH)
		meet(HOOK_TC_INGRESS);
	return 0; /* TC_ACT_OK */
}

SEC("socket")
int at_socket(struct __sk_buff *skb)
{
	if (skb->len == ETHERNET + LENGTH)
		meet(HOOK_SOCKET_FILTER);
	return 0; /* nothing is kept */
}

/* As events/net/netif_receive_skb/format has it. */
struct receive {
	__u64 common;
	struct sk_buff *skb;
};

SEC("tracepoint/net/netif_receive_skb")
int at_tracepoint(struct receive *event)
{
	if (is_ours(event->skb))
		meet(HOOK_TRACEPOINT);
	return 0;
}

SEC("raw_tracepoint/netif_receive_skb")
int at_raw_tracepoint(struct bpf_raw_tracepoint_args *ctx)
{
	struct sk_buff *skb = (struct sk_buff *)ctx->args[0];

	if (is_ours(skb))
		meet(HOOK_RAW_TRACEPOINT);
	return 0;
}

SEC("tp_btf/netif_receive_skb")
int BPF_PROG(at_tp_btf, struct sk_buff *skb)
{
	if (is_ours(skb))
		meet(HOOK_TP_BTF);
	return 0;
}

SEC("sk_lookup")
int at_sk_lookup(struct bpf_sk_lookup *ctx)
{
	if (ctx->local_port == 5000)
		meet(HOOK_SK_LOOKUP);
	return 1; /* SK_PASS */
}

SEC("cgroup_skb/ingress")
int at_cgroup(struct __sk_buff *skb)
{
	if (skb->len == LENGTH)
		meet(HOOK_CGROUP);
	return 1; /* the packet goes on */
}

SEC("kprobe/ip_rcv_core")
int BPF_KPROBE(at_kprobe, struct sk_buff *skb)
{
	if (is_ours(skb))
		meet(HOOK_KPROBE);
	return 0;
}

SEC("kretprobe/ip_rcv_core")
int BPF_KRETPROBE(at_kretprobe, struct sk_buff *skb)
{
	if (skb && is_ours(skb))
		meet(HOOK_KRETPROBE);
	return 0;
}

SEC("fentry/ip_rcv_core")
int BPF_PROG(at_fentry, struct sk_buff *skb)
{
	if (is_ours(skb))
		meet(HOOK_FENTRY);
	return 0;
}

SEC("fexit/ip_rcv_core")
int BPF_PROG(at_fexit, struct sk_buff *skb)
{
	if (is_ours(skb))
		meet(HOOK_FEXIT);
	return 0;
}

char _license[] SEC("license") = "GPL";

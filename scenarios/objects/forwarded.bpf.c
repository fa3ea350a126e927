// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * Watches a router by a probe at ip_forward(): packets, bytes and sizes of what it forwards, for each device that
 * packets come from and each protocol, in the network namespaces that matter.
 *
 * A function has no stable signature, but struct sk_buff is the only argument of this one, and the kernel calls it by
 * its address, so that no compiler can inline it away. ip_rcv() looks like the better place, and misses the packets
 * that a driver hands over in lists.
 *
 * The kernel's structs are declared with the members that are read and no others; CO-RE finds their places in the
 * running kernel.
 */
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <linux/types.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#define IFNAMSIZ 16
#define SIZES 12 /* powers of two up to 2048, and what is above */

struct ns_common {
	unsigned int inum;
} __attribute__((preserve_access_index));

struct net {
	struct ns_common ns;
} __attribute__((preserve_access_index));

typedef struct {
	struct net *net;
} __attribute__((preserve_access_index)) possible_net_t;

struct net_device {
	char name[IFNAMSIZ];
	possible_net_t nd_net;
} __attribute__((preserve_access_index));

struct sk_buff {
	struct net_device *dev;
	unsigned int len; /* bytes, from the IP header on */
	unsigned char *head;
	__u16 network_header; /* where the IP header begins, from head on */
} __attribute__((preserve_access_index));

struct key {
	char device[IFNAMSIZ];
	__u8 protocol; /* IPPROTO_* */
	__u8 unused[3];
};

struct forwarded {
	__u64 packets;
	__u64 bytes;
	__u32 smallest;
	__u32 largest;
	__u32 sizes[SIZES]; /* packets of 2^n to 2^(n+1) - 1 bytes */
};

/* Inode numbers of network namespaces (`stat -Lc %i /proc/PID/ns/net`). */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __u8);
} namespaces SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, struct key);
	__type(value, struct forwarded);
} forwarded SEC(".maps");

static __always_inline __u32 power_of(__u32 len)
{
	__u32 power = 0;

#pragma unroll
	for (int bit = 1; bit < SIZES; bit++)
		power += len >> bit != 0;
	return power;
}

SEC("kprobe/ip_forward")
int BPF_KPROBE(forward, struct sk_buff *skb)
{
	__u32 inode = BPF_CORE_READ(skb, dev, nd_net.net, ns.inum);
	struct forwarded *seen, zero = { .smallest = ~0U };
	struct key key = {};
	unsigned char *ip;
	__u32 len;

	if (!bpf_map_lookup_elem(&namespaces, &inode))
		return 0;
	ip = BPF_CORE_READ(skb, head) + BPF_CORE_READ(skb, network_header);
	/* The protocol is the tenth byte of an IPv4 header (RFC 791). */
	if (bpf_probe_read_kernel(&key.protocol, sizeof(key.protocol), ip + 9))
		return 0;
	BPF_CORE_READ_STR_INTO(&key.device, skb, dev, name);
	seen = bpf_map_lookup_elem(&forwarded, &key);
	if (!seen) {
		bpf_map_update_elem(&forwarded, &key, &zero, BPF_NOEXIST);
		seen = bpf_map_lookup_elem(&forwarded, &key);
		if (!seen)
			return 0;
	}
	len = BPF_CORE_READ(skb, len);
	__sync_fetch_and_add(&seen->packets, 1);
	__sync_fetch_and_add(&seen->bytes, len);
	__sync_fetch_and_add(&seen->sizes[power_of(len)], 1);
	/* Of two CPUs at once one may be forgotten: that costs no more than a bound that is a little off. */
	if (len < seen->smallest)
		seen->smallest = len;
	if (len > seen->largest)
		seen->largest = len;
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";

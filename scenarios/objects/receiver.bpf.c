// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * Follows what network devices hand to the stack: a tracepoint, a counter for each device, an event for each packet.
 *
 * A tracepoint sees all packets of the machine, whatever network namespace they are in. `namespaces` names those that
 * matter.
 *
 * The kernel's own structs are declared here with the members that are read and no others; CO-RE finds their places in
 * the running kernel.
 */
#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#define IFNAMSIZ 16

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
	int ifindex;
	possible_net_t nd_net;
} __attribute__((preserve_access_index));

struct sk_buff {
	struct net_device *dev;
} __attribute__((preserve_access_index));

/* The arguments of net:netif_receive_skb and its like. */
struct trace_event_raw_net_dev_template {
	void *skbaddr;
	unsigned int len; /* without the Ethernet header */
} __attribute__((preserve_access_index));

struct received {
	__u64 time_ns; /* bpf_ktime_get_ns() */
	__u32 ifindex;
	__u32 len; /* bytes, without the Ethernet header */
	char device[IFNAMSIZ];
};

struct device {
	char name[IFNAMSIZ];
};

struct totals {
	__u64 packets;
	__u64 bytes;
};

/* Inode numbers of network namespaces (`stat -Lc %i /proc/PID/ns/net`). */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __u8);
} namespaces SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 64);
	__type(key, struct device);
	__type(value, struct totals);
} devices SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 * 1024);
} events SEC(".maps");

/* Events that the ring had no room for. */
__u64 lost;

/* A ring's definition does not say what is in it; this keeps the type in the object, for whoever reads the ring. */
const struct received *unused __attribute__((unused));

static __always_inline void count(const struct received *seen)
{
	struct totals *totals, zero = {};
	struct device key;

	__builtin_memcpy(key.name, seen->device, sizeof(key.name));
	totals = bpf_map_lookup_elem(&devices, &key);
	if (!totals) {
		bpf_map_update_elem(&devices, &key, &zero, BPF_NOEXIST);
		totals = bpf_map_lookup_elem(&devices, &key);
		if (!totals)
			return;
	}
	totals->packets++;
	totals->bytes += seen->len;
}

SEC("tracepoint/net/netif_receive_skb")
int receive(struct trace_event_raw_net_dev_template *ctx)
{
	struct sk_buff *skb = ctx->skbaddr;
	struct net_device *dev = BPF_CORE_READ(skb, dev);
	__u32 inode = BPF_CORE_READ(dev, nd_net.net, ns.inum);
	struct received *seen;

	if (!bpf_map_lookup_elem(&namespaces, &inode))
		return 0;
	seen = bpf_ringbuf_reserve(&events, sizeof(*seen), 0);
	if (!seen) {
		__sync_fetch_and_add(&lost, 1);
		return 0;
	}
	seen->time_ns = bpf_ktime_get_ns();
	seen->ifindex = BPF_CORE_READ(dev, ifindex);
	seen->len = ctx->len;
	/* A map's key and an event have all their bytes set: no leftovers behind the name. */
	__builtin_memset(seen->device, 0, sizeof(seen->device));
	bpf_core_read_str(seen->device, sizeof(seen->device), &dev->name);
	count(seen);
	bpf_ringbuf_submit(seen, 0);
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";

// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * A load balancer at tc ingress for TCP and UDP over IPv4, without a state for each connection.
 *
 * Packets to a service go to one of its backends, which the flow's addresses and ports choose: all packets of a flow
 * meet the same one, on every machine with the same table. Destination address and MAC address are rewritten, and the
 * checksums follow. On the way back the backend's address is replaced by the service's.
 *
 * A service has a table of `SLOTS` backends. Whoever fills it decides about weights: a backend that stands in two slots
 * has twice the flows of one that stands in one.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define SLOTS 4
#define IP_MORE_OR_OFFSET 0x3fff /* of frag_off: more fragments, and the offset */

/* Other programs at the same hook have their say as well: TC_ACT_OK would end the matter. */
#define PASS TC_ACT_UNSPEC

#define AT_MAC_DESTINATION offsetof(struct ethhdr, h_dest)
#define AT_IP_CHECKSUM (ETH_HLEN + offsetof(struct iphdr, check))
#define AT_IP_SOURCE (ETH_HLEN + offsetof(struct iphdr, saddr))
#define AT_IP_DESTINATION (ETH_HLEN + offsetof(struct iphdr, daddr))

struct endpoint {
	__be32 address;
	__be16 port;
	__u8 protocol; /* IPPROTO_TCP or IPPROTO_UDP */
	__u8 unused;
};

struct backend {
	__be32 address; /* 0 for an empty slot */
	__u8 mac[ETH_ALEN];
	__u16 unused;
	__u64 packets;
};

/* clang leaves out of the object's types what only the inner map's definition mentions; this keeps it in. */
const struct backend *unused __attribute__((unused));

struct slots {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SLOTS);
	__type(key, __u32);
	__type(value, struct backend);
};

/* From a service to its table. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(max_entries, 64);
	__type(key, struct endpoint);
	__array(values, struct slots);
} services SEC(".maps");

/* From a backend to the address of the service that it answers for. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, struct endpoint);
	__type(value, struct { __be32 address; });
} origins SEC(".maps");

/* What happened to packets that are not only passed on. */
struct {
	__u64 to_backends;
	__u64 from_backends;
	__u64 without_backend;
	__u64 fragments;
} totals;

/* A different seed gives a different choice of backends. */
const volatile __u32 seed = 0;

struct flow {
	struct endpoint source;
	struct endpoint destination;
	__u32 l4; /* where TCP or UDP begins */
};

/* The last steps of MurmurHash3: every bit of the result depends on every bit of the word. */
static __always_inline __u32 mix(__u32 hash, __u32 word)
{
	hash ^= word;
	hash ^= hash >> 16;
	hash *= 0x85ebca6b;
	hash ^= hash >> 13;
	hash *= 0xc2b2ae35;
	return hash ^ hash >> 16;
}

/* The same on machines of either byte order. */
static __always_inline __u32 slot_of(const struct flow *flow)
{
	__u32 ports = (__u32)bpf_ntohs(flow->source.port) << 16 | bpf_ntohs(flow->destination.port);
	__u32 hash = mix(seed, bpf_ntohl(flow->source.address));

	hash = mix(hash, bpf_ntohl(flow->destination.address));
	hash = mix(hash, ports);
	return mix(hash, flow->source.protocol) % SLOTS;
}

/* Both ends of a packet; says whether there are any. */
static __always_inline int read_flow(struct __sk_buff *skb, struct flow *flow)
{
	struct iphdr ip;
	__be16 ports[2];

	if (skb->protocol != bpf_htons(ETH_P_IP) || bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
		return 0;
	if (ip.protocol != IPPROTO_TCP && ip.protocol != IPPROTO_UDP)
		return 0;
	/* Only the first fragment has ports, so no fragment can be sent where the others go. */
	if (ip.frag_off & bpf_htons(IP_MORE_OR_OFFSET)) {
		__sync_fetch_and_add(&totals.fragments, 1);
		return 0;
	}
	flow->l4 = ETH_HLEN + ip.ihl * 4;
	if (bpf_skb_load_bytes(skb, flow->l4, ports, sizeof(ports)))
		return 0;
	flow->source.address = ip.saddr;
	flow->source.port = ports[0];
	flow->source.protocol = ip.protocol;
	flow->destination.address = ip.daddr;
	flow->destination.port = ports[1];
	flow->destination.protocol = ip.protocol;
	return 1;
}

/* Replaces an address, in the headers' checksums too. */
static __always_inline int rewrite(struct __sk_buff *skb, const struct flow *flow, __u32 at, __be32 from, __be32 to)
{
	__u64 flags = BPF_F_PSEUDO_HDR | sizeof(to);
	__u32 checksum = flow->l4;

	if (flow->source.protocol == IPPROTO_UDP) {
		checksum += offsetof(struct udphdr, check);
		/* UDP without a checksum has 0 there, and keeps it. */
		flags |= BPF_F_MARK_MANGLED_0;
	} else {
		checksum += offsetof(struct tcphdr, check);
	}
	if (bpf_l4_csum_replace(skb, checksum, from, to, flags))
		return -1;
	if (bpf_l3_csum_replace(skb, AT_IP_CHECKSUM, from, to, sizeof(to)))
		return -1;
	return bpf_skb_store_bytes(skb, at, &to, sizeof(to), 0);
}

SEC("tc")
int balance(struct __sk_buff *skb)
{
	struct flow flow = {};
	struct backend *backend;
	void *slots;
	__u32 slot;

	if (!read_flow(skb, &flow))
		return PASS;
	slots = bpf_map_lookup_elem(&services, &flow.destination);
	if (!slots)
		return PASS;
	slot = slot_of(&flow);
	backend = bpf_map_lookup_elem(slots, &slot);
	if (!backend || !backend->address) {
		__sync_fetch_and_add(&totals.without_backend, 1);
		return TC_ACT_SHOT;
	}
	if (rewrite(skb, &flow, AT_IP_DESTINATION, flow.destination.address, backend->address) ||
	    bpf_skb_store_bytes(skb, AT_MAC_DESTINATION, backend->mac, ETH_ALEN, 0))
		return TC_ACT_SHOT;
	__sync_fetch_and_add(&backend->packets, 1);
	__sync_fetch_and_add(&totals.to_backends, 1);
	return PASS;
}

SEC("tc")
int restore(struct __sk_buff *skb)
{
	struct flow flow = {};
	struct { __be32 address; } *service;

	if (!read_flow(skb, &flow))
		return PASS;
	service = bpf_map_lookup_elem(&origins, &flow.source);
	if (!service)
		return PASS;
	if (rewrite(skb, &flow, AT_IP_SOURCE, flow.source.address, service->address))
		return TC_ACT_SHOT;
	__sync_fetch_and_add(&totals.from_backends, 1);
	return PASS;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";

// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * A stateless packet filter at XDP.
 *
 * The longest prefix that has a packet's source decides, if there is one. Of the other packets, those to a port below
 * `reserved_ports` must go to an open service; everything else passes. ARP and IPv6 neighbour discovery always pass:
 * without them no host reaches another.
 *
 * Maps are filled from user space. Rules and services count what they decided, so that a reader of the maps sees which
 * of them are of use.
 */
#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/icmpv6.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define IP_OFFSET_MASK 0x1fff /* of frag_off: where in the datagram a fragment belongs */
#define NEXTHDR_FRAGMENT 44
#define NDISC_FIRST 133 /* router solicitation */
#define NDISC_LAST 137 /* redirect */

enum action {
	ACTION_NONE,
	ACTION_ALLOW,
	ACTION_DENY,
};

struct rule {
	enum action action;
	__u32 unused; /* no hidden bytes in a map's value */
	__u64 packets;
};

struct prefix4 {
	__u32 prefixlen; /* bits */
	__be32 address;
};

struct prefix6 {
	__u32 prefixlen; /* bits */
	struct in6_addr address;
};

struct service {
	__be16 port;
	__u8 protocol; /* IPPROTO_TCP or IPPROTO_UDP */
	__u8 unused;
};

struct counters {
	__u64 passed;
	__u64 denied_by_prefix;
	__u64 denied_by_port;
	__u64 denied_fragments;
	__u64 malformed;
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix4);
	__type(value, struct rule);
} rules4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix6);
	__type(value, struct rule);
} rules6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, struct service);
	__type(value, __u64); /* packets */
} services SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct counters);
} counters SEC(".maps");

/* Ports below this one are closed unless `services` has them. */
const volatile __u16 reserved_ports = 1024;
/* Fragments behind the first have no ports to look at: whether they pass. */
const volatile bool pass_fragments = true;

struct packet {
	void *transport;
	void *end;
	__u8 protocol;
	bool fragment; /* not the first one */
};

static __always_inline int decide(struct rule *rule, struct packet *packet, struct counters *counts)
{
	struct service service = { .protocol = packet->protocol };
	__be16 *ports = packet->transport;
	__u64 *packets;

	if (rule) {
		__sync_fetch_and_add(&rule->packets, 1);
		if (rule->action == ACTION_DENY) {
			counts->denied_by_prefix++;
			return XDP_DROP;
		}
		if (rule->action == ACTION_ALLOW)
			goto pass;
	}
	if (packet->fragment) {
		if (pass_fragments)
			goto pass;
		counts->denied_fragments++;
		return XDP_DROP;
	}
	if (packet->protocol != IPPROTO_TCP && packet->protocol != IPPROTO_UDP)
		goto pass;
	/* TCP and UDP begin alike: source port, destination port. */
	if ((void *)(ports + 2) > packet->end) {
		counts->malformed++;
		return XDP_DROP;
	}
	service.port = ports[1];
	if (bpf_ntohs(service.port) >= reserved_ports)
		goto pass;
	packets = bpf_map_lookup_elem(&services, &service);
	if (!packets) {
		counts->denied_by_port++;
		return XDP_DROP;
	}
	__sync_fetch_and_add(packets, 1);
pass:
	counts->passed++;
	return XDP_PASS;
}

static __always_inline int filter4(struct iphdr *ip, void *end, struct counters *counts)
{
	struct prefix4 key = { .prefixlen = 32 };
	struct packet packet = { .end = end };

	if ((void *)(ip + 1) > end || ip->ihl < 5) {
		counts->malformed++;
		return XDP_DROP;
	}
	key.address = ip->saddr;
	packet.transport = (void *)ip + ip->ihl * 4;
	packet.protocol = ip->protocol;
	packet.fragment = ip->frag_off & bpf_htons(IP_OFFSET_MASK);
	return decide(bpf_map_lookup_elem(&rules4, &key), &packet, counts);
}

static __always_inline int filter6(struct ipv6hdr *ip, void *end, struct counters *counts)
{
	struct prefix6 key = { .prefixlen = 128 };
	struct icmp6hdr *icmp = (void *)(ip + 1);
	struct packet packet = { .transport = icmp, .end = end };

	if ((void *)(ip + 1) > end) {
		counts->malformed++;
		return XDP_DROP;
	}
	if (ip->nexthdr == IPPROTO_ICMPV6 && (void *)icmp + 4 <= end &&
	    icmp->icmp6_type >= NDISC_FIRST && icmp->icmp6_type <= NDISC_LAST) {
		counts->passed++;
		return XDP_PASS;
	}
	key.address = ip->saddr;
	packet.protocol = ip->nexthdr;
	/* The ports of a first fragment stand behind the fragment header; here no fragment's are looked at. */
	packet.fragment = ip->nexthdr == NEXTHDR_FRAGMENT;
	return decide(bpf_map_lookup_elem(&rules6, &key), &packet, counts);
}

SEC("xdp")
int firewall(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *ethernet = data;
	struct counters *counts;
	__u32 only = 0;

	counts = bpf_map_lookup_elem(&counters, &only);
	if (!counts)
		return XDP_ABORTED;
	if ((void *)(ethernet + 1) > end) {
		counts->malformed++;
		return XDP_DROP;
	}
	switch (ethernet->h_proto) {
	case bpf_htons(ETH_P_IP):
		return filter4((void *)(ethernet + 1), end, counts);
	case bpf_htons(ETH_P_IPV6):
		return filter6((void *)(ethernet + 1), end, counts);
	}
	counts->passed++;
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* A door: UDP datagrams to blocked ports do not pass, everything else does and is counted by its source. */
#include "packet.h"

struct traffic {
	__u64 packets;
	__u64 bytes;
};

/* Blocked ports, and how many datagrams each has turned away. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u16);
	__type(value, __u64);
} blocked SEC(".maps");

/* What passed, by source address in network order. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, __be32);
	__type(value, struct traffic);
} sources SEC(".maps");

static __always_inline int turned_away(struct iphdr *ip, void *end)
{
	struct udphdr *udp = (void *)(ip + 1);

	if (ip->protocol != IPPROTO_UDP || (void *)(udp + 1) > end)
		return 0;
	__u16 port = bpf_ntohs(udp->dest);
	__u64 *count = bpf_map_lookup_elem(&blocked, &port);

	if (!count)
		return 0;
	__sync_fetch_and_add(count, 1);
	return 1;
}

SEC("xdp")
int door(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct iphdr *ip = ipv4(data, end);

	if (!ip)
		return XDP_PASS;
	if (turned_away(ip, end))
		return XDP_DROP;
	struct traffic *known = bpf_map_lookup_elem(&sources, &ip->saddr);

	if (known) {
		__sync_fetch_and_add(&known->packets, 1);
		__sync_fetch_and_add(&known->bytes, end - data);
	} else {
		struct traffic first = { .packets = 1, .bytes = end - data };

		bpf_map_update_elem(&sources, &ip->saddr, &first, BPF_ANY);
	}
	return XDP_PASS;
}

/* Marks a packet with the port that it goes to, where somebody has marked it before. */
SEC("tc")
int relabel(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct iphdr *ip = ipv4(data, end);
	struct udphdr *udp = (void *)(ip + 1);

	if (!ip || ip->protocol != IPPROTO_UDP || (void *)(udp + 1) > end || !skb->mark)
		return -1; /* TC_ACT_UNSPEC */
	skb->mark = bpf_ntohs(udp->dest);
	return 0; /* TC_ACT_OK */
}

/* Lets a control group have UDP alone. */
SEC("cgroup_skb/ingress")
int udp_alone(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct iphdr *ip = data;

	return (void *)(ip + 1) <= end && ip->protocol == IPPROTO_UDP;
}

/* Gives a socket the headers of a packet alone. */
SEC("socket")
int headers(struct __sk_buff *skb)
{
	return skb->len < 28 ? 0 : 28;
}

/* Leaves every packet to nobody. */
SEC("flow_dissector")
int refuse(struct __sk_buff *skb)
{
	return 2; /* BPF_DROP */
}

SEC("tracepoint/syscalls/sys_enter_getpid")
int not_for_packets(void *ctx)
{
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";

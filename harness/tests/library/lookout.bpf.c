/* A lookout: tells of every TCP connection that is opened, and lets everything pass. */
#include "packet.h"

struct opening {
	__be32 from;
	__be32 to;
	__u16 port;
	__u16 number;
};

/* Keeps the type of the events in the object. */
const struct opening *unused __attribute__((unused));

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 65536);
} openings SEC(".maps");

/* Openings by port. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u16);
	__type(value, __u64);
} by_port SEC(".maps");

SEC("classifier")
int lookout(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct iphdr *ip = ipv4(data, end);
	struct tcphdr *tcp = (void *)(ip + 1);

	if (!ip || ip->protocol != IPPROTO_TCP || (void *)(tcp + 1) > end || !tcp->syn || tcp->ack)
		return -1; /* TC_ACT_UNSPEC: the next program decides */
	__u16 port = bpf_ntohs(tcp->dest);
	__u64 one = 1, *count = bpf_map_lookup_elem(&by_port, &port);

	if (count)
		__sync_fetch_and_add(count, 1);
	else
		bpf_map_update_elem(&by_port, &port, &one, BPF_ANY);
	struct opening *event = bpf_ringbuf_reserve(&openings, sizeof(*event), 0);

	if (!event)
		return -1;
	event->from = ip->saddr;
	event->to = ip->daddr;
	event->port = port;
	event->number = count ? *count : 1;
	bpf_ringbuf_submit(event, 0);
	return -1;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";

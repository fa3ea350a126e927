// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * A rate limiter for tc: a token bucket for each IPv4 source address.
 *
 * A bucket holds up to `burst` tokens and begins full; `rate` tokens a second are added. A packet takes one, and is
 * dropped where there is none. With a rate of 0 nothing is ever added: each source may send `burst` packets, which
 * makes a limit that does not depend on time.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define NSEC_PER_SEC 1000000000ULL

struct bucket {
	struct bpf_spin_lock lock; /* of the rest */
	__u32 tokens; /* packets */
	__u64 filled_ns; /* when tokens were last added, bpf_ktime_get_ns() */
	__u64 passed;
	__u64 dropped;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct { __be32 address; });
	__type(value, struct bucket);
} buckets SEC(".maps");

/* Packets of sources for which there is no more room; they pass. */
__u64 untracked;

/* Tokens a second; 0 for none. */
const volatile __u32 rate = 100;
/* Tokens that a bucket holds. */
const volatile __u32 burst = 20;

/* Adds the tokens of the time that went by. What is left of a token's time counts for the next one. */
static __always_inline void fill(struct bucket *bucket, __u64 now)
{
	__u64 elapsed = now - bucket->filled_ns, interval, tokens;

	/* Two CPUs may bring their times in the other order. */
	if (!rate || now <= bucket->filled_ns)
		return;
	interval = NSEC_PER_SEC / rate;
	if (!interval)
		interval = 1;
	tokens = elapsed / interval;
	if (tokens >= burst - bucket->tokens) {
		bucket->tokens = burst;
		bucket->filled_ns = now;
	} else {
		bucket->tokens += tokens;
		bucket->filled_ns += tokens * interval;
	}
}

SEC("tc")
int limit(struct __sk_buff *skb)
{
	struct { __be32 address; } source;
	struct bucket *bucket, fresh = {};
	__u64 now = bpf_ktime_get_ns();
	int verdict = TC_ACT_OK;

	if (skb->protocol != bpf_htons(ETH_P_IP))
		return TC_ACT_OK;
	/* Copied rather than looked at in place, so that it does not matter which part of a packet is in one piece. */
	if (bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct iphdr, saddr), &source, sizeof(source)))
		return TC_ACT_OK;
	bucket = bpf_map_lookup_elem(&buckets, &source);
	if (!bucket) {
		fresh.tokens = burst;
		fresh.filled_ns = now;
		/* Another CPU may have been quicker: then its bucket is the one. */
		bpf_map_update_elem(&buckets, &source, &fresh, BPF_NOEXIST);
		bucket = bpf_map_lookup_elem(&buckets, &source);
		if (!bucket) {
			__sync_fetch_and_add(&untracked, 1);
			return TC_ACT_OK;
		}
	}
	/* No helper may be called, and no path may return, while the lock is held. */
	bpf_spin_lock(&bucket->lock);
	fill(bucket, now);
	if (bucket->tokens) {
		bucket->tokens--;
		bucket->passed++;
	} else {
		bucket->dropped++;
		verdict = TC_ACT_SHOT;
	}
	bpf_spin_unlock(&bucket->lock);
	return verdict;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";

// What compilers make of C: programs that are loaded plain and with probes, and must do the same.
// Needs no headers; numbers are those of include/uapi/linux/bpf.h.

typedef unsigned int u32;
typedef unsigned long long u64;

#define SEC(name) __attribute__((section(name), used))
#define NOINLINE __attribute__((noinline))

struct xdp_md {
	u32 data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex;
};

static void *(*lookup)(void *map, const void *key) = (void *)1;
static u64 (*ktime)(void) = (void *)5;
static long (*tail_call)(void *context, void *map, u32 index) = (void *)12;
static long (*loop)(u32 times, void *callback, void *context, u64 flags) = (void *)181;

// What the programs leave behind, by place.
struct {
	int (*type)[2]; // BPF_MAP_TYPE_ARRAY
	u32 *key;
	u64 *value;
	int (*max_entries)[16];
} RESULTS SEC(".maps");

struct {
	int (*type)[3]; // BPF_MAP_TYPE_PROG_ARRAY
	int (*key_size)[4];
	int (*value_size)[4];
	int (*max_entries)[2];
} NEXT SEC(".maps");

static inline void add(u32 place, u64 value)
{
	u64 *found = lookup(&RESULTS, &place);
	if (found)
		*found += value;
}

SEC("xdp") int loops(struct xdp_md *context)
{
	unsigned char *data = (void *)(long)context->data, *end = (void *)(long)context->data_end;
	u64 sum = 0;
	for (int i = 0; i < 40; i++) {
		if (data + i + 1 > end)
			break;
		sum += data[i] & 1 ?
			3 * data[i] :
			i;
	}
	add(0, sum);
	return sum & 1 ? 1 : 2;
}

struct state {
	u64 sum;
	u32 limit;
};

static long step(u32 index, struct state *state)
{
	if (index == state->limit)
		return 1;
	state->sum += index;
	return 0;
}

SEC("xdp") int callback(struct xdp_md *context)
{
	struct state state = { .limit = 3 + (context->data_end - context->data) % 7 };
	loop(100, step, &state, 0);
	add(1, state.sum);
	return 2;
}

static NOINLINE u64 mixed(u64 a, u64 b, u64 c, u64 d, u64 e)
{
	volatile u64 kept[12];
	for (int i = 0; i < 12; i++)
		kept[i] = a * i + b;
	if (c > d)
		return kept[c & 7] + ktime() * 0 + e;
	return kept[d & 7] ^ e;
}

NOINLINE int global(u32 a, u32 b)
{
	if (a > b)
		return mixed(a, b, a & 3, b & 3, 17);
	return mixed(b, a, 1, 2, a);
}

SEC("xdp") int subprograms(struct xdp_md *context)
{
	unsigned char *data = (void *)(long)context->data, *end = (void *)(long)context->data_end;
	if (data + 14 > end)
		return 0;
	u32 result = global(data[0], data[1]) + mixed(data[2], data[3], data[4], data[5], data[6]);
	add(2, result);
	data[7] = result;
	return 1 + result % 4;
}

SEC("xdp") int switched(struct xdp_md *context)
{
	unsigned char *data = (void *)(long)context->data, *end = (void *)(long)context->data_end;
	if (data + 14 > end)
		return 0;
	u64 value = data[5];
	switch (data[0]) {
	case 0: value += 3; break;
	case 1: value *= 5; break;
	case 2: value ^= 0x55; break;
	case 3: add(3, 1); break;
	case 9: value = ktime() ? 7 : 8; break;
	case 17: add(4, value); value++; break;
	case 18: value -= 99; break;
	case 33: value |= 4096; break;
	case 80: value <<= 9; break;
	case 255: value = 0; break;
	default: add(5, 2);
	}
	add(6, value);
	return 2;
}

// Ten values that live across calls, in four registers.
SEC("xdp") int crowded(struct xdp_md *context)
{
	unsigned char *data = (void *)(long)context->data, *end = (void *)(long)context->data_end;
	if (data + 14 > end)
		return 0;
	u64 a = data[0], b = data[1], c = data[2], d = data[3], e = data[4], f = data[5], g = data[6], h = data[7];
	for (int i = 0; i < 5; i++) {
		u64 now = ktime() & 0;
		asm volatile("" : "+r"(a), "+r"(b), "+r"(c), "+r"(d));
		if (a > b)
			c += d ^ now;
		else
			d += e + f;
		if ((e & 3) > (f & 3))
			g ^= a + h;
		else if (g & 1)
			h += b;
		data[8 + i] = a + g;
		e += i;
	}
	add(7, a + b * 3 + c * 5 + d * 7 + e * 11 + f * 13 + g * 17 + h * 19);
	return 2;
}

// All registers but the frame pointer are taken when the branches come.
SEC("xdp") __attribute__((naked)) int full(struct xdp_md *context)
{
	asm volatile("r6 = r1\n r1 = 1\n r2 = 2\n r3 = 3\n r4 = 4\n r5 = 5\n r7 = *(u32 *)(r6 + 4)\n"
		     "r8 = *(u32 *)(r6 + 0)\n r9 = 9\n r0 = 0\n r7 -= r8\n"
		     "if r7 > 60 goto 1f\n r0 = 77\n r0 += r1\n"
		     "1: r0 += r1\n if r7 > 100 goto 2f\n r3 += r4\n"
		     "2: r8 = *(u32 *)(r6 + 0)\n r0 += r2\n r0 += r3\n r0 += r4\n r0 += r5\n r0 += r7\n r0 += r9\n"
		     "r0 &= 3\n exit\n");
}

SEC("xdp") int tailing(struct xdp_md *context)
{
	add(8, 1);
	tail_call(context, &NEXT, context->rx_queue_index + (context->data_end - context->data) % 2);
	add(9, 1);
	return 1;
}

SEC("xdp") int tailed(struct xdp_md *context)
{
	add(10, 1);
	return 2;
}

// A jump of 24000 instructions over 8000 blocks.
SEC("xdp") int far(struct xdp_md *context)
{
	u64 len = context->data_end - context->data, sum = 0;
	if (len > 60) {
		asm volatile(".rept 8000\n %0 += 1\n if %0 s> 100000 goto +0\n %0 += 1\n .endr\n" : "+r"(sum));
	}
	add(11, sum);
	return 2;
}

char LICENSE[] SEC("license") = "GPL";

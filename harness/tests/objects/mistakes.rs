//! Sound objects, asked for what they do not have.

use std::path::PathBuf;

use rstest::rstest;

use crate::support::Lab;

fn firewall(lab: &Lab) -> PathBuf {
    lab.of_repository("scenarios/objects/firewall.bpf.c")
}

#[rstest]
#[case::program(&["--attach", "xdp:fierwall"], &["object firewall has no program fierwall; did you mean firewall?"])]
#[case::map(&["--map", "rules={}"], &["object firewall has no map rules", "rules4"])]
#[case::global(&["--global", "reserved_port=1"], &["no global variable reserved_port; did you mean reserved_ports?"])]
#[case::hook(&["--attach", "tc-ingress:firewall"], &["hook tc-ingress takes no program of section xdp"])]
#[case::no_hook(&["--attach", "xpd:firewall"], &["there is no hook xpd; did you mean xdp?"])]
#[case::global_too_big(&["--global", "reserved_ports=65536"], &["global reserved_ports", "0 to 65535", "65536"])]
#[case::global_of_another_type(&["--global", "reserved_ports=all"], &["global reserved_ports", "found text \"all\""])]
#[case::no_such_action(
    &["--map", "rules4={\"10.0.0.0/8\":{\"action\":\"ACTION_DENIE\"}}"],
    &["map rules4", "value.action", "ACTION_DENY"]
)]
#[case::no_such_member(
    &["--map", "rules4={\"10.0.0.0/8\":{\"packet\":1}}"],
    &["map rules4", "there is no member packet; did you mean packets?"]
)]
#[case::no_prefix(&["--map", "rules4={\"10.0.0.0/33\":{}}"], &["map rules4", "key", "10.0.0.0/33"])]
#[case::prefix_of_the_other_family(&["--map", "rules4={\"fd66::/16\":{}}"], &["map rules4", "key", "fd66::/16"])]
#[case::value_of_another_type(&["--map", "services=[{\"key\":{\"port\":80},\"value\":[]}]"], &["map services", "list of 0"])]
#[case::key_that_does_not_fit(
    &["--map", "services=[{\"key\":{\"port\":65536},\"value\":0}]"],
    &["map services", "key.port", "0 to 65535"]
)]
#[case::no_entries(&["--map", "services=7"], &["map services", "a table from key to value"])]
fn what_an_object_does_not_have_is_told_with_what_it_has(#[case] args: &[&str], #[case] parts: &[&str]) {
    let lab = Lab::new();
    let object = firewall(&lab);
    lab.replay(&object, &[&["--mode", "lockstep"], args].concat()).refused(parts);
}

#[test]
fn hexadecimal_of_the_wrong_length_does_not_fit() {
    let lab = Lab::new();
    let source = "
        struct {
            __uint(type, BPF_MAP_TYPE_HASH);
            __uint(max_entries, 1);
            __uint(key_size, 6);
            __uint(value_size, 2);
        } known SEC(\".maps\");
        SEC(\"xdp\") int look(struct xdp_md *ctx) {
            __u8 key[6] = {};
            return bpf_map_lookup_elem(&known, key) ? XDP_PASS : XDP_DROP;
        }";
    let object = lab.object("untyped", source);
    let entry = |key: &str, value: &str| format!("known={{\"{key}\":\"{value}\"}}");
    let short = entry("0x0a0b", "0x0000");
    lab.replay(&object, &["--mode", "lockstep", "--map", &short]).refused(&["map known", "6 bytes", "0x0a0b"]);
    // All zeros is the key that the program looks for.
    let good = entry("0x000000000000", "0x0001");
    let ledger = lab.replay(&object, &["--mode", "lockstep", "--json", "--map", &good]).document()["ledger"].clone();
    assert_eq!(ledger["delivered"], 16, "{ledger}");
}

#[rstest]
#[case::interface("xdp:firewall@dut.eth7", &["dut.eth7", "dut.eth0, dut.eth1"])]
#[case::host("xdp:firewall@nobody", &["nobody", "dut.eth0, dut.eth1"])]
fn a_place_that_the_topology_does_not_have_is_told_with_those_it_has(#[case] attach: &str, #[case] parts: &[&str]) {
    let lab = Lab::new();
    let object = firewall(&lab);
    lab.replay(&object, &["--mode", "wire", "--attach", attach]).refused(parts);
}

#[rstest]
#[case::tracepoint(
    "SEC(\"tracepoint/net/no_such_event\") int f(void *ctx) { return 0; }",
    "no tracepoint net/no_such_event"
)]
#[case::typed("SEC(\"tp_btf/no_such_event\") int f(__u64 *ctx) { return 0; }", "has no tracepoint no_such_event")]
fn a_target_that_the_kernel_does_not_have_is_named(#[case] source: &str, #[case] part: &str) {
    let lab = Lab::new();
    let object = lab.object("lost", source);
    lab.replay(&object, &["--mode", "wire"]).refused(&["program f of object lost", part]);
}

#[test]
fn an_entry_names_places_of_the_topology() {
    let lab = Lab::new();
    let source = "
        struct {
            __uint(type, BPF_MAP_TYPE_HASH);
            __uint(max_entries, 4);
            __type(key, __u32);
            __type(value, __u64);
        } interfaces SEC(\".maps\");
        SEC(\"xdp\") int count(struct xdp_md *ctx) {
            __u32 key = ctx->ingress_ifindex;
            __u64 *packets = bpf_map_lookup_elem(&interfaces, &key);
            if (packets)
                __sync_fetch_and_add(packets, 1);
            return XDP_PASS;
        }";
    let object = lab.object("places", source);
    let args = ["--mode", "wire", "--map", "interfaces={\"@dut.eth0\":100,\"@dut.eth1\":200}", "--json"];
    let document = lab.replay(&object, &args).document();
    let rows = document["objects"][0]["maps"][0]["rows"].as_array().unwrap().clone();
    let mut values: Vec<u64> = rows.iter().map(|row| row["value"].as_u64().unwrap()).collect();
    values.sort_unstable();
    // Each side sends eight packets.
    assert_eq!(values, [108, 208], "{document:#}");
    let absent = ["--mode", "wire", "--map", "interfaces={\"@dut.eth2\":0}"];
    lab.replay(&object, &absent).refused(&["map interfaces", "no dut.eth2", "dut.eth0, dut.eth1"]);
}

//! Objects that are whole, and that a library or the kernel does not take.

use crate::support::Lab;

#[test]
fn a_section_that_names_no_kind_of_program_is_told() {
    let lab = Lab::new();
    let object = lab.object("odd", "SEC(\"xpd\") int filter(struct xdp_md *ctx) { return XDP_PASS; }");
    let ended = lab.replay(&object, &["--mode", "lockstep", "--attach", "xdp:filter"]);
    ended.refused(&["program filter of object odd", "section xpd"]);
    let nowhere = "object odd has no program whose section says where it is attached: name one of filter (xpd)";
    lab.replay(&object, &["--mode", "lockstep"]).refused(&[nowhere]);
}

#[test]
fn a_map_of_an_unknown_kind_is_told_by_its_name() {
    let lab = Lab::new();
    let source = "
        struct {
            __uint(type, 200);
            __uint(max_entries, 1);
            __type(key, __u32);
            __type(value, __u32);
        } strange SEC(\".maps\");
        SEC(\"xdp\") int look(struct xdp_md *ctx) {
            __u32 key = 0;
            return bpf_map_lookup_elem(&strange, &key) ? XDP_PASS : XDP_DROP;
        }";
    let object = lab.object("odd", source);
    lab.replay(&object, &["--mode", "lockstep"]).refused(&["cannot load object odd", "map strange is of type 200"]);
}

#[test]
fn a_helper_for_gpl_programs_wants_a_licence() {
    let lab = Lab::new();
    let source = "
        SEC(\"xdp\") int say(struct xdp_md *ctx) {
            static const char text[] = \"seen\";
            bpf_trace_printk(text, sizeof(text));
            return XDP_PASS;
        }";
    let object = lab.unlicensed("mute", source);
    let parts = ["program say of object mute", "GPL", "the object's licence (section license) is none"];
    lab.replay(&object, &["--mode", "lockstep"]).refused(&parts);
    lab.inspect(&object).says(1, &["GPL"]);
}

#[test]
fn a_refusal_has_the_end_of_the_verifiers_log() {
    let lab = Lab::new();
    let source = "
        SEC(\"xdp\") int peek(struct xdp_md *ctx) {
            return *(__u8 *)(long)ctx->data ? XDP_PASS : XDP_DROP;
        }";
    let object = lab.object("careless", source);
    let parts =
        ["cannot load program peek of object careless", "refused it", "invalid access to packet", "--artefacts"];
    lab.replay(&object, &["--mode", "lockstep"]).refused(&parts);
    lab.replay(&object, &["--mode", "wire"]).refused(&parts);
    lab.replay(&object, &["--mode", "lockstep", "--artefacts", "kept"]).refused(&["verifier-peek.log"]);
    let log = std::fs::read_to_string(lab.path().join("kept/verifier-peek.log")).unwrap();
    assert!(log.contains("invalid access to packet"), "{log}");
}

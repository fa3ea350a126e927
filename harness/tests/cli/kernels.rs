//! `bpflab kernels`: exit codes, messages, and a cache of the test's own.

use std::net::TcpListener;

use crate::support::{Ended, Lab};

const LIST: &str = "[[kernel]]\nname = \"6.12\"\ndebian = { suites = [\"trial\"], package = \"linux-image-6.12.*\" }\n\
                    [[kernel]]\nname = \"file\"\nimage = { vmlinuz = \"absent\", built_in = true }\n";

/// `bpflab kernels ARGS` with an empty cache.
fn kernels(lab: &Lab, args: &[&str]) -> Ended {
    let mut command = lab.command(["kernels"].iter().chain(args));
    command.env("BPFLAB_CACHE", lab.path().join("cache")).env_remove("BPFLAB_MIRROR");
    Ended::from(command.output().unwrap())
}

#[test]
fn a_list_that_is_wrong_is_refused_with_the_place() {
    let lab = Lab::new();
    kernels(&lab, &["list"]).refused(&["cannot read the list of kernels vm/kernels.toml", "`--kernels`"]);
    lab.write("vm/kernels.toml", LIST.replace("suites", "suits"));
    kernels(&lab, &["list"]).refused(&["vm/kernels.toml:3:", "unknown field `suits`", "did you mean `suites`?"]);
}

#[test]
fn an_unknown_kernel_is_refused_with_the_nearest() {
    let lab = Lab::new();
    lab.write("other.toml", LIST);
    let args = ["fetch", "6.21", "--kernels", "other.toml"];
    kernels(&lab, &args).refused(&["no kernel is called `6.21`", "did you mean `6.12`?", "6.12, file"]);
}

#[test]
fn what_is_not_cached_is_listed_as_such_and_there_is_nothing_to_prune() {
    let lab = Lab::new();
    lab.write("vm/kernels.toml", LIST);
    kernels(&lab, &["list"]).passed().says(&[
        "6.12",
        "not cached: `bpflab kernels fetch 6.12`",
        "linux-image-6.12.* of trial",
    ]);
    let document = kernels(&lab, &["list", "--json"]).passed().json();
    assert_eq!(document["version"], 1);
    assert_eq!(document["kernels"][0]["state"], "missing");
    assert_eq!(document["kernels"][1]["state"], "unusable");
    kernels(&lab, &["prune"]).passed().says(&["nothing to remove"]);
}

#[test]
fn a_mirror_that_refuses_is_named_and_the_other_kernels_are_tried() {
    let lab = Lab::new();
    lab.write("vm/kernels.toml", LIST);
    // A port that was just free.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{address}/debian");
    let silent = format!("6.12: mirror {url} does not answer");
    kernels(&lab, &["fetch", "6.12", "--mirror", &url]).exits(69).complains(&[&silent, "BPFLAB_MIRROR"]);
    // What is wrong with the list counts more than what is wrong with the network.
    kernels(&lab, &["fetch", "--mirror", &url]).exits(2).complains(&[&silent, "file: no bootable kernel in vm/absent"]);
    kernels(&lab, &["fetch", "6.12", "--mirror", "nowhere"]).exits(2).complains(&["`nowhere` is not a mirror"]);
}

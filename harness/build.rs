//! Compiles the `programs` package for the BPF target and leaves one object per family in `OUT_DIR`.

use anyhow::{Context as _, Result};
use aya_build::{Package, Toolchain};

fn main() -> Result<()> {
    const TOOLCHAIN: &str = "BPFLAB_EBPF_TOOLCHAIN";
    println!("cargo:rerun-if-env-changed={TOOLCHAIN}");
    let toolchain = std::env::var(TOOLCHAIN).ok();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../programs");
    let root = root.to_str().context("the path of programs/ is not UTF-8")?;
    aya_build::build_ebpf(
        [Package { name: "bpflab-programs", root_dir: root, no_default_features: false, features: &["ebpf"] }],
        toolchain.as_deref().map_or_else(Toolchain::default, Toolchain::Custom),
    )
    .context(
        "cannot build the eBPF objects; this needs the nightly toolchain with rust-src and bpf-linker (`ci/setup` installs both)",
    )
}

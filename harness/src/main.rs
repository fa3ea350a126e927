//! The `bpflab` command.

fn main() -> std::process::ExitCode {
    bpflab::cli::main()
}

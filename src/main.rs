//! The command-line program; see [`bitnet_gpu::cli`].

fn main() -> std::process::ExitCode {
    bitnet_gpu::cli::main()
}

//! The command-line program; see [`bitnet_gpu::cli`].

#![deny(unsafe_code)]

use std::{env, path::Path, process::ExitCode};

fn main() -> ExitCode {
    without_complaints_of_drivers();
    bitnet_gpu::cli::main()
}

/// Gives `XDG_RUNTIME_DIR` a path where it has none. Mesa's drivers look there for a display and complain on standard
/// error where it is unset; nothing lies below this path, not even of other users.
fn without_complaints_of_drivers() {
    const NAME: &str = "XDG_RUNTIME_DIR";
    if cfg!(target_os = "linux") && env::var_os(NAME).is_none_or(|path| !Path::new(&path).is_absolute()) {
        #[allow(unsafe_code)]
        // SAFETY: the first statement of the program: no other thread is there to read the environment.
        unsafe {
            env::set_var(NAME, "/dev/null")
        };
    }
}

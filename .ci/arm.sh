# The tests of the CPU path on aarch64, under qemu. `check` sources this file.
#
# Needs: a Rust compiler with the standard library for aarch64 (one of rustup with that target, or Debian's
# rustc-web), a linker and C library for it, and qemu's user mode emulation.

arm_target=aarch64-unknown-linux-gnu

# What a processor of its kind has: everything the kernels know (dotprod, i8mm), and plain NEON.
arm_processors=(max cortex-a72)

# The first compiler that can build for aarch64 and is new enough for this workspace.
arm_rustc() {
    local wanted candidate libraries version
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    for candidate in "$(command -v rustc)" /usr/bin/rustc; do
        [ -x "$candidate" ] || continue
        libraries=$("$candidate" --print target-libdir --target "$arm_target" 2>/dev/null) || continue
        compgen -G "$libraries/libstd-*.rlib" >/dev/null || continue
        version=$("$candidate" --version | cut -d ' ' -f 2)
        [ "$(printf '%s\n' "$wanted" "$version" | sort -V | head -n 1)" = "$wanted" ] || continue
        echo "$candidate"
        return
    done
    return 1
}

arm_qemu() { command -v qemu-aarch64-static || command -v qemu-aarch64; }

have_arm_tools() { arm_rustc && command -v aarch64-linux-gnu-gcc && arm_qemu; } >/dev/null

# Nothing that is installed is removed for it (Debian's own rustc and rustc-web exclude each other).
install_arm_tools() {
    command -v apt-get >/dev/null && as_root dpkg --add-architecture arm64 && as_root apt-get update -qq &&
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-remove --no-install-recommends \
            rustc-web libstd-rust-web-dev:arm64 gcc-aarch64-linux-gnu libc6-dev-arm64-cross libc6-dev \
            qemu-user-static >/dev/null
}

# Without the GPU: there is no driver for the emulated processor.
arm_tests() (
    unset BITNET_REQUIRE_GPU
    export RUSTC CARGO_TARGET_DIR=target/arm
    RUSTC=$(arm_rustc)
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
    # Of the cross compiler, where the system has not the libraries of both architectures.
    [ -e /lib/ld-linux-aarch64.so.1 ] || export QEMU_LD_PREFIX=/usr/aarch64-linux-gnu
    # What the tests only pass through is built in a third of the time without optimisation.
    local fast=(--config 'profile.dev.package."*".opt-level=0' --config 'profile.dev.package.half.opt-level=3'
        --config 'profile.dev.package.bytemuck.opt-level=3' --config 'profile.dev.debug=0')
    local processor
    for processor in "${arm_processors[@]}"; do
        step "aarch64 kernels on qemu's $processor"
        export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="$(arm_qemu) -cpu $processor"
        cargo test --target "$arm_target" --locked "${fast[@]}" --package bitnet-cpu-kernels --lib || return
    done
    step "aarch64 engine on qemu's ${arm_processors[0]}"
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="$(arm_qemu) -cpu ${arm_processors[0]}"
    cargo test --target "$arm_target" --locked "${fast[@]}" --test model --test generate -- golden_logits:: session::
)

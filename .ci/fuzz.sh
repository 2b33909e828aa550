# The parsers of files from strangers under libFuzzer. `check` sources this file.
#
# Needs: a C++ compiler, for libFuzzer itself. What cargo-fuzz does in a nightly compiler is done here in the stable one:
# the same flags for counting branches, without its sanitizers, which find what safe Rust does not do.

fuzz_targets=(gguf model checkpoint tokenizer template grammar conversation)

have_cxx() { command -v "${CXX:-c++}" >/dev/null; }

# The versions are those of the engine's own lock file.
fuzz_lock() { [ fuzz/Cargo.lock -nt Cargo.lock ] || cp Cargo.lock fuzz/Cargo.lock; }

fuzz_lints() {
    fuzz_lock
    cargo clippy --manifest-path fuzz/Cargo.toml --target-dir target --bins -- -D warnings
}

# That the targets link: without counting branches, and hardly optimised.
fuzz_build() {
    fuzz_lock
    cargo build --manifest-path fuzz/Cargo.toml --target-dir target --bins
}

fuzz_run() (
    local seconds=${FUZZ_SECONDS:-60} host binaries target
    host=$(rustc --version --verbose | sed -n 's/^host: //p')
    binaries=fuzz/target/$host/release
    step "fuzz targets"
    fuzz_lock
    # For a named target, so that build scripts and macros do not count branches as well.
    RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
        -Cllvm-args=-sanitizer-coverage-trace-compares" \
        cargo build --manifest-path fuzz/Cargo.toml --target-dir fuzz/target --release --target "$host" --bins
    "$binaries/seeds" fuzz/corpus
    for target in "${fuzz_targets[@]}"; do
        step "fuzzing $target for $seconds s"
        mkdir -p "fuzz/artifacts/$target"
        # An input that takes 10 s or 2 GiB is a finding as a panic is; what was found lies in fuzz/artifacts.
        "$binaries/$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=100000 \
            -artifact_prefix="fuzz/artifacts/$target/" -print_final_stats=1 "fuzz/corpus/$target" \
            >"fuzz/artifacts/$target.log" 2>&1 || { tail -n 60 "fuzz/artifacts/$target.log"; return 1; }
        grep -E '^(Done|stat::(number_of_executed_units|peak_rss_mb))' "fuzz/artifacts/$target.log"
    done
)

//! Faults planted for a Vulkan validation layer, one a test. `./check --gpu-validate` runs each under the layer first: what
//! the layer does not report here, its silence on the real kernels says nothing of.
//!
//! Nothing is asserted on the results, which a fault makes undefined; the layer's log is what counts.

#![cfg(target_os = "linux")]

mod lab;

use lab::Lab;

/// Each invocation writes a word, which it reads from `OFFSET` words on.
const COPY: &str = "
@group(0) @binding(0) var<storage, read_write> words: array<u32>;
@compute @workgroup_size(64) fn main(@builtin(local_invocation_index) i: u32) { words[i] = words[i + OFFSET] + 1u; }";

/// Invocations exchange words through workgroup memory, without the barrier.
const EXCHANGE: &str = "
@group(0) @binding(0) var<storage, read_write> words: array<u32>;
var<workgroup> shared_words: array<u32, 64>;
@compute @workgroup_size(64) fn main(@builtin(local_invocation_index) i: u32) {
    shared_words[i] = words[i];
    words[i] = shared_words[63u - i];
}";

/// Without a fault: a report here makes every other one worthless.
#[test]
#[ignore = "runs in ./check --gpu-validate"]
fn nothing() {
    Lab::open(0).dispatch(&[&COPY.replace("OFFSET", "0u")]);
}

/// A storage buffer is bound at an odd offset.
#[test]
#[ignore = "runs in ./check --gpu-validate"]
fn rule() {
    Lab::open(2).dispatch(&[&COPY.replace("OFFSET", "0u")]);
}

/// Two kernels write the same buffer, without a barrier between them.
#[test]
#[ignore = "runs in ./check --gpu-validate"]
fn hazard() {
    let kernel = COPY.replace("OFFSET", "0u");
    Lab::open(0).dispatch(&[&kernel, &kernel]);
}

/// A kernel reads behind the end of its buffer.
#[test]
#[ignore = "runs in ./check --gpu-validate"]
fn outside() {
    Lab::open(0).dispatch(&[&COPY.replace("OFFSET", "100000u")]);
}

/// Invocations of a workgroup read what others write, without a barrier.
#[test]
#[ignore = "runs in ./check --gpu-validate"]
fn race() {
    Lab::open(0).dispatch(&[EXCHANGE]);
}

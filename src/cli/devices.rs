//! `devices`: the processor and the GPU adapters, with what matters for running models on them.

use bitnet_cpu_kernels::isa::Isa;
use serde_json::{Value as Json, json};

use super::{args::DevicesArgs, format, machine, output};
use crate::{
    backend::gpu::{AdapterCaps, Found, look_up},
    error::Result,
    machine::Cores,
};

pub fn run(args: &DevicesArgs) -> Result<()> {
    let found = look_up();
    if args.json { output::print_json(&to_json(&found)) } else { output::print(&to_text(&found)) }
}

/// "4 cores (8 hardware threads, 2 cores slower)": those that this program may use.
pub fn cores() -> String {
    let Cores { physical, hardware_threads, slower, .. } = machine::cores();
    let slower = if slower == 0 { String::new() } else { format!(", {} slower", format::count(slower, "core")) };
    let threads = format::count(hardware_threads, "hardware thread");
    format!("{} ({threads}{slower})", format::count(physical, "core"))
}

/// Features of the processor that kernels use or could use, and whether they are there.
fn cpu_features() -> Vec<(&'static str, bool)> {
    macro_rules! ask {
        ($detect:ident: $($name:tt),*) => { vec![$(($name, std::arch::$detect!($name))),*] };
    }
    #[cfg(target_arch = "x86_64")]
    let features = ask!(is_x86_feature_detected: "avx2", "fma", "f16c", "avxvnni", "avx512f", "avx512bw", "avx512vnni");
    #[cfg(target_arch = "aarch64")]
    let features = ask!(is_aarch64_feature_detected: "neon", "fp16", "dotprod", "i8mm", "sve");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let features = vec![];
    features
}

fn names(features: &[(&'static str, bool)], present: bool) -> String {
    let names: Vec<_> = features.iter().filter(|&&(_, there)| there == present).map(|&(name, _)| name).collect();
    if names.is_empty() { "none".into() } else { names.join(" ") }
}

pub fn to_text(Found { adapters, hidden }: &Found) -> String {
    let features = cpu_features();
    let mut text = format!(
        "CPU: {}, {}, {} without -t, kernels: {}\n  features: {}; not here: {}\n",
        std::env::consts::ARCH,
        cores(),
        format::count(machine::cores().threads, "thread"),
        Isa::detect(),
        names(&features, true),
        names(&features, false)
    );
    if adapters.is_empty() {
        let why = if hidden.is_empty() { "; no Vulkan, Metal or DirectX 12 driver was found" } else { "" };
        text += &format!("GPU: none{why}\n");
    }
    for what in hidden {
        text += &format!("GPU: {}\n", what.escape_debug());
    }
    for (at, gpu) in adapters.iter().enumerate() {
        let yes = |there: bool| if there { "yes" } else { "no" };
        let subgroups = gpu.subgroups.map_or_else(|| "no".into(), |(least, most)| format!("{least} to {most}"));
        text += &format!("GPU {at}: {}\n", gpu.to_string().escape_debug());
        text += &format!(
            "  memory: {}{} ({})\n",
            format::bytes(gpu.memory.bytes),
            if gpu.unified_memory { ", shared with the CPU" } else { "" },
            gpu.memory.source
        );
        text += &format!(
            "  limits: {} a binding, {} a buffer; subgroups: {subgroups}; f16: {}; immediates: {}; time stamps: {}\n",
            format::bytes(gpu.max_binding_bytes),
            format::bytes(gpu.max_buffer_bytes),
            yes(gpu.f16),
            yes(gpu.immediates),
            yes(gpu.timestamps)
        );
        text += &format!("  use: {}\n", verdict(gpu));
    }
    text
}

fn verdict(gpu: &AdapterCaps) -> String {
    match &gpu.unusable {
        Some(reason) => format!("impossible: {reason}"),
        None if gpu.software => "only with --backend gpu or -ngl: it computes on the processor".into(),
        None => "possible".into(),
    }
}

pub fn to_json(Found { adapters, hidden }: &Found) -> Json {
    let features = cpu_features();
    let Cores { physical, hardware_threads, slower, threads } = machine::cores();
    let present: Vec<_> = features.iter().filter(|(_, there)| *there).map(|(name, _)| name).collect();
    let gpus: Vec<Json> = adapters
        .iter()
        .map(|gpu| {
            json!({
                "name": gpu.name,
                "backend": gpu.backend,
                "driver": gpu.driver,
                "type": gpu.kind,
                "software": gpu.software,
                "unified_memory": gpu.unified_memory,
                "memory_bytes": gpu.memory.bytes,
                "memory_source": gpu.memory.source,
                "max_binding_bytes": gpu.max_binding_bytes,
                "max_buffer_bytes": gpu.max_buffer_bytes,
                "subgroup_sizes": gpu.subgroups.map(|(least, most)| [least, most]),
                "f16": gpu.f16,
                "immediates": gpu.immediates,
                "timestamps": gpu.timestamps,
                "unusable": gpu.unusable,
            })
        })
        .collect();
    json!({
        "cpu": {
            "arch": std::env::consts::ARCH,
            "cores": physical,
            "slower_cores": slower,
            "hardware_threads": hardware_threads,
            "threads": threads,
            "kernels": Isa::detect().name(),
            "available_kernels": Isa::available().into_iter().map(Isa::name).collect::<Vec<_>>(),
            "features": present,
        },
        "gpus": gpus,
        "hidden": hidden,
    })
}

//! The GPUs of this machine: what each can do, and which one is taken.

use std::fmt;

use super::{
    memory::{self, Memory},
    options::OpenOptions,
};
use crate::{
    backend::gpu::kernels::params::PARAM_BYTES,
    error::{Error, Result},
};

/// Name, kind and capabilities of an adapter.
#[derive(Clone, Debug)]
pub struct AdapterCaps {
    /// As the driver calls it.
    pub name: String,
    /// "Vulkan", "Metal" or "DX12".
    pub backend: String,
    /// Name and version of the driver.
    pub driver: String,
    /// "discrete GPU", "integrated GPU", ...
    pub kind: &'static str,
    /// Runs on the processor.
    pub software: bool,
    /// Shares its memory with the processor.
    pub unified_memory: bool,
    /// Smallest and largest subgroup, where subgroup operations exist.
    pub subgroups: Option<(u32, u32)>,
    /// f16 arithmetic in shaders.
    pub f16: bool,
    /// Parameters without a buffer.
    pub immediates: bool,
    /// GPU time stamps.
    pub timestamps: bool,
    /// Any buffer can be mapped.
    pub mappable: bool,
    /// Most bytes of one binding.
    pub max_binding_bytes: u64,
    /// Most bytes of one buffer.
    pub max_buffer_bytes: u64,
    /// Device memory.
    pub memory: Memory,
    /// Why the kernels cannot run here, if they cannot.
    pub unusable: Option<String>,
}

impl fmt::Display for AdapterCaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} ({}), {}", self.name, self.backend, self.kind, self.driver)
    }
}

impl AdapterCaps {
    /// Order of preference: discrete, integrated, virtual, unknown, software; Vulkan before others of the same
    /// kind, because DirectX 12 without dxcompiler.dll has neither subgroups nor integer dot products.
    pub fn rank(&self) -> (u8, bool) {
        let kind = match self.kind {
            "discrete GPU" => 0,
            "integrated GPU" => 1,
            "virtual GPU" => 2,
            "software" => 4,
            _ => 3,
        };
        (kind, self.backend == "DX12")
    }

    fn new(adapter: &wgpu::Adapter) -> Self {
        let info = adapter.get_info();
        let limits = adapter.limits();
        let features = adapter.features();
        let kind = match info.device_type {
            wgpu::DeviceType::DiscreteGpu => "discrete GPU",
            wgpu::DeviceType::IntegratedGpu => "integrated GPU",
            wgpu::DeviceType::VirtualGpu => "virtual GPU",
            wgpu::DeviceType::Cpu => "software",
            wgpu::DeviceType::Other => "unknown kind",
        };
        let backend = match info.backend {
            wgpu::Backend::Vulkan => "Vulkan",
            wgpu::Backend::Metal => "Metal",
            wgpu::Backend::Dx12 => "DX12",
            other => other.to_str(),
        };
        let software = info.device_type == wgpu::DeviceType::Cpu;
        let unified_memory = software
            || info.device_type == wgpu::DeviceType::IntegratedGpu
            || (info.backend == wgpu::Backend::Metal && info.name.starts_with("Apple"));
        Self {
            memory: memory::available(adapter, unified_memory),
            name: info.name,
            backend: backend.to_owned(),
            driver: [info.driver, info.driver_info].join(" ").trim().to_owned(),
            kind,
            software,
            unified_memory,
            subgroups: features
                .contains(wgpu::Features::SUBGROUP)
                .then_some((info.subgroup_min_size, info.subgroup_max_size)),
            f16: features.contains(wgpu::Features::SHADER_F16),
            immediates: features.contains(wgpu::Features::IMMEDIATES)
                && limits.max_immediate_size as usize >= PARAM_BYTES,
            timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
            mappable: features.contains(wgpu::Features::MAPPABLE_PRIMARY_BUFFERS),
            max_binding_bytes: limits.max_storage_buffer_binding_size,
            max_buffer_bytes: limits.max_buffer_size,
            unusable: unusable(&limits),
        }
    }
}

/// The kernels stay within the limits every WebGPU device has, so this is for exotic drivers only.
fn unusable(limits: &wgpu::Limits) -> Option<String> {
    let needs = [
        ("storage buffers of a kernel", 8, limits.max_storage_buffers_per_shader_stage),
        ("invocations of a workgroup", 256, limits.max_compute_invocations_per_workgroup),
        ("bytes of workgroup memory", 16 << 10, limits.max_compute_workgroup_storage_size),
        ("workgroups of a dispatch", 65535, limits.max_compute_workgroups_per_dimension),
    ];
    needs
        .iter()
        .find(|&&(_, needed, offered)| offered < needed)
        .map(|(what, needed, offered)| format!("{what}: {needed} needed, {offered} offered"))
}

fn instance() -> wgpu::Instance {
    let wanted = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::from_env().unwrap_or(wanted) & wanted;
    // No validation layers unless asked for with WGPU_VALIDATION=1: where they are absent the request is noise.
    descriptor.flags = wgpu::InstanceFlags::empty().with_env();
    // An out-of-memory error instead of swapping, where the driver tells its budget (Vulkan, DX12).
    descriptor.memory_budget_thresholds.for_resource_creation = Some(95);
    wgpu::Instance::new(descriptor)
}

fn enumerate() -> Vec<(wgpu::Adapter, AdapterCaps)> {
    let adapters = pollster::block_on(instance().enumerate_adapters(wgpu::Backends::all()));
    let mut all: Vec<_> = adapters
        .into_iter()
        .map(|adapter| {
            let caps = AdapterCaps::new(&adapter);
            (adapter, caps)
        })
        .collect();
    all.sort_by_key(|(_, caps)| caps.rank());
    all
}

/// All adapters, the preferred one first. Empty on a machine without a driver.
pub fn adapters() -> Vec<AdapterCaps> {
    enumerate().into_iter().map(|(_, caps)| caps).collect()
}

/// The adapter that `options` ask for.
pub fn select(options: &OpenOptions) -> Result<(wgpu::Adapter, AdapterCaps)> {
    let name = options.name.clone().or_else(|| std::env::var("WGPU_ADAPTER_NAME").ok()).filter(|n| !n.is_empty());
    let mut all = enumerate();
    let caps: Vec<&AdapterCaps> = all.iter().map(|(_, caps)| caps).collect();
    let chosen = choose(&caps, name.as_deref(), options.software_allowed)?;
    Ok(all.swap_remove(chosen))
}

/// The index of the adapter to take.
fn choose(all: &[&AdapterCaps], name: Option<&str>, software_allowed: bool) -> Result<usize> {
    let refuse = |reason: String| Err(Error::NoAdapter { reason });
    let names = || all.iter().map(|caps| caps.name.as_str()).collect::<Vec<_>>().join(", ");
    if all.is_empty() {
        return refuse("no Vulkan, Metal or DirectX 12 driver was found".to_owned());
    }
    let named = |caps: &AdapterCaps| name.is_none_or(|n| caps.name.to_lowercase().contains(&n.to_lowercase()));
    if !all.iter().any(|caps| named(caps)) {
        return refuse(format!("none is named like \"{}\"; found: {}", name.unwrap_or_default(), names()));
    }
    let usable = |caps: &&AdapterCaps| named(caps) && (software_allowed || !caps.software);
    if !all.iter().any(usable) {
        return refuse(format!(
            "only software adapters were found ({}), which are slower than the CPU backend",
            names()
        ));
    }
    match all.iter().position(|caps| usable(caps) && caps.unusable.is_none()) {
        Some(index) => Ok(index),
        None => {
            let reasons: Vec<_> = all
                .iter()
                .copied()
                .filter(usable)
                .map(|caps| format!("{}: {}", caps.name, caps.unusable.as_deref().unwrap_or_default()))
                .collect();
            refuse(reasons.join("; "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caps(name: &str, kind: &'static str, unusable: Option<&str>) -> AdapterCaps {
        AdapterCaps {
            name: name.to_owned(),
            backend: "Vulkan".to_owned(),
            driver: String::new(),
            kind,
            software: kind == "software",
            unified_memory: false,
            subgroups: None,
            f16: false,
            immediates: true,
            timestamps: false,
            mappable: false,
            max_binding_bytes: 1 << 30,
            max_buffer_bytes: 1 << 30,
            memory: Memory { bytes: 1 << 30, source: "test" },
            unusable: unusable.map(str::to_owned),
        }
    }

    fn reason(result: Result<usize>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn software_is_taken_only_when_allowed() {
        let (gpu, soft) = (caps("Radeon 780M", "integrated GPU", None), caps("llvmpipe", "software", None));
        assert_eq!(choose(&[&gpu, &soft], None, true).unwrap(), 0);
        assert_eq!(choose(&[&soft], None, true).unwrap(), 0);
        assert!(reason(choose(&[&soft], None, false)).contains("only software adapters were found (llvmpipe)"));
        assert_eq!(choose(&[&gpu, &soft], Some("LLVM"), true).unwrap(), 1);
    }

    #[test]
    fn a_refusal_says_what_was_found() {
        let weak = caps("Old GPU", "discrete GPU", Some("storage buffers of a kernel: 7 needed, 4 offered"));
        let good = caps("Arc", "integrated GPU", None);
        assert!(reason(choose(&[], None, true)).contains("no Vulkan, Metal or DirectX 12 driver was found"));
        assert!(reason(choose(&[&good], Some("nvidia"), true)).contains("\"nvidia\"; found: Arc"));
        assert!(reason(choose(&[&weak], None, true)).contains("Old GPU: storage buffers of a kernel: 7 needed"));
        assert_eq!(choose(&[&weak, &good], None, false).unwrap(), 1);
    }

    #[test]
    fn preference_is_by_kind_then_interface() {
        let mut all = [
            caps("soft", "software", None),
            caps("integrated", "integrated GPU", None),
            AdapterCaps { backend: "DX12".to_owned(), ..caps("discrete-dx", "discrete GPU", None) },
            caps("discrete", "discrete GPU", None),
        ];
        all.sort_by_key(AdapterCaps::rank);
        assert_eq!(all.map(|c| c.name), ["discrete", "discrete-dx", "integrated", "soft"]);
    }
}

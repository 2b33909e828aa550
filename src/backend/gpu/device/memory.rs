//! How much device memory may be used: what the driver says is free, or else a share of what there is.
//!
//! wgpu has no such query, so each driver interface is asked by its own name, through wgpu's handles. The part for
//! Vulkan runs in the test suite; those for DirectX 12 and Metal have not run anywhere yet.

use crate::machine;

/// Device memory, and how it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Bytes that may be used.
    pub bytes: u64,
    /// "free memory by VK_EXT_memory_budget", ...
    pub source: &'static str,
}

impl Memory {
    /// As someone decided.
    pub(crate) fn given(bytes: u64) -> Self {
        Self { bytes, source: "given" }
    }
}

/// A driver's answer about its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DriverReport {
    /// Memory that this process may still take without others being swapped out.
    Free(Memory),
    /// The size of the memory, whatever others use of it.
    Whole(Memory),
}

/// Share of the free memory that is used: the rest is for what the driver allocates beside our buffers.
const FREE_SHARE_PERCENT: u64 = 90;
/// Share of all memory that is used where the processor shares it: the rest is for the desktop and other programs.
const UNIFIED_SHARE_PERCENT: u64 = 60;
/// Share of all memory that is used where it is the GPU's own.
const DEDICATED_SHARE_PERCENT: u64 = 90;
/// Share of the machine's free memory that is used where the GPU has none of its own: the rest keeps the machine
/// usable.
const MACHINE_SHARE_PERCENT: u64 = 75;
/// Memory assumed where a driver tells nothing: the smallest such machines can give it.
const ASSUMED: Memory = Memory { bytes: 4 << 30, source: "assumed: this driver interface reports no memory size" };

/// Memory of `adapter` that may be used; `unified` = it shares its memory with the processor.
pub(crate) fn available(adapter: &wgpu::Adapter, unified: bool) -> Memory {
    let report = vulkan(adapter).or_else(|| dxgi(adapter)).or_else(|| metal(adapter));
    allowed(report, if unified { machine::free_memory_bytes() } else { None })
}

/// `machine_free` is given where the GPU has no memory of its own.
fn allowed(report: Option<DriverReport>, machine_free: Option<u64>) -> Memory {
    let whole_percent = if machine_free.is_some() { UNIFIED_SHARE_PERCENT } else { DEDICATED_SHARE_PERCENT };
    let (memory, percent) = match report {
        Some(DriverReport::Free(memory)) => (memory, FREE_SHARE_PERCENT),
        Some(DriverReport::Whole(memory)) => (memory, whole_percent),
        None => (ASSUMED, 100),
    };
    let bytes = memory.bytes - memory.bytes / 100 * (100 - percent);
    match machine_free.map(|free| free / 100 * MACHINE_SHARE_PERCENT) {
        Some(most) if most < bytes => Memory { bytes: most, source: "share of the free memory of the machine" },
        _ => Memory { bytes, source: memory.source },
    }
}

/// The largest device-local heap.
#[cfg(not(target_vendor = "apple"))]
fn vulkan(adapter: &wgpu::Adapter) -> Option<DriverReport> {
    use ash::vk;

    #[allow(unsafe_code)]
    // SAFETY: the guard is only read, nothing is destroyed through it.
    let hal = unsafe { adapter.as_hal::<wgpu::hal::api::Vulkan>() }?;
    let (instance, capabilities) = (hal.shared_instance(), hal.physical_device_capabilities());
    let has_query = instance.instance_api_version().min(capabilities.properties().api_version) >= vk::API_VERSION_1_1;
    let has_budget = has_query && capabilities.supports_extension(ash::ext::memory_budget::NAME);
    let mut budget = vk::PhysicalDeviceMemoryBudgetPropertiesEXT::default();
    let heaps = if has_budget {
        let mut properties = vk::PhysicalDeviceMemoryProperties2::default().push_next(&mut budget);
        #[allow(unsafe_code)]
        // SAFETY: the physical device is the instance's, both live as long as the guard; `has_budget` has checked that
        // both know this call and the structure in its chain.
        unsafe {
            let raw = instance.raw_instance();
            raw.get_physical_device_memory_properties2(hal.raw_physical_device(), &mut properties);
        }
        properties.memory_properties
    } else {
        #[allow(unsafe_code)]
        // SAFETY: the physical device is the instance's, both live as long as the guard.
        unsafe {
            instance.raw_instance().get_physical_device_memory_properties(hal.raw_physical_device())
        }
    };
    let local = |(_, heap): &(usize, &vk::MemoryHeap)| heap.flags.contains(vk::MemoryHeapFlags::DEVICE_LOCAL);
    let (at, heap) =
        heaps.memory_heaps_as_slice().iter().enumerate().filter(local).max_by_key(|(_, heap)| heap.size)?;
    if has_budget {
        let bytes = budget.heap_budget[at].min(heap.size).saturating_sub(budget.heap_usage[at]);
        return Some(DriverReport::Free(Memory { bytes, source: "free memory by VK_EXT_memory_budget" }));
    }
    Some(DriverReport::Whole(Memory { bytes: heap.size, source: "share of the heap size reported by Vulkan" }))
}

#[cfg(target_vendor = "apple")]
fn vulkan(_: &wgpu::Adapter) -> Option<DriverReport> {
    None
}

#[cfg(windows)]
fn dxgi(adapter: &wgpu::Adapter) -> Option<DriverReport> {
    #[allow(unsafe_code)]
    // SAFETY: the guard is only read, nothing is destroyed through it.
    let hal = unsafe { adapter.as_hal::<wgpu::hal::api::Dx12>() }?;
    // The default group is DXGI_MEMORY_SEGMENT_GROUP_LOCAL: a card's own memory, all of it on an integrated GPU.
    let info = hal.raw_adapter().query_video_memory_info(Default::default()).ok()?;
    let bytes = info.Budget.saturating_sub(info.CurrentUsage);
    Some(DriverReport::Free(Memory { bytes, source: "free memory by QueryVideoMemoryInfo" }))
}

#[cfg(not(windows))]
fn dxgi(_: &wgpu::Adapter) -> Option<DriverReport> {
    None
}

#[cfg(target_vendor = "apple")]
fn metal(adapter: &wgpu::Adapter) -> Option<DriverReport> {
    use objc2_metal::MTLDevice as _;

    #[allow(unsafe_code)]
    // SAFETY: the guard is only read, nothing is destroyed through it.
    let hal = unsafe { adapter.as_hal::<wgpu::hal::api::Metal>() }?;
    let device = hal.raw_device();
    let bytes = device.recommendedMaxWorkingSetSize().saturating_sub(device.currentAllocatedSize() as u64);
    Some(DriverReport::Free(Memory { bytes, source: "free memory by recommendedMaxWorkingSetSize" }))
}

#[cfg(not(target_vendor = "apple"))]
fn metal(_: &wgpu::Adapter) -> Option<DriverReport> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn what_is_free_counts_before_what_there_is() {
        let report = |bytes| Memory { bytes, source: "the driver" };
        let gib = |memory: Memory| (memory.bytes as f64 / GIB as f64 * 10.0).round() / 10.0;
        // A card: 90 % of what is free, or of all of it where the driver tells no more.
        assert_eq!(gib(allowed(Some(DriverReport::Free(report(6 * GIB))), None)), 5.4);
        assert_eq!(gib(allowed(Some(DriverReport::Whole(report(8 * GIB))), None)), 7.2);
        // An integrated GPU: no more than three quarters of the machine's free memory.
        let roomy = allowed(Some(DriverReport::Whole(report(8 * GIB))), Some(30 * GIB));
        assert_eq!((gib(roomy), roomy.source), (4.8, "the driver"));
        let tight = allowed(Some(DriverReport::Free(report(8 * GIB))), Some(2 * GIB));
        assert_eq!((gib(tight), tight.source), (1.5, "share of the free memory of the machine"));
        // Nothing is known.
        assert_eq!(allowed(None, None), ASSUMED);
        assert_eq!(gib(allowed(None, Some(2 * GIB))), 1.5);
    }
}

//! A Vulkan device with a buffer and kernels on it, opened as wgpu opens one but without wgpu's barriers and checks: with
//! wgpu in between, most faults cannot be made.

#![allow(unsafe_code, reason = "wgpu lets no fault through to the driver")]

use std::ffi::CStr;

use ash::vk;
use naga::{
    back::spv,
    proc::{BoundsCheckPolicies, BoundsCheckPolicy},
    valid::{Capabilities, ValidationFlags, Validator},
};

/// Bytes of the buffer that kernels see.
const BUFFER_BYTES: u64 = 256;

/// An open device of the first driver that the Vulkan loader finds, with one storage buffer bound.
pub struct Lab {
    /// Keeps the library loaded.
    _entry: ash::Entry,
    instance: ash::Instance,
    device: ash::Device,
    queue: vk::Queue,
    buffer: vk::Buffer,
    memory: vk::DeviceMemory,
    bound: Bound,
}

/// The buffer as kernels see it.
struct Bound {
    set_layout: vk::DescriptorSetLayout,
    layout: vk::PipelineLayout,
    pool: vk::DescriptorPool,
    set: vk::DescriptorSet,
}

impl Lab {
    /// The buffer is bound from this offset; Vulkan wants a multiple of 4 at least.
    pub fn open(offset: u64) -> Self {
        // SAFETY: the loader of the system; nothing else of this process uses Vulkan while it is loaded.
        let entry = unsafe { ash::Entry::load() }.expect("a Vulkan loader");
        let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_3);
        let info = vk::InstanceCreateInfo::default().application_info(&application);
        // SAFETY: `info` and what it refers to live until the call returns.
        let instance = unsafe { entry.create_instance(&info, None) }.expect("an instance");
        // SAFETY: the instance was created above and is not destroyed.
        let physical = unsafe { instance.enumerate_physical_devices() }.expect("devices")[0];
        let device = Self::device(&instance, physical);
        // SAFETY: the device was created with one queue of family 0.
        let queue = unsafe { device.get_device_queue(0, 0) };
        let (buffer, memory) = Self::buffer(&device);
        let bound = Self::bound(&device, buffer, offset);
        Self { _entry: entry, instance, device, queue, buffer, memory, bound }
    }

    /// With robust access, as wgpu asks for it: a layer must find accesses out of bounds all the same.
    fn device(instance: &ash::Instance, physical: vk::PhysicalDevice) -> ash::Device {
        // SAFETY: `physical` is of this instance.
        let have = unsafe { instance.enumerate_device_extension_properties(physical) }.expect("extensions");
        let supports = |name: &CStr| have.iter().any(|e| e.extension_name_as_c_str() == Ok(name));
        let robustness2 = supports(ash::ext::robustness2::NAME).then_some(ash::ext::robustness2::NAME.as_ptr());
        let extensions: Vec<_> = robustness2.into_iter().collect();
        let features = vk::PhysicalDeviceFeatures::default().robust_buffer_access(true);
        let mut robust = vk::PhysicalDeviceRobustness2FeaturesEXT::default().robust_buffer_access2(true);
        let mut features12 = vk::PhysicalDeviceVulkan12Features::default()
            .vulkan_memory_model(true)
            .vulkan_memory_model_device_scope(true)
            .timeline_semaphore(true);
        let queues = [vk::DeviceQueueCreateInfo::default().queue_family_index(0).queue_priorities(&[1.0])];
        let mut info = vk::DeviceCreateInfo::default()
            .queue_create_infos(&queues)
            .enabled_extension_names(&extensions)
            .enabled_features(&features)
            .push_next(&mut features12);
        if robustness2.is_some() {
            info = info.push_next(&mut robust);
        }
        // SAFETY: `physical` is of this instance; software drivers have these features, and the extension was looked for.
        unsafe { instance.create_device(physical, &info, None) }.expect("a device")
    }

    fn buffer(device: &ash::Device) -> (vk::Buffer, vk::DeviceMemory) {
        // Space for a binding that does not begin at 0.
        let info = vk::BufferCreateInfo::default().size(2 * BUFFER_BYTES).usage(vk::BufferUsageFlags::STORAGE_BUFFER);
        // SAFETY: `info` lives until the call returns; the memory is as large and of a kind as the driver says.
        unsafe {
            let buffer = device.create_buffer(&info, None).expect("a buffer");
            let need = device.get_buffer_memory_requirements(buffer);
            let info = vk::MemoryAllocateInfo::default()
                .allocation_size(need.size)
                .memory_type_index(need.memory_type_bits.trailing_zeros());
            let memory = device.allocate_memory(&info, None).expect("memory");
            device.bind_buffer_memory(buffer, memory, 0).expect("a buffer with memory");
            (buffer, memory)
        }
    }

    fn bound(device: &ash::Device, buffer: vk::Buffer, offset: u64) -> Bound {
        let kind = vk::DescriptorType::STORAGE_BUFFER;
        let binding = [vk::DescriptorSetLayoutBinding::default()
            .descriptor_count(1)
            .descriptor_type(kind)
            .stage_flags(vk::ShaderStageFlags::COMPUTE)];
        let sizes = [vk::DescriptorPoolSize::default().ty(kind).descriptor_count(1)];
        let range = [vk::DescriptorBufferInfo::default().buffer(buffer).offset(offset).range(BUFFER_BYTES)];
        // SAFETY: all that is referred to lives until the call returns or is of this device. What the offset may break is
        // for the validation layer to say; the range ends inside the buffer.
        unsafe {
            let info = vk::DescriptorSetLayoutCreateInfo::default().bindings(&binding);
            let sets = [device.create_descriptor_set_layout(&info, None).expect("a layout of a set")];
            let info = vk::PipelineLayoutCreateInfo::default().set_layouts(&sets);
            let layout = device.create_pipeline_layout(&info, None).expect("a layout");
            let info = vk::DescriptorPoolCreateInfo::default().max_sets(1).pool_sizes(&sizes);
            let pool = device.create_descriptor_pool(&info, None).expect("a pool of sets");
            let info = vk::DescriptorSetAllocateInfo::default().descriptor_pool(pool).set_layouts(&sets);
            let set = device.allocate_descriptor_sets(&info).expect("a set")[0];
            let write = vk::WriteDescriptorSet::default().dst_set(set).descriptor_type(kind).buffer_info(&range);
            device.update_descriptor_sets(&[write], &[]);
            Bound { set_layout: sets[0], layout, pool, set }
        }
    }

    /// Runs one workgroup of each kernel on the buffer, one behind the other without barriers.
    pub fn dispatch(&self, kernels: &[&str]) {
        let device = &self.device;
        let Bound { layout, set, .. } = self.bound;
        let pipelines: Vec<_> = kernels.iter().map(|kernel| self.pipeline(kernel)).collect();
        // SAFETY: everything is of this device and is kept until it is idle. The faults are between kernels or inside one;
        // robust access keeps the process whole.
        unsafe {
            let pool = device.create_command_pool(&vk::CommandPoolCreateInfo::default(), None).expect("a pool");
            let info = vk::CommandBufferAllocateInfo::default().command_pool(pool).command_buffer_count(1);
            let commands = device.allocate_command_buffers(&info).expect("a command buffer");
            device.begin_command_buffer(commands[0], &vk::CommandBufferBeginInfo::default()).expect("a beginning");
            let compute = vk::PipelineBindPoint::COMPUTE;
            for &pipeline in &pipelines {
                device.cmd_bind_pipeline(commands[0], compute, pipeline);
                device.cmd_bind_descriptor_sets(commands[0], compute, layout, 0, &[set], &[]);
                device.cmd_dispatch(commands[0], 1, 1, 1);
            }
            device.end_command_buffer(commands[0]).expect("an end");
            let submit = [vk::SubmitInfo::default().command_buffers(&commands)];
            device.queue_submit(self.queue, &submit, vk::Fence::null()).expect("a submit");
            device.device_wait_idle().expect("an idle device");
            device.destroy_command_pool(pool, None);
            pipelines.iter().for_each(|&pipeline| device.destroy_pipeline(pipeline, None));
        }
    }

    /// A kernel as naga writes it for ours: without checks.
    fn pipeline(&self, kernel: &str) -> vk::Pipeline {
        let unchecked = BoundsCheckPolicy::Unchecked;
        let options = spv::Options {
            lang_version: (1, 6),
            bounds_check_policies: BoundsCheckPolicies {
                index: unchecked,
                buffer: unchecked,
                image_load: unchecked,
                binding_array: unchecked,
            },
            zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
            ..spv::Options::default()
        };
        let module = naga::front::wgsl::parse_str(kernel).expect("WGSL");
        let info = Validator::new(ValidationFlags::all(), Capabilities::empty()).validate(&module).expect("valid WGSL");
        let words = spv::write_vec(&module, &info, &options, None).expect("SPIR-V");
        let module = vk::ShaderModuleCreateInfo::default().code(&words);
        // SAFETY: naga has validated what the words were written from; the layout has the one binding of the kernels.
        unsafe {
            let module = self.device.create_shader_module(&module, None).expect("a module");
            let stage = vk::PipelineShaderStageCreateInfo::default()
                .stage(vk::ShaderStageFlags::COMPUTE)
                .module(module)
                .name(c"main");
            let info = [vk::ComputePipelineCreateInfo::default().stage(stage).layout(self.bound.layout)];
            let made = self.device.create_compute_pipelines(vk::PipelineCache::null(), &info, None);
            self.device.destroy_shader_module(module, None);
            made.expect("a pipeline")[0]
        }
    }
}

/// Destroys everything: an object left behind would be a fault of its own.
impl Drop for Lab {
    fn drop(&mut self) {
        let (device, Bound { set_layout, layout, pool, .. }) = (&self.device, &self.bound);
        // SAFETY: the device is idle after a dispatch, all is of it, and none is used any more.
        unsafe {
            device.destroy_descriptor_pool(*pool, None);
            device.destroy_pipeline_layout(*layout, None);
            device.destroy_descriptor_set_layout(*set_layout, None);
            device.destroy_buffer(self.buffer, None);
            device.free_memory(self.memory, None);
            device.destroy_device(None);
            self.instance.destroy_instance(None);
        }
    }
}

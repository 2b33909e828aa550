//! The page that compiles shaders and runs kernels, and tells what it found.

use bitnet_gpu::backend::gpu::pipelines::{Access, Lanes, Variant};
use serde_json::{Value, json};

/// A kernel with its input, and what one of its buffers must hold afterwards.
pub struct Run {
    pub variant: Variant,
    /// Besides WG.
    pub constants: Vec<(&'static str, f64)>,
    pub params: [u8; 64],
    /// Initial contents of each binding.
    pub buffers: Vec<Vec<u8>>,
    /// Workgroups.
    pub grid: [usize; 3],
    /// Binding and bytes.
    pub result: (usize, Vec<u8>),
}

/// Work for the browser.
#[derive(Default)]
pub struct Page {
    modules: Vec<Value>,
    runs: Vec<Value>,
    pipelines: usize,
}

/// The text as a browser wants it: naga 30 takes the builtins of subgroups without this line, and refuses it.
fn text(variant: &Variant) -> String {
    let enable = if variant.choices.lanes == Lanes::Subgroup { "enable subgroups;\n" } else { "" };
    format!("{enable}{}", variant.compose())
}

fn bindings(variant: &Variant) -> Vec<&'static str> {
    let access = |access: &Access| match access {
        Access::Read => "read-only-storage",
        Access::Write => "storage",
    };
    variant.program.kernel().bindings.iter().map(access).collect()
}

fn object(constants: &[(&'static str, f64)]) -> Value {
    constants.iter().map(|&(name, value)| (name.to_owned(), json!(value))).collect::<serde_json::Map<_, _>>().into()
}

impl Page {
    /// Compiles a text to a pipeline with each of these constants.
    pub fn compile(&mut self, variant: &Variant, constant_sets: &[Vec<(&'static str, f64)>]) {
        self.pipelines += constant_sets.len();
        self.modules.push(json!({
            "name": variant.name(),
            "text": text(variant),
            "bindings": bindings(variant),
            "constants": constant_sets.iter().map(|set| object(set)).collect::<Vec<_>>(),
        }));
    }

    /// Runs a kernel and compares.
    pub fn run(&mut self, run: &Run) {
        let workgroup = f64::from(run.variant.workgroup());
        let constants = [&[("WG", workgroup)], &run.constants[..]].concat();
        let (binding, expected) = &run.result;
        self.runs.push(json!({
            "name": run.variant.name(),
            "text": text(&run.variant),
            "bindings": bindings(&run.variant),
            "constants": object(&constants),
            "params": run.params.to_vec(),
            "buffers": run.buffers,
            "grid": run.grid,
            "binding": binding,
            "expected": expected,
        }));
    }

    /// Pipelines to be made by [`compile`](Self::compile).
    pub fn pipelines(&self) -> usize {
        self.pipelines
    }

    /// Kernels to be run.
    pub fn runs(&self) -> usize {
        self.runs.len()
    }

    /// The page; it posts a report to the place it came from.
    pub fn html(&self) -> String {
        // `<` would end the script within a text.
        let work = json!({ "modules": self.modules, "runs": self.runs }).to_string().replace('<', "\\u003c");
        format!("<!doctype html><meta charset=utf-8><script>const work = {work};\n{SCRIPT}</script>")
    }
}

const SCRIPT: &str = r#"
const report = { adapter: null, pipelines: 0, runs: 0, faults: [] };
const fault = (name, what) => report.faults.push(name + ": " + what);

const layout = (device, bindings) => {
  const entry = (binding, buffer) => ({ binding, visibility: GPUShaderStage.COMPUTE, buffer });
  const own = device.createBindGroupLayout({ entries: bindings.map((type, i) => entry(i, { type })) });
  const params = device.createBindGroupLayout({ entries: [entry(0, { type: "uniform" })] });
  return { own, params, pipeline: device.createPipelineLayout({ bindGroupLayouts: [own, params] }) };
};

const compile = async (device, { name, text }) => {
  const module = device.createShaderModule({ code: text });
  for (const { type, message, lineNum } of (await module.getCompilationInfo()).messages) {
    fault(name, type + " in line " + lineNum + ": " + message + " | " + (text.split("\n")[lineNum - 1] ?? ""));
  }
  return module;
};

const pipeline = (device, module, layout, constants) =>
  device.createComputePipelineAsync({ layout, compute: { module, entryPoint: "main", constants } });

const run = async (device, { name, text, bindings, constants, params, buffers, grid, binding, expected }) => {
  const layouts = layout(device, bindings);
  const made = await pipeline(device, await compile(device, { name, text }), layouts.pipeline, constants);
  const U = GPUBufferUsage;
  const buffer = (bytes, usage) => {
    const size = Math.max(16, Math.ceil(bytes.length / 4) * 4);
    const made = device.createBuffer({ size, usage: usage | U.COPY_DST | U.COPY_SRC });
    const padded = new Uint8Array(size);
    padded.set(bytes);
    device.queue.writeBuffer(made, 0, padded);
    return made;
  };
  const own = buffers.map(bytes => buffer(bytes, U.STORAGE));
  const group = (layout, buffers) => device.createBindGroup({
    layout, entries: buffers.map((buffer, binding) => ({ binding, resource: { buffer } })),
  });
  const back = device.createBuffer({ size: own[binding].size, usage: U.MAP_READ | U.COPY_DST });
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  pass.setPipeline(made);
  pass.setBindGroup(0, group(layouts.own, own));
  pass.setBindGroup(1, group(layouts.params, [buffer(params, U.UNIFORM)]));
  pass.dispatchWorkgroups(...grid);
  pass.end();
  encoder.copyBufferToBuffer(own[binding], 0, back, 0, back.size);
  device.queue.submit([encoder.finish()]);
  await back.mapAsync(GPUMapMode.READ);
  const found = new Uint8Array(back.getMappedRange());
  const at = expected.findIndex((byte, i) => byte != found[i]);
  if (at >= 0) { fault(name, "byte " + at + " is " + found[at] + ", expected " + expected[at]); }
  report.runs += 1;
};

const main = async () => {
  const adapter = await navigator.gpu?.requestAdapter();
  if (!adapter) { return fault("WebGPU", "no adapter"); }
  const { vendor, architecture, description } = adapter.info;
  report.adapter = [vendor, architecture, description].join(" ").trim();
  if (!adapter.features.has("subgroups")) { return fault("WebGPU", "no subgroups on " + report.adapter); }
  const device = await adapter.requestDevice({ requiredFeatures: ["subgroups"] });
  device.addEventListener("uncapturederror", event => fault("device", event.error.message));
  for (const { name, text, bindings, constants } of work.modules) {
    const module = await compile(device, { name, text });
    const { pipeline: own } = layout(device, bindings);
    for (const set of constants) {
      await pipeline(device, module, own, set)
        .then(() => { report.pipelines += 1; }, error => fault(name + " " + JSON.stringify(set), error.message));
    }
  }
  for (const one of work.runs) { await run(device, one).catch(error => fault(one.name, error.message)); }
};

main().catch(error => fault("the page", String(error)))
  .then(() => fetch("/report", { method: "POST", body: JSON.stringify(report) }));
"#;

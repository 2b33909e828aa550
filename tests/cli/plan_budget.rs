//! `plan` on models of real sizes within a given budget of the GPU. The files are headers over empty space: planning
//! reads no weights.

use std::{
    env, fs,
    io::{Seek, SeekFrom, Write},
    path::Path,
};

use bitnet_gpu::gguf::{File, Metadata, TensorSpec, TensorType, Value, Writer};
use serde_json::Value as Json;

use crate::common::cli::run;

struct Shape {
    layers: u64,
    dim: u64,
    ffn_dim: u64,
    heads: u64,
    kv_heads: u64,
    vocab: u64,
    context: u64,
}

const B2: Shape = Shape { layers: 30, dim: 2560, ffn_dim: 6912, heads: 20, kv_heads: 5, vocab: 128_256, context: 4096 };
const B7: Shape =
    Shape { layers: 32, dim: 4096, ffn_dim: 12032, heads: 32, kv_heads: 32, vocab: 32_002, context: 2048 };
const B30: Shape =
    Shape { layers: 60, dim: 6656, ffn_dim: 16384, heads: 52, kv_heads: 52, vocab: 32_002, context: 2048 };

impl Shape {
    fn kv_dim(&self) -> u64 {
        self.dim / self.heads * self.kv_heads
    }

    /// Two bits a weight, and two bytes for each of the keys and values of the context.
    fn layer_bytes(&self) -> u64 {
        let weights = 2 * self.dim * self.dim + 2 * self.dim * self.kv_dim() + 3 * self.dim * self.ffn_dim;
        weights / 4 + self.context * 2 * self.kv_dim() * 2
    }

    /// f16; embedding table and head in one.
    fn table_bytes(&self) -> u64 {
        2 * self.vocab * self.dim
    }

    fn write(&self, path: &Path) {
        let mut metadata = Metadata::default();
        let arch = "bitnet-b1.58";
        metadata.set("general.architecture", Value::String(arch.into()));
        for (key, value) in [
            ("vocab_size", self.vocab),
            ("context_length", self.context),
            ("embedding_length", self.dim),
            ("block_count", self.layers),
            ("feed_forward_length", self.ffn_dim),
            ("rope.dimension_count", self.dim / self.heads),
            ("attention.head_count", self.heads),
            ("attention.head_count_kv", self.kv_heads),
        ] {
            metadata.set(format!("{arch}.{key}"), Value::U32(u32::try_from(value).unwrap()));
        }
        metadata.set(format!("{arch}.attention.layer_norm_rms_epsilon"), Value::F32(1e-5));
        metadata.set(format!("{arch}.rope.freq_base"), Value::F32(10_000.0));
        let mut specs = Vec::new();
        let mut spec = |name: String, dims: &[u64], ty| specs.push(TensorSpec { name, dims: dims.to_vec(), ty });
        spec("token_embd.weight".into(), &[self.dim, self.vocab], TensorType::F16);
        spec("output_norm.weight".into(), &[self.dim], TensorType::F32);
        for layer in 0..self.layers {
            for (name, rows, cols) in [
                ("attn_q", self.dim, self.dim),
                ("attn_k", self.kv_dim(), self.dim),
                ("attn_v", self.kv_dim(), self.dim),
                ("attn_output", self.dim, self.dim),
                ("ffn_gate", self.ffn_dim, self.dim),
                ("ffn_up", self.ffn_dim, self.dim),
                ("ffn_down", self.dim, self.ffn_dim),
            ] {
                spec(format!("blk.{layer}.{name}.weight"), &[cols, rows], TensorType::I2_S);
            }
            for (name, width) in [
                ("attn_norm", self.dim),
                ("attn_sub_norm", self.dim),
                ("ffn_norm", self.dim),
                ("ffn_sub_norm", self.ffn_dim),
            ] {
                spec(format!("blk.{layer}.{name}.weight"), &[width], TensorType::F32);
            }
        }
        let writer = Writer::create(&metadata, specs, fs::File::create(path).unwrap()).unwrap();
        let bytes = writer.file_bytes();
        drop(writer);
        let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(bytes).unwrap();
        // The scale stands behind the codes; 0 would be refused.
        for tensor in File::open(path).unwrap().tensors().iter().filter(|tensor| tensor.ty == TensorType::I2_S) {
            file.seek(SeekFrom::Start(tensor.offset + tensor.len_bytes - 32)).unwrap();
            file.write_all(&1.0f32.to_le_bytes()).unwrap();
        }
    }
}

/// The plan as JSON, for the GPU where there is one.
fn plan(path: &Path, budget: &str) -> Option<Json> {
    let args = ["plan", "--json", "--backend", "gpu", "-b", "64", "--gpu-memory", budget, "-m", path.to_str().unwrap()];
    let done = run(&args);
    if done.stderr.contains("no usable GPU adapter") && env::var_os("BITNET_REQUIRE_GPU").is_none() {
        eprintln!("skipped: {}", done.stderr);
        return None;
    }
    assert_eq!(done.code, Some(0), "{done:?}");
    Some(serde_json::from_str(&done.stdout).unwrap())
}

#[test]
fn layers_that_do_not_fit_stay_on_the_cpu_with_the_reason() {
    const GIB: u64 = 1 << 30;
    for (name, shape, budget_gib) in
        [("2B", B2, 2), ("2B", B2, 8), ("7B", B7, 2), ("7B", B7, 8), ("30B", B30, 2), ("30B", B30, 8)]
    {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dummy.gguf");
        shape.write(&path);
        let Some(json) = plan(&path, &format!("{budget_gib}G")) else { return };
        assert_eq!(json["gpu_budget_bytes"], budget_gib * GIB);
        let budget = budget_gib * GIB;
        // Activations, norms and tables of rotations are small beside a layer: less than half a layer, at most 64 MiB.
        let most = shape.layers.min((budget - shape.table_bytes()) / shape.layer_bytes());
        let least = shape.layers.min((budget - shape.table_bytes() - (64 << 20)) / shape.layer_bytes());
        let segments = json["segments"].as_array().unwrap();
        let gpu = segments.last().unwrap();
        assert_eq!((&gpu["backend"], &gpu["head"]), (&"gpu".into(), &true.into()), "{name}: {json}");
        let on_gpu = shape.layers - gpu["layers"][0].as_u64().unwrap();
        assert!((least..=most).contains(&on_gpu), "{name} in {budget_gib} GiB: {on_gpu}, not {least} to {most}");
        assert_eq!(gpu["reason"], "asked for the GPU");
        if on_gpu == shape.layers {
            assert_eq!(segments.len(), 1, "{json}");
            continue;
        }
        let cpu = &segments[0];
        assert_eq!((segments.len(), &cpu["backend"], &cpu["head"]), (2, &"cpu".into(), &false.into()), "{json}");
        let reason = cpu["reason"].as_str().unwrap();
        assert!(reason.starts_with("does not fit: "), "{reason}");
        assert!(reason.contains(&format!("of the {} MiB budget left on ", budget >> 20)), "{reason}");
    }
}

#[test]
fn the_demo_model_fits_where_its_weights_do() {
    let plan = |budget: &str| {
        let done = run(&["plan", "--json", "--backend", "gpu", "--gpu-memory", budget]);
        (done.code == Some(0)).then(|| serde_json::from_str::<Json>(&done.stdout).unwrap())
    };
    let Some(roomy) = plan("2G") else {
        assert!(env::var_os("BITNET_REQUIRE_GPU").is_none(), "no adapter");
        eprintln!("skipped: no adapter");
        return;
    };
    assert_eq!(roomy["segments"].as_array().unwrap().len(), 1);
    assert_eq!(roomy["segments"][0]["backend"], "gpu");
    // 4 layers of 196 KiB of weights and 256 KiB of cache; the table alone takes 4 MiB.
    let tight = plan("1M").unwrap();
    assert_eq!(tight["segments"][0]["backend"], "cpu", "{tight}");
    assert!(tight["segments"][0]["reason"].as_str().unwrap().starts_with("does not fit: 1 MiB of the 1 MiB budget"));
}

/// The copy of the head in fewer bits is the first thing to be left out, unless it was asked for.
#[test]
fn no_layer_makes_room_for_a_copy_of_the_head() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dummy.gguf");
    B2.write(&path);
    let plan = |budget: u64, screen: &str| {
        let budget = budget.to_string();
        let args = ["plan", "--json", "--backend", "gpu", "-b", "64", "--gpu-memory", &budget, "--head-screen", screen];
        let done = run(&[&args[..], &["-m", path.to_str().unwrap()]].concat());
        (done.code == Some(0)).then(|| serde_json::from_str::<Json>(&done.stdout).unwrap())
    };
    let Some(without) = plan(8 << 30, "off") else {
        assert!(env::var_os("BITNET_REQUIRE_GPU").is_none(), "no adapter");
        eprintln!("skipped: no adapter");
        return;
    };
    let bytes = |json: &Json| {
        let segments = json["segment_memory"].as_array().unwrap();
        assert_eq!(segments.len(), 1, "{json}");
        segments[0]["total_bytes"].as_u64().unwrap()
    };
    let (least, roomy) = (bytes(&without), bytes(&plan(8 << 30, "auto").unwrap()));
    // 128256 rows of 2560 columns in 6 bits, and 16 bytes of each.
    let copy = 128_256 * (2560 * 6 / 8 + 16);
    assert!((copy..copy + (2 << 20)).contains(&(roomy - least)), "{roomy} and {least} bytes");
    // Just enough for the layers: they stay, unless the copy was asked for.
    assert_eq!(bytes(&plan(least, "auto").unwrap()), least);
    assert_eq!(plan(least, "on").unwrap()["segments"].as_array().unwrap().len(), 2);
    assert_eq!(bytes(&plan(roomy, "auto").unwrap()), roomy);
}

/// Weights as the file has them, and no copy of the head.
#[test]
fn who_prefers_memory_gets_no_copies() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("2b.gguf");
    B2.write(&path);
    let memory = |more: &[&str]| {
        let plan = run(&[&["plan", path.to_str().unwrap(), "--backend", "cpu", "--json"], more].concat()).json();
        let bytes = |field: &str| plan["segment_memory"][0][field].as_u64().unwrap();
        (bytes("table_bytes"), bytes("weight_bytes"))
    };
    let (table, weights) = memory(&["--prefer", "memory"]);
    assert_eq!(table, B2.table_bytes());
    let of_layers = B2.layers * (B2.layer_bytes() - B2.context * 2 * B2.kv_dim() * 2);
    assert!((of_layers..of_layers + of_layers / 100).contains(&weights), "{weights}, {of_layers}");
    let (with_copy, packed) = memory(&[]);
    // 6 of 16 bits.
    assert!(with_copy > table + table / 3 && packed > 0, "{with_copy}");
    // Asked for, there is one all the same.
    assert_eq!(memory(&["--prefer", "memory", "--head-screen", "on"]).0, with_copy);
}

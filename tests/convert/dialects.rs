//! Between the ternary types: nothing changes on the way, and what would change is refused.

use std::{
    fs,
    path::{Path, PathBuf},
};

use bitnet_cpu_kernels::{
    Cpu,
    format::{Codec, DenseType, Dialect, I2sPacking, Layout, MatrixScales, Tile, dense::decode_row, pack},
    isa::Isa,
    quantize::QuantizedActs,
    ternary::matmul_i32,
    testing::Rng,
};
use bitnet_gpu::{
    convert::{ConvertOptions, Head, Report, TernaryType, convert},
    error::Result,
    gguf::{Array, File, Metadata, TensorSpec, TensorType, Value, Writer},
    model::{DenseMatrix, Linear, Model as Loaded, OpenOptions, TileTable},
};

use super::support::{Case, Model, reals};
use crate::common::shared;

/// Every type that is written, in an order that goes through each kind of scale.
const ROUND: [TernaryType; 9] = [
    TernaryType::TL2,
    TernaryType::TQ1_0,
    TernaryType::PQ2_0,
    TernaryType::TQ2_0,
    TernaryType::TL1,
    TernaryType::Q2_0,
    TernaryType::PTQ1_0,
    TernaryType::TQ1_0,
    TernaryType::I2S,
];

fn to(ty: TernaryType) -> ConvertOptions<'static> {
    ConvertOptions { ty: Some(ty), ..Default::default() }
}

/// Converts `from` into a file of the same folder.
fn step(from: &Path, name: &str, options: &ConvertOptions) -> Result<(PathBuf, Report)> {
    let out = from.with_file_name(name);
    convert(from, &out, options).map(|report| (out, report))
}

#[test]
fn a_round_through_every_type_gives_the_same_file() {
    for model in [Model::wide(), Model::wide_llama()] {
        let case = Case::of(&model);
        let first = case.bytes();
        let mut at = case.output();
        for (place, ty) in ROUND.into_iter().enumerate() {
            let (next, report) = step(&at, &format!("{place}.gguf"), &to(ty)).unwrap();
            assert_eq!((report.matrices, report.rounded), (14, 0));
            assert_eq!(report.bytes_out, fs::metadata(&next).unwrap().len());
            at = next;
        }
        assert!(fs::read(&at).unwrap() == first, "the last file differs from the first");
    }
}

#[test]
fn a_directory_is_converted_to_any_type_at_once() {
    let case = Case::of(&Model::wide());
    case.convert().unwrap();
    for ty in ROUND {
        let at_once = case.folder.path().join("at-once.gguf");
        convert(&case.input(), &at_once, &ConvertOptions { force: true, ..to(ty) }).unwrap();
        let (by_steps, _) = step(&case.output(), "by-steps.gguf", &ConvertOptions { force: true, ..to(ty) }).unwrap();
        assert!(fs::read(at_once).unwrap() == fs::read(by_steps).unwrap(), "{ty:?}");
    }
}

#[test]
fn the_metadata_says_what_is_needed_to_read_the_file() {
    let case = Case::of(&Model::wide());
    case.convert().unwrap();
    for (ty, file_type, tiles) in [
        (TernaryType::TQ1_0, 36, None),
        (TernaryType::TQ2_0, 37, None),
        (TernaryType::TL1, 38, Some("bitnet.tl1.tiles")),
        (TernaryType::TL2, 39, Some("bitnet.tl2.tiles")),
        (TernaryType::Q2_0, 41, None),
        (TernaryType::PQ2_0, 142, None),
        (TernaryType::PTQ1_0, 143, None),
    ] {
        let (out, _) = step(&case.output(), &format!("{ty:?}.gguf"), &to(ty)).unwrap();
        let file = File::open(&out).unwrap();
        assert_eq!(file.metadata().get("general.file_type"), Some(&Value::U32(file_type)));
        let found: Vec<&str> =
            file.metadata().iter().map(|(key, _)| key).filter(|key| key.ends_with("tiles")).collect();
        assert_eq!(found, tiles.into_iter().collect::<Vec<_>>(), "{ty:?}");
    }
    let file = File::open(&case.folder.path().join("TL1.gguf")).unwrap();
    let Some(Value::Array(Array::U32(tiles))) = file.metadata().get("bitnet.tl1.tiles") else {
        panic!("no array of u32");
    };
    // Four shapes in the order of the file; 512 = 2 * 256, 768 = 3 * 256, none is a multiple of 320.
    assert_eq!(
        tiles[..],
        [[512, 512, 256, 128, 32], [256, 512, 256, 128, 32], [768, 512, 256, 128, 32], [512, 768, 256, 128, 32],]
            .concat()
    );
}

/// A copy of an I2_S file whose matrices are in a dialect.
fn rewritten(from: &Path, name: &str, ty: TensorType, dialect: impl Fn(usize, usize) -> Dialect) -> PathBuf {
    let file = File::open(from).unwrap();
    let mut specs = Vec::new();
    let mut data = Vec::new();
    for info in file.tensors() {
        let mut spec = TensorSpec { name: info.name.clone(), dims: info.dims.clone(), ty: info.ty };
        let mut bytes = file.data(info).to_vec();
        if info.ty == TensorType::I2_S {
            let (cols, rows) = (info.dims[0] as usize, info.dims[1] as usize);
            let original = Codec::new(Dialect::I2S(I2sPacking::P128), rows, cols).unwrap();
            let codec = Codec::new(dialect(rows, cols), rows, cols).unwrap();
            // A scale that every dialect can hold.
            let scales = MatrixScales::PerTensor(0.75).fitted(codec.scale_kind(), rows, cols, false).unwrap();
            bytes = codec.encode(&original.decode(&bytes).unwrap(), &scales).unwrap();
            spec.ty = ty;
        }
        specs.push(spec);
        data.push(bytes);
    }
    let out = from.with_file_name(name);
    let mut writer = Writer::create(file.metadata(), specs.clone(), fs::File::create(&out).unwrap()).unwrap();
    for (spec, bytes) in specs.iter().zip(data) {
        writer.write_tensor(&spec.name, &bytes).unwrap();
    }
    writer.finish().unwrap();
    out
}

/// The dialects that are read, but not written.
fn foreign(from: &Path) -> Vec<(PathBuf, OpenOptions)> {
    let i2s = |packing| OpenOptions { i2s: packing, ..Default::default() };
    let mut files: Vec<_> = [
        (TensorType::IQ1_BN, Dialect::IQ1BN),
        (TensorType::IQ2_BN, Dialect::IQ2BN),
        (TensorType::IQ2_BN_R4, Dialect::IQ2BNR4),
        (TensorType::Q2_0_G128, Dialect::Q2_0G128),
        (TensorType::PQ2_0, Dialect::Q2_0G128),
        (TensorType::PTQ1_0, Dialect::PTQ1_0),
        (TensorType::TQ2_0, Dialect::TQ2_0),
    ]
    .into_iter()
    .map(|(ty, dialect)| (rewritten(from, &format!("{}.gguf", ty.name()), ty, |_, _| dialect), OpenOptions::default()))
    .collect();
    for packing in [I2sPacking::P128, I2sPacking::P64, I2sPacking::R4, I2sPacking::Seq] {
        let dialect = |_, _| Dialect::I2S(packing);
        let file = rewritten(from, &format!("{packing:?}.gguf"), TensorType::I2_S, dialect);
        files.push((file, i2s(packing)));
    }
    files
}

/// The products of every matrix with the same int8 activations.
fn products(model: &Loaded) -> Vec<Vec<i32>> {
    const TOKENS: usize = 3;
    let cpu = Cpu::new(Isa::detect(), 1);
    let mut rng = Rng::new(11);
    let mut all = Vec::new();
    for (layer, block) in model.weights.blocks.iter().enumerate() {
        for role in Linear::ATTENTION {
            let matrix = model.packed(layer, role, block.linear(role).layout()).unwrap();
            let mut acts = QuantizedActs::new(TOKENS, matrix.cols);
            acts.set_raw(matrix.cols, &rng.i8s(TOKENS * matrix.cols), &[1.0; TOKENS]);
            let mut out = vec![0; TOKENS * matrix.rows];
            matmul_i32(&cpu, &acts, matrix.view(), &mut out);
            all.push(out);
        }
    }
    all
}

#[test]
fn every_dialect_of_a_model_gives_the_same_integers() {
    let case = Case::of(&Model::wide());
    case.convert().unwrap();
    let expected = Loaded::open(&case.output()).unwrap();
    let expected_products = products(&expected);
    let open = |path: &Path, options: &OpenOptions| {
        Loaded::from_gguf_with(&File::open(path).unwrap(), options)
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    };
    let check = |what: &Path, model: &Loaded, scale: Option<f32>| {
        assert!(products(model) == expected_products, "{}", what.display());
        for (block, other) in model.weights.blocks.iter().zip(&expected.weights.blocks) {
            for role in Linear::ATTENTION {
                let expected =
                    scale.map_or(other.linear(role).scales.clone(), |scale| MatrixScales::PerTensor(scale).into());
                assert_eq!(block.linear(role).scales, expected, "{}", what.display());
            }
        }
    };
    for ty in ROUND {
        let options = ConvertOptions { force: true, ..to(ty) };
        let (path, _) = step(&case.output(), &format!("to-{ty:?}.gguf"), &options).unwrap();
        check(&path, &open(&path, &OpenOptions::default()), None);
    }
    for (path, options) in foreign(&case.output()) {
        check(&path, &open(&path, &options), Some(0.75));
    }
}

#[test]
fn what_is_only_read_is_converted_as_well() {
    let case = Case::of(&Model::wide());
    case.convert().unwrap();
    let files = foreign(&case.output());
    let expected = fs::read(case.folder.path().join("P128.gguf")).unwrap();
    for (path, open) in files {
        let options = ConvertOptions { open, force: true, ..to(TernaryType::I2S) };
        let (out, _) = step(&path, "back.gguf", &options).unwrap();
        let file = File::open(&out).unwrap();
        let reference = File::parse(expected.clone().into()).unwrap();
        for info in reference.tensors() {
            let found = file.tensor(&info.name).unwrap();
            assert!(file.data(found)[..] == reference.data(info)[..], "{}: {}", path.display(), info.name);
        }
    }
}

#[test]
fn a_scale_of_a_matrix_stands_beside_types_that_have_f16_ones() {
    let case = Case::of(&Model::wide());
    case.convert().unwrap();
    let (path, _) = step(&case.output(), "tq.gguf", &to(TernaryType::TQ1_0)).unwrap();
    let (file, original) = (File::open(&path).unwrap(), File::open(&case.output()).unwrap());
    let names: Vec<&str> = file.tensors().iter().map(|info| info.name.as_str()).collect();
    let at = names.iter().position(|name| *name == "blk.1.ffn_up.weight").unwrap();
    assert_eq!(names[at + 1], "blk.1.ffn_up.scale");
    let info = file.tensor("blk.1.ffn_up.scale").unwrap();
    assert_eq!((info.ty, &info.dims[..]), (TensorType::F32, &[1][..]));
    assert_eq!(reals(&file, "blk.1.ffn_up.scale"), [super::support::scale(&original, "blk.1.ffn_up.weight")]);
    // d = 1 = 0x3c00 at the end of each block of 54 bytes.
    let data = file.data(file.tensor("blk.1.ffn_up.weight").unwrap());
    assert!(data.chunks(54).all(|block| block[52..] == [0x00, 0x3c]));
}

#[test]
fn bitnet_cpps_tiles_are_those_of_the_table_that_is_named() {
    // A file as bitnet.cpp makes it says nothing about tiles; its two tables cut 1024 x 4096 up differently.
    let (rows, cols) = (1024, 4096);
    let mut codes = vec![1; rows * cols];
    (codes[77 * cols + 1234], codes[1023 * cols + 4095]) = (2, 0);
    let packed = pack(Layout::I2sP128, rows, cols, &codes);
    let case = Case::new();
    let convert_with = |made: TileTable, read: TileTable| {
        let tile = Tile::known_tl1(rows, cols, made).unwrap();
        let codec = Codec::new(Dialect::TL1(tile), rows, cols).unwrap();
        let bytes = codec.encode(&packed, &MatrixScales::PerTensor(0.5)).unwrap();
        let spec = TensorSpec {
            name: "blk.0.attn_k.weight".into(),
            dims: vec![cols as u64, rows as u64],
            ty: TensorType::TL1,
        };
        let path = case.folder.path().join("tl1.gguf");
        let mut writer = Writer::create(&Metadata::default(), vec![spec], fs::File::create(&path).unwrap()).unwrap();
        writer.write_tensor("blk.0.attn_k.weight", &bytes).unwrap();
        writer.finish().unwrap();
        let open = OpenOptions { tiles: read, ..Default::default() };
        let (out, _) = step(&path, "i2_s.gguf", &ConvertOptions { open, force: true, ..to(TernaryType::I2S) }).unwrap();
        let file = File::open(&out).unwrap();
        file.data(&file.tensors()[0])[..packed.len()] == packed
    };
    for made in [TileTable::SetupEnv, TileTable::Preset] {
        for read in [TileTable::SetupEnv, TileTable::Preset] {
            assert_eq!(convert_with(made, read), made == read, "made with {made:?}, read with {read:?}");
        }
    }
}

fn golden(name: &str) -> Option<PathBuf> {
    shared(&format!("golden/qwen3-ternary/qwen3-{name}.gguf"))
}

/// Converts a golden file into a folder.
fn from_golden(case: &Case, name: &str, out: &str, options: &ConvertOptions) -> Option<Result<PathBuf>> {
    let out = case.folder.path().join(out);
    Some(convert(&golden(name)?, &out, options).map(|_| out))
}

/// True when both files have the same tensors; names those that differ.
fn assert_same_tensors(a: &File, b: &File) {
    assert_eq!(a.tensors().len(), b.tensors().len());
    for info in a.tensors() {
        let other = b.tensor(&info.name).unwrap();
        assert_eq!((&info.dims, info.ty), (&other.dims, other.ty), "{}", info.name);
        assert!(a.data(info)[..] == b.data(other)[..], "{}", info.name);
    }
}

#[test]
fn files_of_llama_cpp_with_group_scales_become_each_other() {
    let case = Case::new();
    // The same weights were written as TQ1_0 and as TQ2_0 by llama.cpp.
    let Some(tq2) = from_golden(&case, "tq1_0-g256", "a.gguf", &to(TernaryType::TQ2_0)) else { return };
    let expected = File::open(&golden("tq2_0-g256").unwrap()).unwrap();
    assert_same_tensors(&File::open(&tq2.unwrap()).unwrap(), &expected);
    let tq1 = from_golden(&case, "tq2_0-g256", "b.gguf", &to(TernaryType::TQ1_0)).unwrap().unwrap();
    assert_same_tensors(&File::open(&tq1).unwrap(), &File::open(&golden("tq1_0-g256").unwrap()).unwrap());
    // A scale of 256 columns four times is a scale of 64 columns, and back.
    let (q2, _) = step(&tq1, "c.gguf", &to(TernaryType::Q2_0)).unwrap();
    let (back, _) = step(&q2, "d.gguf", &to(TernaryType::TQ1_0)).unwrap();
    assert!(fs::read(back).unwrap() == fs::read(&tq1).unwrap());
    // The legacy Q2_0 of groups of 128 becomes the official one.
    let q2 = from_golden(&case, "q2_0-g128", "e.gguf", &to(TernaryType::Q2_0)).unwrap().unwrap();
    let file = File::open(&q2).unwrap();
    assert_eq!(file.tensor("blk.0.attn_q.weight").unwrap().ty, TensorType::Q2_0);
}

/// Whole files of hybrid models, rotated or not: all ternary tensors, tables too, go to each type whose groups are no
/// larger and come back as they were; everything else is carried over.
#[test]
fn hybrid_files_go_round_through_the_types_of_groups() {
    use TernaryType::{PQ2_0, PTQ1_0, Q2_0, TQ1_0, TQ2_0};
    let rounds: [(&str, &[TernaryType]); 5] = [
        ("c-tq2_0-g256", &[PTQ1_0, Q2_0, PQ2_0, TQ1_0, TQ2_0]),
        ("d-hadamard-pq2_0", &[Q2_0, PTQ1_0, PQ2_0]),
        ("e-hadamard-ptq1_0", &[PQ2_0, Q2_0, PTQ1_0]),
        ("f-hadamard-identity-pq2_0", &[PTQ1_0, PQ2_0]),
        ("g-hadamard-v2-b1024-ptq1_0", &[Q2_0, PTQ1_0]),
    ];
    let case = Case::new();
    for (name, types) in rounds {
        let Some(original) = shared(&format!("golden/qwen35/qwen35-{name}.gguf")) else { return };
        let mut at = original.clone();
        for (place, &ty) in types.iter().enumerate() {
            let out = case.folder.path().join(format!("{name}-{place}.gguf"));
            convert(&at, &out, &to(ty)).unwrap_or_else(|e| panic!("{name} to {ty:?}: {e}"));
            at = out;
        }
        let (original, last) = (File::open(&original).unwrap(), File::open(&at).unwrap());
        assert_same_tensors(&original, &last);
        let pairs = |file: &File| -> Vec<(String, Value)> {
            let pairs = file.metadata().iter().filter(|(key, _)| *key != "general.file_type");
            pairs.map(|(key, value)| (key.to_owned(), value.clone())).collect()
        };
        assert_eq!(pairs(&original), pairs(&last), "{name}");
    }
    // The same weights were published in both types.
    let (Some(d), Some(e)) =
        (shared("golden/qwen35/qwen35-d-hadamard-pq2_0.gguf"), shared("golden/qwen35/qwen35-e-hadamard-ptq1_0.gguf"))
    else {
        return;
    };
    let out = case.folder.path().join("e.gguf");
    convert(&d, &out, &to(PTQ1_0)).unwrap();
    assert_same_tensors(&File::open(&out).unwrap(), &File::open(&e).unwrap());
}

#[test]
fn scales_that_do_not_fit_are_refused() {
    let case = Case::new();
    let tensor = "tensor blk.0.attn_q.weight as";
    for (name, ty, expected) in [
        ("tq2_0-g256", TernaryType::I2S, "as I2_S is not supported: it has one scale for the whole matrix"),
        ("tq2_0-g256", TernaryType::TL1, "as TL1 is not supported: it has one scale for the whole matrix"),
        ("q2_0-g64", TernaryType::TQ1_0, "as TQ1_0 is not supported: it has one f16 scale for each 256 columns"),
        ("q2_0-g128", TernaryType::TQ2_0, "as TQ2_0 is not supported: it has one f16 scale for each 256 columns"),
    ] {
        for lossy in [false, true] {
            let options = ConvertOptions { lossy, ..to(ty) };
            let Some(result) = from_golden(&case, name, "out.gguf", &options) else { return };
            let message = result.unwrap_err().to_string();
            assert!(message.contains(expected) && message.contains(tensor), "{message}");
            assert!(message.contains("would have to become one"), "{message}");
            assert!(case.names().is_empty());
        }
    }
}

#[test]
fn only_lossy_rounds_a_scale() {
    let case = Case::of(&Model::wide());
    case.convert().unwrap();
    // Rows of IQ2_BN with f32 scales: thirds, which f16 rounds, but for the first row.
    let path = rewritten(&case.output(), "rows.gguf", TensorType::IQ2_BN, |_, _| Dialect::IQ2BN);
    let mut bytes = fs::read(&path).unwrap();
    let file = File::open(&path).unwrap();
    let info = file.tensor("blk.0.attn_q.weight").unwrap();
    let row_bytes = 4 + 512 / 64 * 16;
    for row in 1..512 {
        let at = info.offset as usize + row * row_bytes;
        bytes[at..at + 4].copy_from_slice(&(1.0_f32 / 3.0).to_le_bytes());
    }
    fs::write(&path, bytes).unwrap();
    let message = step(&path, "rounded.gguf", &to(TernaryType::TQ2_0)).unwrap_err().to_string();
    assert!(message.contains("tensor blk.0.attn_q.weight as TQ2_0"), "{message}");
    assert!(message.contains("f16 would round the scale 3.3333334e-1 to 3.3325195e-1"), "{message}");
    let message = step(&path, "rounded.gguf", &to(TernaryType::I2S)).unwrap_err().to_string();
    assert!(message.contains("7.5e-1 and 3.3333334e-1 would have to become one"), "{message}");

    let (out, _) = step(&path, "rounded.gguf", &ConvertOptions { lossy: true, ..to(TernaryType::TQ2_0) }).unwrap();
    let file = File::open(&out).unwrap();
    // 1/3 in binary16 is 0x3555, 0.75 is 0x3a00.
    let data = file.data(file.tensor("blk.0.attn_q.weight").unwrap());
    assert_eq!((&data[64..66], &data[2 * 66 + 64..2 * 66 + 66]), (&[0x00, 0x3a][..], &[0x55, 0x35][..]));
    assert!(file.tensor("blk.0.attn_q.scale").is_none() && file.tensor("blk.0.attn_k.scale").is_some());
}

#[test]
fn shapes_that_a_type_cannot_have_name_the_tensor() {
    let case = Case::of(&Model::bitnet());
    case.convert().unwrap();
    for (ty, expected) in [
        (
            TernaryType::TQ1_0,
            "tensor blk.0.attn_q.weight: expected columns to be a multiple of 256 for TQ1_0, found 32",
        ),
        (
            TernaryType::TQ2_0,
            "tensor blk.0.attn_q.weight: expected columns to be a multiple of 256 for TQ2_0, found 32",
        ),
        (TernaryType::Q2_0, "tensor blk.0.attn_q.weight: expected columns to be a multiple of 64 for Q2_0, found 32"),
        (TernaryType::TL1, "tensor blk.0.attn_k.weight is not supported: TL1 needs multiples of 32 rows"),
        (
            TernaryType::TL2,
            "tensor blk.0.attn_q.weight is not supported: TL2 needs multiples of 32 rows and of 32 columns",
        ),
    ] {
        let message = step(&case.output(), "no.gguf", &to(ty)).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
        assert_eq!(case.names(), ["in", "out.gguf"]);
    }
}

#[test]
fn a_file_without_ternary_matrices_is_refused() {
    let Some(path) = shared("vocab/ggml-vocab-llama-spm.gguf") else { return };
    let out = Case::new().output();
    let message = convert(&path, &out, &to(TernaryType::I2S)).unwrap_err().to_string();
    assert!(message.contains("has no ternary matrix"), "{message}");
}

/// The numbers of a table.
fn table(file: &File, name: &str) -> Vec<f32> {
    let info = file.tensor(name).unwrap();
    let (rows, cols) = (info.dims[1] as usize, info.dims[0] as usize);
    let ty = match info.ty {
        TensorType::F16 => DenseType::F16,
        TensorType::F32 => DenseType::F32,
        TensorType::Q8_0 => DenseType::Q8_0,
        TensorType::Q6_K => DenseType::Q6K,
        other => panic!("{}", other.name()),
    };
    let matrix = DenseMatrix { rows, cols, data: file.data(info), ty };
    let mut out = vec![0.0; rows * cols];
    for (row, out) in out.chunks_mut(cols).enumerate() {
        decode_row(ty, matrix.view().row(row), out);
    }
    out
}

#[test]
fn the_head_takes_the_type_that_is_asked_for() {
    let case = Case::of(&Model::wide_llama());
    case.convert().unwrap();
    let original = File::open(&case.output()).unwrap();
    for (head, ty, bound) in [(Head::Q8_0, TensorType::Q8_0, 0.005), (Head::Q6K, TensorType::Q6_K, 0.016)] {
        let options = ConvertOptions { head: Some(head), ..Default::default() };
        let (out, report) = step(&case.output(), &format!("{head:?}.gguf"), &options).unwrap();
        assert_eq!(report.matrices, 0, "only the head is converted");
        let file = File::open(&out).unwrap();
        for name in ["token_embd.weight", "output.weight"] {
            assert_eq!(file.tensor(name).unwrap().ty, ty);
            let (found, expected) = (table(&file, name), table(&original, name));
            let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
            let error =
                norm(&mut found.iter().zip(&expected).map(|(a, b)| a - b)) / norm(&mut expected.iter().copied());
            assert!(error < bound, "{name} as {head:?}: relative error {error}");
        }
        for info in original.tensors().iter().filter(|info| info.name.starts_with("blk.")) {
            assert!(file.data(file.tensor(&info.name).unwrap())[..] == original.data(info)[..], "{}", info.name);
        }
        // From the directory at once, it is the same but for the rounding to F16 in between.
        let at_once = case.folder.path().join("at-once.gguf");
        let options = ConvertOptions { force: true, ..options };
        convert(&case.input(), &at_once, &options).unwrap();
        assert_eq!(File::open(&at_once).unwrap().tensor("output.weight").unwrap().ty, ty);
        Loaded::open(&at_once).unwrap();
    }
    let options = ConvertOptions { head: Some(Head::Keep), force: true, ..Default::default() };
    let (kept, _) = step(&case.output(), "kept.gguf", &options).unwrap();
    assert!(fs::read(kept).unwrap() == fs::read(case.output()).unwrap());
    // The checkpoint has f32 tables.
    convert(&case.input(), &case.output(), &options).unwrap();
    let file = File::open(&case.output()).unwrap();
    assert_eq!(file.tensor("token_embd.weight").unwrap().ty, TensorType::F32);
    assert_eq!(table(&file, "token_embd.weight"), super::support::noise("model.embed_tokens.weight", 40 * 512));
}

#[test]
fn a_head_needs_whole_blocks() {
    let case = Case::of(&Model::bitnet());
    case.convert().unwrap();
    let options = ConvertOptions { head: Some(Head::Q6K), ..Default::default() };
    let message = step(&case.output(), "no.gguf", &options).unwrap_err().to_string();
    assert!(
        message.contains("tensor token_embd.weight is not supported: its sizes [32, 24] are not whole blocks of Q6_K"),
        "{message}"
    );
}

#[test]
fn a_dry_run_gives_the_sizes_and_writes_nothing() {
    let case = Case::of(&Model::wide());
    case.convert().unwrap();
    for ty in ROUND {
        let options = ConvertOptions { head: Some(Head::Q8_0), dry_run: true, ..to(ty) };
        let (out, planned) = step(&case.output(), "planned.gguf", &options).unwrap();
        assert!(planned.dry_run && !out.exists());
        assert!(planned.to_string().contains("MB would be written"), "{planned}");
        let options = ConvertOptions { dry_run: false, force: true, ..options };
        let (out, written) = step(&case.output(), "written.gguf", &options).unwrap();
        assert_eq!((planned.bytes_out, planned.types), (fs::metadata(out).unwrap().len(), written.types));
    }
}

#[test]
fn the_input_is_not_overwritten() {
    let case = Case::of(&Model::wide());
    case.convert().unwrap();
    let options = ConvertOptions { force: true, ..to(TernaryType::TL1) };
    let error = convert(&case.output(), &case.output(), &options).unwrap_err();
    assert!(error.to_string().contains("is part of the input"), "{error}");
}

#[test]
fn a_damaged_matrix_is_not_converted() {
    let case = Case::of(&Model::wide());
    case.convert().unwrap();
    let mut bytes = fs::read(case.output()).unwrap();
    let file = File::open(&case.output()).unwrap();
    let info = file.tensor("blk.1.ffn_down.weight").unwrap();
    bytes[info.offset as usize + 32] |= 0b11;
    fs::write(case.output(), &bytes).unwrap();
    let message = step(&case.output(), "no.gguf", &to(TernaryType::TQ2_0)).unwrap_err().to_string();
    // Byte 32, shift 0: weight 128 + 96.
    assert!(
        message.contains("tensor blk.1.ffn_down.weight row 0, column 224: expected a weight of -1, 0 or +1"),
        "{message}"
    );
    assert_eq!(case.names(), ["in", "out.gguf"]);
}

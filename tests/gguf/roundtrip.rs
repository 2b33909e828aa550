//! GGUF reader and writer against each other, against bytes spelled out by hand, and against files of others.

use std::path::{Path, PathBuf};

use bitnet_gpu::{
    bytes::Bytes,
    gguf::{Array, File, Metadata, TensorSpec, TensorType, Value, Writer},
};

use crate::common::shared;

fn gguf_files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<_> = entries.filter(|path| path.extension().is_some_and(|e| e == "gguf")).collect();
    assert!(!files.is_empty(), "no GGUF files in {}", dir.display());
    files
}

/// A file spelled out from the format's description: two keys, two tensors.
#[rustfmt::skip]
const BY_HAND: &[u8] = &[
    // magic, version 3, 2 tensors, 2 pairs
    b'G', b'G', b'U', b'F',  3, 0, 0, 0,  2, 0, 0, 0, 0, 0, 0, 0,  2, 0, 0, 0, 0, 0, 0, 0,
    // "a.b" (8 = string) "hi"
    3, 0, 0, 0, 0, 0, 0, 0,  b'a', b'.', b'b',  8, 0, 0, 0,  2, 0, 0, 0, 0, 0, 0, 0,  b'h', b'i',
    // "n" (9 = array) of (3 = i16) [-2, 258]
    1, 0, 0, 0, 0, 0, 0, 0,  b'n',  9, 0, 0, 0,  3, 0, 0, 0,  2, 0, 0, 0, 0, 0, 0, 0,  0xfe, 0xff,  2, 1,
    // tensor "w": 2 dims, 3 wide and 2 high, type 0 = F32, offset 0
    1, 0, 0, 0, 0, 0, 0, 0,  b'w',  2, 0, 0, 0,  3, 0, 0, 0, 0, 0, 0, 0,  2, 0, 0, 0, 0, 0, 0, 0,  0, 0, 0, 0,  0, 0, 0, 0, 0, 0, 0, 0,
    // tensor "t": 1 dim of 4, type 36 = I2_S, offset 32
    1, 0, 0, 0, 0, 0, 0, 0,  b't',  1, 0, 0, 0,  4, 0, 0, 0, 0, 0, 0, 0,  36, 0, 0, 0,  32, 0, 0, 0, 0, 0, 0, 0,
    // 24 + 25 + 29 + 41 + 33 = 152 bytes so far; padding to 160
    0, 0, 0, 0, 0, 0, 0, 0,
    // "w": 1.0, 2.0, 0.5, -1.0, 0.0, 4.0, then padding to 32
    0, 0, 0x80, 0x3f,  0, 0, 0, 0x40,  0, 0, 0, 0x3f,  0, 0, 0x80, 0xbf,  0, 0, 0, 0,  0, 0, 0x80, 0x40,  0, 0, 0, 0, 0, 0, 0, 0,
    // "t": one byte of codes, scale 1.0, 28 bytes of nothing
    0x98,  0, 0, 0x80, 0x3f,  0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

#[test]
fn bytes_spelled_out_by_hand_are_read_as_meant() {
    let file = File::parse(Bytes::from_static(BY_HAND)).unwrap();
    assert_eq!(file.version(), 3);
    let pairs: Vec<_> = file.metadata().iter().collect();
    assert_eq!(pairs, [("a.b", &Value::String("hi".into())), ("n", &Value::Array(Array::I16(vec![-2, 258])))]);
    let w = file.tensor("w").unwrap();
    assert_eq!(
        (w.dims.as_slice(), w.ty, w.offset, w.len_bytes, w.gap_bytes),
        ([3, 2].as_slice(), TensorType::F32, 160, 24, 32)
    );
    assert_eq!((w.elements(), w.rows()), (6, 2));
    let values: Vec<f32> = file.data(w).chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    assert_eq!(values, [1.0, 2.0, 0.5, -1.0, 0.0, 4.0]);
    let t = file.tensor("t").unwrap();
    assert_eq!((t.ty, t.id, t.offset, t.len_bytes, t.gap_bytes), (TensorType::I2_S, 36, 192, 33, 33));
    assert_eq!(file.data(t)[0], 0x98);
    assert!(file.tensor("x").is_none());
    assert_eq!(file.warnings(), [""; 0]);

    let mut version_2 = BY_HAND.to_vec();
    version_2[4] = 2;
    let file = File::parse(version_2.into()).unwrap();
    assert_eq!((file.version(), file.tensors().len()), (2, 2));
}

fn every_value_type() -> Metadata {
    let mut metadata = Metadata::default();
    let values = [
        Value::U8(200),
        Value::I8(-100),
        Value::U16(60000),
        Value::I16(-30000),
        Value::U32(4_000_000_000),
        Value::I32(-2_000_000_000),
        Value::F32(0.1),
        Value::Bool(true),
        Value::String("öl\n".into()),
        Value::U64(1 << 63),
        Value::I64(i64::MIN),
        Value::F64(-0.1),
        Value::Array(Array::U8(vec![1, 255])),
        Value::Array(Array::I8(vec![-1, 127])),
        Value::Array(Array::U16(vec![65535])),
        Value::Array(Array::I16(vec![-32768])),
        Value::Array(Array::U32(vec![u32::MAX, 0])),
        Value::Array(Array::I32(vec![i32::MIN, 1])),
        Value::Array(Array::F32(vec![f32::MIN_POSITIVE, 2.5])),
        Value::Array(Array::Bool(vec![true, false, true])),
        Value::Array(Array::String(vec![String::new(), "Ġthe".into()])),
        Value::Array(Array::U64(vec![u64::MAX])),
        Value::Array(Array::I64(vec![-1])),
        Value::Array(Array::F64(vec![])),
    ];
    for (at, value) in values.into_iter().enumerate() {
        metadata.set(format!("test.{at}"), value);
    }
    metadata
}

fn spec(name: &str, dims: &[u64], ty: TensorType) -> TensorSpec {
    TensorSpec { name: name.into(), dims: dims.into(), ty }
}

#[test]
fn what_is_written_is_read_back() {
    for alignment in [None, Some(8), Some(4096)] {
        let mut metadata = every_value_type();
        if let Some(alignment) = alignment {
            metadata.set("general.alignment", Value::U32(alignment));
        }
        let specs = vec![
            spec("norm", &[5], TensorType::F32),
            spec("ternary", &[128, 3], TensorType::I2_S),
            spec("embd", &[256, 2], TensorType::Q6_K),
            spec("tl2", &[512, 32], TensorType::TL2),
            spec("rows", &[64, 4], TensorType::IQ2_BN_R4),
            spec("half", &[1, 2, 3, 4], TensorType::F16),
        ];
        let mut writer = Writer::create(&metadata, specs.clone(), Vec::new()).unwrap();
        let mut contents = Vec::new();
        for (at, TensorSpec { name, dims, ty }) in specs.iter().enumerate() {
            let data: Vec<u8> = (0..ty.size_bytes(dims).unwrap()).map(|i| (i * 7 + at as u64) as u8).collect();
            for chunk in data.chunks(100) {
                writer.write_tensor(name, chunk).unwrap();
            }
            contents.push(data);
        }
        let file = File::parse(writer.finish().unwrap().into()).unwrap();
        assert_eq!(file.metadata(), &metadata);
        assert_eq!(file.warnings(), [""; 0]);
        assert_eq!(file.tensors().len(), specs.len());
        for ((info, spec), data) in file.tensors().iter().zip(&specs).zip(&contents) {
            assert_eq!((&info.name, &info.dims, info.ty), (&spec.name, &spec.dims, spec.ty));
            assert_eq!(&*file.data(info), data, "{} with alignment {alignment:?}", info.name);
            assert_eq!(info.offset % u64::from(alignment.unwrap_or(32)), 0);
        }
    }
}

#[test]
fn the_writer_refuses_what_does_not_fit() {
    let create = |specs| Writer::create(&Metadata::default(), specs, Vec::new());
    let error = |result: bitnet_gpu::Result<_>| result.map(|_: Writer<Vec<u8>>| ()).unwrap_err().to_string();
    let f32 = TensorType::F32;
    assert!(error(create(vec![spec("", &[1], f32)])).contains("name of tensor 0"));
    assert!(error(create(vec![spec(&"x".repeat(64), &[1], f32)])).contains("found 64 bytes"));
    assert!(error(create(vec![spec("a", &[1], f32), spec("a", &[1], f32)])).contains("each name once"));
    assert!(error(create(vec![spec("a", &[0], f32)])).contains("at least 1"));
    assert!(error(create(vec![spec("a", &[33], TensorType::Q8_0)])).contains("a multiple of 32 for Q8_0"));
    let two = || create(vec![spec("a", &[2], f32), spec("b", &[1], f32)]).unwrap();
    assert!(two().write_tensor("b", &[0; 4]).unwrap_err().to_string().contains("expected tensor a, found tensor b"));
    assert!(two().write_tensor("a", &[0; 9]).unwrap_err().to_string().contains("expected 8 bytes, found 9"));
    let mut writer = two();
    writer.write_tensor("a", &[0; 8]).unwrap();
    writer.write_tensor("b", &[0; 3]).unwrap();
    assert!(writer.finish().unwrap_err().to_string().contains("tensor b: expected 4 bytes, found 3"));
}

#[test]
fn type_ids_39_and_42_are_told_apart_by_the_distances() {
    use TensorType::{MXFP4, Q2_0, Q2_0_G128, TL2};
    for ty in [MXFP4, TL2, Q2_0, Q2_0_G128] {
        let specs = vec![spec("a", &[512, 64], ty), spec("b", &[1024, 32], ty), spec("c", &[512, 64], ty)];
        let mut writer = Writer::create(&Metadata::default(), specs.clone(), Vec::new()).unwrap();
        for spec in &specs {
            writer.write_tensor(&spec.name, &vec![0; ty.size_bytes(&spec.dims).unwrap() as usize]).unwrap();
        }
        let bytes = writer.finish().unwrap();
        let trailing = [bytes.clone(), vec![0; 1 << 20]].concat();
        for bytes in [bytes, trailing] {
            let file = File::parse(bytes.into()).unwrap();
            assert!(file.tensors().iter().all(|tensor| tensor.ty == ty && tensor.id == ty.id()), "{}", ty.name());
        }
    }
    // One tensor with bytes behind it: any reading might be meant.
    let mut writer = Writer::create(&Metadata::default(), vec![spec("a", &[128], Q2_0)], Vec::new()).unwrap();
    writer.write_tensor("a", &[0; 36]).unwrap();
    let error = File::parse(writer.finish().unwrap().into()).unwrap_err().to_string();
    assert!(error.contains("tensor a of type id 42") && error.contains("Q2_0, Q2_0_G128"), "{error}");
}

#[test]
fn vocabularies_of_llama_cpp_are_read() {
    let Some(dir) = shared("vocab") else { return };
    for path in gguf_files(&dir) {
        let file = File::open(&path).unwrap();
        let tokens = file.metadata().strings("tokenizer.ggml.tokens").unwrap().unwrap();
        assert!(tokens.len() > 30_000, "{}", path.display());
        assert!(file.tensors().is_empty());
        assert_eq!(file.warnings(), [""; 0], "{}", path.display());
    }
}

#[test]
fn group_scaled_models_are_read() {
    let Some(dir) = shared("golden/qwen3-ternary") else { return };
    for path in gguf_files(&dir) {
        let file = File::open(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        let expected = match name {
            _ if name.contains("q2_0-g128") => TensorType::Q2_0_G128,
            _ if name.contains("q2_0-g64") => TensorType::Q2_0,
            _ if name.contains("tq1_0") => TensorType::TQ1_0,
            _ => TensorType::TQ2_0,
        };
        assert_eq!(file.metadata().architecture().unwrap(), "qwen3");
        assert_eq!(file.tensor("blk.0.attn_q.weight").unwrap().ty, expected, "{name}");
        assert_eq!(file.warnings(), [""; 0], "{name}");
    }
}

//! Output of `inspect` for files: models, vocabularies, and files that are damaged but readable.

use bitnet_cpu_kernels::format::{Codec, Dialect, I2sPacking, Layout, MatrixScales, Tile, pack};
use bitnet_gpu::{
    gguf::File,
    inspect::{Codes, Report, TypeCount, inspect},
    model::OpenOptions,
};
use serde_json::{Value as Json, json};

use crate::common::{
    gguf_builder::{Gguf, Tensor, array, f32, raw, sample, str},
    shared,
};

fn report(file: &Gguf, check: bool) -> Report {
    inspect(&File::parse(file.build().into()).unwrap(), check, &OpenOptions::default())
}

#[test]
fn a_model_is_described() {
    let file = sample().with("general.name", str("tiny")).with("tokenizer.ggml.model", str("gpt2"));
    let report = report(&file, true);
    assert_eq!((report.version, report.file_bytes), (3, file.build().len() as u64));
    assert_eq!((report.architecture.as_deref(), report.name.as_deref()), (Some("bitnet-b1.58"), Some("tiny")));
    let tokenizer = report.tokenizer.as_ref().unwrap();
    assert_eq!((tokenizer.model.as_deref(), &tokenizer.pre, tokenizer.tokens), (Some("gpt2"), &None, 3));
    assert!(!tokenizer.chat_template);
    // 128 * 2 weights of which each four are 0, -1, +1, 0.
    let q = &report.tensors[1];
    assert_eq!((q.name.as_str(), q.type_name, q.type_id, q.bytes), ("blk.0.attn_q.weight", "I2_S", 36, 96));
    assert_eq!(q.scale, Some(0.5));
    assert_eq!(q.codes, Some(Codes { minus_one: 64, zero: 128, plus_one: 64, three: 0 }));
    assert_eq!(report.types["I2_S"], TypeCount { tensors: 2, elements: 384, bytes: 160 });
    assert_eq!(report.types["Q8_0"], TypeCount { tensors: 1, elements: 96, bytes: 102 });
    assert_eq!(report.warnings, [""; 0]);

    let text = report.to_string();
    for line in [
        "architecture bitnet-b1.58, name \"tiny\"",
        "tokenizer: gpt2, pre-tokenizer not given, 3 tokens, 0 merges, chat template: no",
        "[\"<s>\", \"a\", \"Ġb\"] (string array, 3 elements)",
        "[128, 2]",
        "scale 0.5  -1 25.0 %, 0 50.0 %, +1 25.0 %",
        "2 tensors, 384 elements, 160 bytes, 3.33 bits each",
        "nothing odd found, all weights read",
    ] {
        assert!(text.contains(line), "no {line:?} in\n{text}");
    }
}

#[test]
fn json_gives_the_same_facts() {
    let file = sample().with("test.nan", f32(f32::NAN)).with("test.tenth", f32(0.1));
    let json: Json = serde_json::to_value(report(&file, true)).unwrap();
    assert_eq!(json["architecture"], "bitnet-b1.58");
    assert_eq!(json["tensors"][1]["codes"], json!({"minus_one": 64, "zero": 128, "plus_one": 64, "three": 0}));
    assert_eq!(json["tensors"][1]["dims"], json!([128, 2]));
    let of = |key: &str| json["metadata"].as_array().unwrap().iter().find(|entry| entry["key"] == key).unwrap().clone();
    assert_eq!(of("test.tenth"), json!({"key": "test.tenth", "type": "f32", "value": 0.1}));
    assert_eq!(of("test.nan")["value"], "NaN");
    assert_eq!(
        of("tokenizer.ggml.scores"),
        json!({"key": "tokenizer.ggml.scores", "type": "f32 array", "length": 3, "value": [0.0, -1.0, -2.0]})
    );
}

#[test]
fn damage_is_reported_and_the_rest_still_described() {
    let q = "blk.0.attn_q.weight";
    let damaged = sample()
        .edit(q, |tensor| tensor.data[3] = 0b11_01_11_01)
        .tensor(Tensor::i2_s("blk.0.attn_k.weight", &[128], f32::NAN))
        .edit("output_norm.weight", |tensor| tensor.data[4..8].copy_from_slice(&f32::INFINITY.to_le_bytes()))
        .edit("token_embd.weight", |tensor| tensor.data[34..36].copy_from_slice(&[0xff, 0x7f]))
        .without("general.architecture");
    // Scales are always looked at, the weights only with `check`.
    let quick = report(&damaged, false).warnings;
    assert_eq!(quick.len(), 2, "{quick:?}");
    assert!(quick[0].starts_with("key general.architecture is missing"));
    assert_eq!(quick[1], "tensor blk.0.attn_k.weight: the scale NaN is not a number");
    let full = report(&damaged, true).warnings;
    assert_eq!(
        full[1..],
        [
            "tensor output_norm.weight: 1 of 8 values not finite",
            "tensor blk.0.attn_q.weight: 2 codes are 3, which stands for no ternary weight",
            "tensor token_embd.weight: 1 of 3 block scales not finite",
            "tensor blk.0.attn_k.weight: the scale NaN is not a number",
        ]
    );
}

#[test]
fn text_of_the_file_cannot_control_the_terminal_or_flood_it() {
    let file = sample()
        .with("general.name", str("x\x1b[2J\r\nwarning: none"))
        .with("tokenizer.chat_template", str("{{ x }}\n".repeat(10_000)))
        .with("test.long", raw(9, [&0u32.to_le_bytes()[..], &100_000u64.to_le_bytes(), &vec![7; 100_000]].concat()));
    let report = report(&file, true);
    let text = report.to_string();
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
    assert!(text.contains(r"x\u{1b}[2J\r\nwarning: none") && text.contains("chat template: yes"), "{text}");
    assert!(text.contains("[7, 7, 7, 7, 7, 7, 7, 7, ...] (u8 array, 100000 elements)"), "{text}");
    assert!(text.len() < 4000 && serde_json::to_string(&report).unwrap().len() < 6000);
}

#[test]
fn vocabularies_and_group_scaled_models_are_described() {
    if let Some(path) = shared("vocab/ggml-vocab-llama-bpe.gguf") {
        let report = inspect(&File::open(&path).unwrap(), true, &OpenOptions::default());
        let tokenizer = report.tokenizer.as_ref().unwrap();
        assert_eq!(
            (tokenizer.pre.as_deref(), tokenizer.tokens, tokenizer.merges),
            (Some("llama-bpe"), 128_256, 280_147)
        );
        assert!(report.to_string().contains("tensors: none; a vocabulary-only file"));
    }
    for name in ["tq2_0-g256", "q2_0-g64", "q2_0-g128"] {
        let Some(path) = shared(&format!("golden/qwen3-ternary/qwen3-{name}.gguf")) else { continue };
        let report = inspect(&File::open(&path).unwrap(), true, &OpenOptions::default());
        let codes = report.tensors.iter().find(|tensor| tensor.name == "blk.0.attn_q.weight").unwrap().codes.unwrap();
        assert!(codes.three == 0 && codes.minus_one > 0 && codes.plus_one > 0, "{name}: {codes}");
        assert_eq!(report.warnings, [""; 0], "{name}");
    }
}

/// Each dialect that keeps no plain 2-bit codes, too: what was encoded is counted.
#[test]
fn every_dialect_is_decoded_and_explained() {
    let (rows, cols) = (32, 256);
    // -1, 0, +1, +1 over and over.
    let codes: Vec<u8> = (0..rows * cols).map(|at| [0, 1, 2, 2][at % 4]).collect();
    let packed = pack(Layout::I2sP128, rows, cols, &codes);
    let tl1 = Tile::for_tl1(rows, cols).unwrap();
    let tl2 = Tile::for_tl2(rows, cols).unwrap();
    let cases = [
        (Dialect::I2S(I2sPacking::P128), 36, "type id 36, read as p128"),
        (Dialect::TL1(tl1), 38, "type id 38; tiles of"),
        (Dialect::TL2(tl2), 39, "type id 39, which is MXFP4 too: only this type's size fits the distances; tiles of"),
        (Dialect::TL2(tl2), 42, "type id 42, which is Q2_0 and Q2_0_G128 too"),
        (Dialect::TQ1_0, 34, "type id 34"),
        (Dialect::TQ2_0, 35, "type id 35"),
        (Dialect::Q2_0, 42, "type id 42, which is TL2 and Q2_0_G128 too"),
        (Dialect::Q2_0G128, 42, "type id 42, which is TL2 and Q2_0 too"),
        (Dialect::Q2_0G128, 142, "type id 142"),
        (Dialect::PTQ1_0, 143, "type id 143"),
        (Dialect::IQ1BN, 134, "type id 134"),
        (Dialect::IQ2BN, 135, "type id 135"),
        (Dialect::IQ2BNR4, 335, "type id 335"),
    ];
    for (dialect, id, why) in cases {
        let codec = Codec::new(dialect, rows, cols).unwrap();
        let scales = MatrixScales::PerTensor(0.5).fitted(codec.scale_kind(), rows, cols, false).unwrap();
        let data = codec.encode(&packed, &scales).unwrap();
        let tiles = |key: &str, tile: Tile| {
            let numbers = [rows, cols, tile.rows, tile.cols, tile.lanes].map(|n| n as u32);
            (key.to_owned(), array(4, 5, numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>()))
        };
        let (key1, tiles1) = tiles("bitnet.tl1.tiles", tl1);
        let (key2, tiles2) = tiles("bitnet.tl2.tiles", tl2);
        let file = |data: Vec<u8>| {
            let tensor = Tensor::new("blk.0.ffn_up.weight", &[cols as u64, rows as u64], id, data);
            Gguf::new()
                .with("general.architecture", str("llama"))
                .with(&key1, tiles1.clone())
                .with(&key2, tiles2.clone())
                .tensor(tensor)
        };
        let good = report(&file(data.clone()), true);
        let each = (rows * cols / 4) as u64;
        let expected = Codes { minus_one: each, zero: each, plus_one: 2 * each, three: 0 };
        assert_eq!(good.tensors[0].codes, Some(expected), "{dialect:?}");
        assert!(good.tensors[0].why.as_ref().unwrap().starts_with(why), "{:?}", good.tensors[0].why);
        assert_eq!(good.warnings, [""; 0], "{dialect:?}");
        match (&good.tensors[0].scales, good.tensors[0].scale) {
            (None, scale) => assert_eq!(scale, Some(0.5), "{dialect:?}"),
            (Some(found), None) => assert_eq!((found.least, found.greatest), (0.5, 0.5), "{dialect:?}"),
            both => panic!("{dialect:?}: {both:?}"),
        }
        let text = good.to_string();
        assert!(text.contains(why) && text.contains("ternary weights: -1 25.0 %, 0 25.0 %, +1 50.0 %"), "{text}");

        // All bits set: code 3 or an index that stands for nothing where the type has such, and scales that are NaN.
        let bad = report(&file(vec![0xff; data.len()]), true);
        assert!(!bad.warnings.is_empty(), "{dialect:?}");
        let all = bad.warnings.join("\n");
        assert!(all.contains("scale") && (all.contains("NaN") || all.contains("not finite")), "{dialect:?}: {all}");
    }
}

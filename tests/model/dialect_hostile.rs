//! Files whose ternary matrices are in every dialect, and damaged: each refused with a reason, without panic, without
//! large allocations. Numbers in names are the cases of the project's list of malformed files.

use bitnet_cpu_kernels::format::{Codec, Dialect, I2sPacking, Layout, MatrixScales, Tile, pack, unpack};
use bitnet_gpu::{
    Error,
    bytes::Bytes,
    gguf::File,
    model::{Linear, Model, OpenOptions},
};

use crate::common::{
    gguf_builder::{Gguf, Raw, Tensor, array, f32, i32s, str, strings, u32},
    hostile::{Row, refuse_all, row},
};

fn open(bytes: Bytes) -> Result<(), Error> {
    Model::from_gguf(&File::parse(bytes)?).map(drop)
}

const Q: &str = "blk.0.attn_q.weight";

/// The projections with their rows and columns.
const PROJECTIONS: [(&str, usize, usize); 7] = [
    ("attn_q", 256, 256),
    ("attn_k", 128, 256),
    ("attn_v", 128, 256),
    ("attn_output", 256, 256),
    ("ffn_gate", 512, 256),
    ("ffn_up", 512, 256),
    ("ffn_down", 256, 512),
];

/// A matrix of zeros.
fn encoded(dialect: Dialect, rows: usize, cols: usize) -> Vec<u8> {
    let codec = Codec::new(dialect, rows, cols).unwrap();
    let scales = MatrixScales::PerTensor(0.5).fitted(codec.scale_kind(), rows, cols, false).unwrap();
    codec.encode(&pack(Layout::I2sP128, rows, cols, &vec![1; rows * cols]), &scales).unwrap()
}

/// One layer: dim 256, feed-forward 512, 2 heads of 128, 1 key/value head, 4 tokens. All projections have that type.
fn model(id: u32, dialect: impl Fn(usize, usize) -> Dialect) -> Gguf {
    let mut file = Gguf::new().with("general.architecture", str("llama"));
    for (key, value) in [
        ("block_count", 1),
        ("context_length", 64),
        ("embedding_length", 256),
        ("feed_forward_length", 512),
        ("attention.head_count", 2),
        ("attention.head_count_kv", 1),
    ] {
        file = file.with(&format!("llama.{key}"), u32(value));
    }
    file = file
        .with("llama.attention.layer_norm_rms_epsilon", f32(1e-5))
        .with("tokenizer.ggml.tokens", strings(&["a", "b", "c", "d"]))
        .tensor(Tensor::f32("token_embd.weight", &[256, 4]))
        .tensor(Tensor::f32("output_norm.weight", &[256]));
    for name in ["attn_norm", "ffn_norm"] {
        file = file.tensor(Tensor::f32(format!("blk.0.{name}.weight"), &[256]));
    }
    for (name, rows, cols) in PROJECTIONS {
        let data = encoded(dialect(rows, cols), rows, cols);
        let dims = [cols as u64, rows as u64];
        file = file.tensor(Tensor::new(format!("blk.0.{name}.weight"), &dims, id, data));
    }
    file
}

const TILE: Tile = Tile { rows: 64, cols: 128, lanes: 32 };
const TILE_2: Tile = Tile { rows: 64, cols: 96, lanes: 32 };

/// A u32 array of the shapes with their tiles.
fn tiles(tile: Tile) -> Raw {
    let shapes = [(256, 256), (128, 256), (512, 256), (256, 512)];
    let numbers = shapes.map(|(rows, cols)| [rows, cols, tile.rows, tile.cols, tile.lanes]).concat();
    let bytes: Vec<u8> = numbers.iter().flat_map(|&number| (number as u32).to_le_bytes()).collect();
    array(4, numbers.len() as u64, bytes)
}

fn tl1() -> Gguf {
    model(38, |_, _| Dialect::TL1(TILE)).with("bitnet.tl1.tiles", tiles(TILE))
}

fn tl2() -> Gguf {
    model(39, |_, _| Dialect::TL2(TILE_2)).with("bitnet.tl2.tiles", tiles(TILE_2))
}

/// Each dialect with the id of its type, and a whole file.
pub fn files() -> Vec<(&'static str, Gguf)> {
    let plain = |id, dialect| model(id, move |_, _| dialect);
    vec![
        ("I2_S", plain(36, Dialect::I2S(I2sPacking::P128))),
        ("TL1", tl1()),
        ("TL2", tl2()),
        // The id that bitnet.cpp gave TL2 in 2026.
        ("TL2 as 42", model(42, |_, _| Dialect::TL2(TILE_2)).with("bitnet.tl2.tiles", tiles(TILE_2))),
        ("TQ1_0", plain(34, Dialect::TQ1_0)),
        ("TQ2_0", plain(35, Dialect::TQ2_0)),
        ("Q2_0", plain(42, Dialect::Q2_0)),
        ("Q2_0 of 128", plain(42, Dialect::Q2_0G128)),
        ("PQ2_0", plain(142, Dialect::Q2_0G128)),
        ("PTQ1_0", plain(143, Dialect::PTQ1_0)),
        ("IQ1_BN", plain(134, Dialect::IQ1BN)),
        ("IQ2_BN", plain(135, Dialect::IQ2BN)),
        ("IQ2_BN_R4", plain(335, Dialect::IQ2BNR4)),
    ]
}

#[test]
fn the_files_themselves_are_valid() {
    for (name, file) in files() {
        let model =
            Model::from_gguf(&File::parse(file.build().into()).unwrap()).unwrap_or_else(|e| panic!("{name}: {e}"));
        for role in Linear::ATTENTION {
            let matrix = model.weights.blocks[0].linear(role);
            assert_eq!(matrix.scales, MatrixScales::PerTensor(0.5).into(), "{name}");
            let plain = matrix.packed(Layout::I2sP128).unwrap();
            let codes = unpack(plain.layout, plain.rows, plain.cols, &plain.codes);
            assert!(codes.iter().all(|&code| code == 1), "{name} {role:?}");
        }
    }
}

#[test]
fn codes_and_scales_that_mean_nothing() {
    let of = |name: &str| files().into_iter().find(|(found, _)| *found == name).unwrap().1;
    let set = |name: &str, at: usize, bytes: &[u8]| {
        of(name).edit(Q, |tensor| tensor.data[at..at + bytes.len()].copy_from_slice(bytes)).build()
    };
    let nan_f16 = &[0x01, 0x7e];
    let inf_f16 = &[0x00, 0x7c];
    let nan_f32 = &f32::NAN.to_le_bytes();
    let code = |place: &'static str| [place, "expected a weight of -1, 0 or +1", "a code of none of them"];
    let scale = |place: &'static str, found: &'static str| [place, "expected a finite number", found];
    let rows: Vec<(&str, Vec<u8>, [&str; 3])> = vec![
        // Block 1 is weights 128 to 255; byte 5, shift 4 is weight 37 of it.
        ("59 I2_S code 3", set("I2_S", 37, &[0b01_11_01_01]), code("blk.0.attn_q.weight row 0, column 165")),
        // Row 1 begins at byte 66.
        ("59 TQ2_0 code 3", set("TQ2_0", 66 + 33, &[0b01_01_01_11]), code("blk.0.attn_q.weight row 1, column 129")),
        // Row 2 begins at block 8 of 18 bytes.
        ("59 Q2_0 code 3", set("Q2_0", 8 * 18 + 2, &[0b11_01_01_01]), code("blk.0.attn_q.weight row 2, column 3")),
        ("59 legacy code 3", set("Q2_0 of 128", 4 * 34 + 2, &[0b11_01_01_01]), code("weight row 2, column 3")),
        ("59 PQ2_0 code 3", set("PQ2_0", 4 * 34 + 3, &[0b01_01_01_11]), code("weight row 2, column 4")),
        ("59 IQ2_BN code 3", set("IQ2_BN", 68 + 4, &[0b01_01_11_01]), code("weight row 1, column 16")),
        // The second group of four rows begins at 4 * 68 = 272; row 6 of it at byte 16 + 8.
        ("59 IQ2_BN_R4 code 3", set("IQ2_BN_R4", 272 + 24, &[0b01_01_11_01]), code("weight row 6, column 4")),
        ("63 TL1 index 9", set("TL1", 3, &[0x94]), code("weight row 3, column 0")),
        ("63 TL1 index 15", set("TL1", 3, &[0x4f]), code("weight row 3, column 2")),
        ("63 TL2 code 14", set("TL2", 3, &[0xe0]), code("weight row 3, column 0")),
        ("63 TL2 code 15", set("TL2", 3, &[0x0f]), code("weight row 3, column 3")),
        // The pairs of 64 columns behind 256 * 192 / 6 + 256 * 192 / 24 bytes.
        ("63 TL2 pair 9", set("TL2", 8192 + 2048 + 3, &[0x49]), code("weight row 3, column 194")),
        (
            "62 TQ1_0 NaN",
            set("TQ1_0", 54 + 52, nan_f16),
            scale("scale of tensor blk.0.attn_q.weight at row 1, column 0", "NaN"),
        ),
        ("62 TQ1_0 Inf", set("TQ1_0", 52, inf_f16), scale("at row 0, column 0", "inf")),
        ("62 TQ2_0 NaN", set("TQ2_0", 66 + 64, nan_f16), scale("at row 1, column 0", "NaN")),
        ("62 Q2_0 NaN", set("Q2_0", 5 * 18, nan_f16), scale("at row 1, column 64", "NaN")),
        ("62 legacy NaN", set("Q2_0 of 128", 3 * 34, nan_f16), scale("at row 1, column 128", "NaN")),
        ("62 PTQ1_0 NaN", set("PTQ1_0", 26, nan_f16), scale("at row 0, column 0", "NaN")),
        ("62 IQ1_BN NaN", set("IQ1_BN", 54, nan_f16), scale("at row 1, column 0", "NaN")),
        ("62 IQ2_BN NaN", set("IQ2_BN", 68, nan_f32), scale("at row 1, column 0", "NaN")),
        ("62 IQ2_BN_R4 NaN", set("IQ2_BN_R4", 272 + 4, nan_f32), scale("at row 5, column 0", "NaN")),
        (
            "60 TL1 NaN",
            set("TL1", 16384, nan_f32),
            ["scale of tensor blk.0.attn_q.weight", "a finite number above 0", "NaN"],
        ),
        (
            "60 TL1 zero",
            set("TL1", 16384, &[0; 4]),
            ["scale of tensor blk.0.attn_q.weight", "a finite number above 0", "found 0"],
        ),
        // (256 - 256) * 256 / 3 * 5 / 8 + 256 * 256 / 2 * 4 / 8 = 16384 bytes before the scale.
        (
            "60 TL2 negative",
            set("TL2", 16384, &(-1_f32).to_le_bytes()),
            ["scale of tensor blk.0.attn_q.weight", "a finite number above 0", "found -1"],
        ),
    ];
    refuse_all(rows.into_iter().map(|(name, bytes, fragments)| row(name, bytes, &fragments)).collect(), open);
}

/// Every byte of a base-3 dialect has digits; only the 243 that encoders write have others than the ones meant.
#[test]
fn every_byte_of_tq1_0_and_iq1_bn_is_read() {
    for (name, blocks, codes) in [("TQ1_0", 54, 52), ("PTQ1_0", 28, 26), ("IQ1_BN", 54, 0)] {
        let file = files().into_iter().find(|(found, _)| *found == name).unwrap().1;
        let file = file.edit(Q, |tensor| {
            for (at, byte) in tensor.data.iter_mut().enumerate() {
                // All but the scales.
                let place = at % blocks;
                if place != codes && place != codes + 1 {
                    *byte = (at / blocks + place) as u8;
                }
            }
        });
        open(file.build().into()).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

#[test]
fn shapes_sizes_and_tiles() {
    let q = |id: u32, dims: &[u64], bytes: usize| {
        model(id, |_, _| Dialect::TQ2_0).tensor(Tensor::new(Q, dims, id, vec![0; bytes]))
    };
    let cut = |name: &str, keep: fn(usize) -> usize| {
        let bytes = files().into_iter().find(|(found, _)| *found == name).unwrap().1.build();
        bytes[..keep(bytes.len())].to_vec()
    };
    let with_tiles = |value: Raw| model(38, |_, _| Dialect::TL1(TILE)).with("bitnet.tl1.tiles", value).build();
    let tile = |rows, cols, lanes| with_tiles(tiles(Tile { rows, cols, lanes }));
    let one_tile = |numbers: &[u32]| {
        with_tiles(array(4, numbers.len() as u64, numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>()))
    };
    let narrow = model(38, |_, _| Dialect::TL1(TILE));
    let wrong_array = &["key bitnet.tl1.tiles", "a u32 array of five numbers for each shape"];
    let rows: Vec<Row> = vec![
        row("53 TQ2_0 row of 128", q(35, &[128, 512], 66 * 256).build(), &[Q, "a multiple of 256 for TQ2_0", "128"]),
        row("53 TQ1_0 row of 384", q(34, &[384, 256], 54 * 384).build(), &[Q, "a multiple of 256 for TQ1_0", "384"]),
        row("53 IQ2_BN_R4 of 6 rows", q(335, &[256, 6], 6 * 68).build(), &[Q, "a multiple of 4 for IQ2_BN_R4", "6"]),
        row("54 TL1 without tiles", narrow.build(), &[Q, "TL1", "neither the metadata nor", "a 256 x 256 matrix"]),
        row(
            "54 TL2 without tiles",
            model(39, |_, _| Dialect::TL2(TILE_2)).build(),
            &[Q, "TL2", "neither the metadata nor", "a 256 x 256 matrix"],
        ),
        row(
            "54 MXFP4",
            model(35, |_, _| Dialect::TQ2_0).tensor(Tensor::new(Q, &[256, 256], 39, vec![0; 34816])).build(),
            &[Q, "of type MXFP4", "projections are read as"],
        ),
        row("63 tiles for another shape only", one_tile(&[512, 512, 64, 128, 32]), &[Q, "neither the metadata nor"]),
        row("63 BM does not divide", tile(96, 128, 32), &[Q, "BM 96, BK 128, bm 32 do not fit it"]),
        row("63 BK does not divide", tile(64, 96, 32), &[Q, "BM 64, BK 96, bm 32 do not fit it"]),
        row("63 bm of 16", tile(64, 128, 16), &[Q, "bm 16 do not fit it"]),
        row("63 BM 0", tile(0, 128, 32), &[Q, "BM 0"]),
        row("63 BK 0", tile(64, 0, 32), &[Q, "BK 0"]),
        row("63 bm 0", tile(64, 128, 0), &[Q, "bm 0"]),
        row("63 BK 2^32 - 1", tile(64, u32::MAX as usize, 32), &[Q, "BK 4294967295"]),
        row(
            "63 K not splitting",
            // 256 % 72 = 40 columns are left over, which are not whole pair tiles of 32.
            tl2().with("bitnet.tl2.tiles", tiles(Tile { rows: 64, cols: 72, lanes: 32 })).build(),
            &[Q, "TL2 tiles of BM 64, BK 72, bm 32 do not fit it"],
        ),
        row("63 tiles of six numbers", one_tile(&[256, 256, 64, 128, 32, 1]), wrong_array),
        row("63 tiles as i32", with_tiles(i32s(&[256, 256, 64, 128, 32])), wrong_array),
        row("63 tiles as text", with_tiles(str("256")), wrong_array),
        row("57 TL1 without its scale", cut("TL1", |len| len - 32), &["blk.0.ffn_down.weight", "32800 bytes of TL1"]),
        row("57 TL2 one byte short", cut("TL2", |len| len - 1), &["blk.0.ffn_down.weight", "TL2"]),
        row("57 TQ1_0 one byte short", cut("TQ1_0", |len| len - 1), &["blk.0.ffn_down.weight", "bytes of TQ1_0"]),
        row("57 IQ2_BN half", cut("IQ2_BN", |len| len / 2), &["offset of tensor"]),
    ];
    refuse_all(rows, open);
}

/// The file with another scale at one place of the first matrix: 0.25 = 0x3400, and a weight of -1 somewhere, so that the
/// zeros do not make up for it.
pub fn two_scales(file: Gguf, at: usize) -> Gguf {
    file.edit(Q, |tensor| {
        tensor.data[at..at + 2].copy_from_slice(&[0x00, 0x34]);
        tensor.data[0] = 0;
    })
}

#[test]
fn factors_and_mixed_scales() {
    let factor = |value: f32| {
        let tensor = Tensor::new("blk.0.attn_q.scale", &[1], 0, value.to_le_bytes().to_vec());
        model(34, |_, _| Dialect::TQ1_0).tensor(tensor)
    };
    // A factor multiplies; the file of one scale stays one.
    let loaded = Model::from_gguf(&File::parse(factor(3.0).build().into()).unwrap()).unwrap();
    assert_eq!(loaded.weights.blocks[0].linear(Linear::Q).scales, MatrixScales::PerTensor(1.5).into());
    assert_eq!(loaded.weights.blocks[0].linear(Linear::K).scales, MatrixScales::PerTensor(0.5).into());

    let mut rows = vec![
        row(
            "two numbers",
            model(34, |_, _| Dialect::TQ1_0).tensor(Tensor::f32("blk.0.attn_q.scale", &[2])).build(),
            &["blk.0.attn_q.scale", "expected sizes [1]"],
        ),
        row(
            "not a float",
            model(34, |_, _| Dialect::TQ1_0).tensor(Tensor::new("blk.0.attn_q.scale", &[1], 26, vec![0; 4])).build(),
            &["blk.0.attn_q.scale", "I32"],
        ),
        row(
            "of no projection",
            model(34, |_, _| Dialect::TQ1_0).tensor(Tensor::f32("blk.0.attn_norm.scale", &[1])).build(),
            &["blk.0.attn_norm.scale", "no use"],
        ),
        row(
            "a product that f16 rounds",
            two_scales(factor(1.0 / 3.0), 54 + 52).build(),
            &["a scale of tensor blk.0.attn_q.weight", "times tensor blk.0.attn_q.scale", "f16 rounds"],
        ),
        row(
            "groups beside a scale that f16 rounds",
            two_scales(model(34, |_, _| Dialect::TQ1_0), 54 + 52)
                .tensor(Tensor::i2_s("blk.0.attn_k.weight", &[256, 128], 1.0 / 3.0))
                .build(),
            &["tensor blk.0.attn_k.weight beside others with groups of 256", "f16 would round"],
        ),
    ];
    for value in [0.0, -1.0, f32::NAN, f32::INFINITY, f32::from_bits(1)] {
        rows.push(row(
            format!("60 factor {value}"),
            factor(value).build(),
            &["blk.0.attn_q.scale", "expected", "found"],
        ));
    }
    refuse_all(rows, open);

    // Scales that differ make all matrices grouped, in the smallest size that occurs.
    let mixed = two_scales(model(35, |_, _| Dialect::TQ2_0), 66 + 64)
        .tensor(Tensor::new("blk.0.attn_k.weight", &[256, 128], 142, encoded(Dialect::Q2_0G128, 128, 256)))
        .tensor(Tensor::i2_s("blk.0.attn_v.weight", &[256, 128], 0.25));
    let loaded = Model::from_gguf(&File::parse(mixed.build().into()).unwrap()).unwrap();
    for role in Linear::ATTENTION {
        let scales = loaded.packed(0, role, Layout::I2sP128).unwrap().scales;
        let MatrixScales::PerGroup { size: 128, values } = scales else {
            panic!("{role:?} is not in groups of 128");
        };
        let values: Vec<f32> = values.iter().take(4).map(|value| value.to_f32()).collect();
        let expected = match role {
            Linear::Q => [0.5, 0.5, 0.25, 0.25],
            Linear::V => [0.25; 4],
            _ => [0.5; 4],
        };
        assert_eq!(values, expected, "{role:?}");
    }
}

/// Case 64: the same bytes under each packing of I2_S.
#[test]
fn the_packing_of_i2_s_is_what_the_options_say() {
    // Weight 64 of the flattened matrix under each packing, when byte 0 is 0b00_01_10_01 and the rest zeros.
    let file = model(36, |_, _| Dialect::I2S(I2sPacking::P128)).edit(Q, |tensor| tensor.data[0] = 0b00_01_10_01);
    let file = File::parse(file.build().into()).unwrap();
    let plus_one = |packing| {
        let options = OpenOptions { i2s: packing, ..Default::default() };
        let model = Model::from_gguf_with(&file, &options).unwrap();
        let matrix = model.packed(0, Linear::Q, Layout::I2sP128).unwrap();
        let codes = unpack(matrix.layout, 256, 256, &matrix.codes);
        let place = |code| codes.iter().position(|&found| found == code).map(|at| (at / 256, at % 256)).unwrap();
        [place(0), place(2)]
    };
    assert_eq!(plus_one(I2sPacking::P128), [(0, 0), (0, 64)]);
    assert_eq!(plus_one(I2sPacking::P64), [(0, 0), (0, 32)]);
    assert_eq!(plus_one(I2sPacking::R4), [(0, 0), (2, 0)]);
    assert_eq!(plus_one(I2sPacking::Seq), [(0, 0), (0, 2)]);
}

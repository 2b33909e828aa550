//! Well-formed GGUF files that do not hold the model they claim: each refused with a reason, without panic, without
//! large allocations. Numbers in names are the cases of the project's list of malformed files.

use bitnet_gpu::{Error, bytes::Bytes, gguf::File, model::Model};

use crate::common::{
    gguf_builder::{ARCH, Raw, Tensor, f32, i32, str, strings, tiny_model, u32},
    hostile::{refuse_all, row},
};

fn open(bytes: Bytes) -> Result<(), Error> {
    Model::from_gguf(&File::parse(bytes)?).map(drop)
}

fn arch_key(key: &str) -> String {
    format!("{ARCH}.{key}")
}

fn with_key(key: &str, value: Raw) -> Vec<u8> {
    tiny_model().with(&arch_key(key), value).build()
}

#[test]
fn the_model_itself_is_valid() {
    open(tiny_model().build().into()).unwrap();
}

#[test]
fn hyperparameters() {
    let wrong_shape = &["tensor ", "expected sizes", "found"];
    let rows = vec![
        row(
            "26 unknown architecture",
            tiny_model().with("general.architecture", str("gpt5")).build(),
            &["'gpt5'", "known"],
        ),
        row("28 no layers", with_key("block_count", u32(0)), &["block_count", "1 to 512", "found 0"]),
        row("28 513 layers", with_key("block_count", u32(513)), &["block_count", "1 to 512", "found 513"]),
        row("28 10^9 layers", with_key("block_count", u32(1_000_000_000)), &["block_count", "1 to 512"]),
        row("28 two layers, one present", with_key("block_count", u32(2)), &["tensor blk.1.attn_q.weight is missing"]),
        row("29 no heads", with_key("attention.head_count", u32(0)), &["attention.head_count", "found 0"]),
        row("30 no kv heads", with_key("attention.head_count_kv", u32(0)), &["head_count_kv", "found 0"]),
        row(
            "30 too many kv heads",
            with_key("attention.head_count_kv", u32(4)),
            &["head_count_kv", "a divisor of the 2"],
        ),
        row(
            "30 long heads",
            with_key("attention.key_length", u32(8320)),
            &["key_length", "at most 8192", "found 8320"],
        ),
        row(
            "30 long heads by the width",
            tiny_model()
                .with(&arch_key("embedding_length"), u32(16_384))
                .with(&arch_key("attention.head_count"), u32(1))
                .with(&arch_key("attention.head_count_kv"), u32(1))
                .build(),
            &["key_length", "at most 8192", "found 16384"],
        ),
        row("31 no width", with_key("embedding_length", u32(0)), &["embedding_length", "found 0"]),
        row("31 odd width", with_key("embedding_length", u32(129)), &["embedding_length", "a multiple of the 2 heads"]),
        row("31 2^31", with_key("embedding_length", u32(1 << 31)), &["embedding_length", "1 to 1048576"]),
        row("31 other width", with_key("embedding_length", u32(256)), wrong_shape),
        row("32 feed-forward of 100", with_key("feed_forward_length", u32(100)), wrong_shape),
        row("33 no context", with_key("context_length", u32(0)), &["context_length", "found 0"]),
        row("33 2^31", with_key("context_length", u32(1 << 31)), &["context_length", "found 2147483648"]),
        row(
            "34 odd rope",
            with_key("rope.dimension_count", u32(63)),
            &["rope.dimension_count", "an even number up to 64"],
        ),
        row("34 no rope", with_key("rope.dimension_count", u32(0)), &["rope.dimension_count", "found 0"]),
        row(
            "34 wide rope",
            with_key("rope.dimension_count", u32(66)),
            &["rope.dimension_count", "an even number up to 64"],
        ),
        row("35 base 0", with_key("rope.freq_base", f32(0.0)), &["rope.freq_base", "a finite number above 0"]),
        row("35 base NaN", with_key("rope.freq_base", f32(f32::NAN)), &["rope.freq_base", "found NaN"]),
        row("35 base Inf", with_key("rope.freq_base", f32(f32::INFINITY)), &["rope.freq_base", "found inf"]),
        row("36 eps 0", with_key("attention.layer_norm_rms_epsilon", f32(0.0)), &["layer_norm_rms_epsilon", "found 0"]),
        row(
            "36 eps < 0",
            with_key("attention.layer_norm_rms_epsilon", f32(-1.0)),
            &["layer_norm_rms_epsilon", "found -1"],
        ),
        row(
            "36 eps NaN",
            with_key("attention.layer_norm_rms_epsilon", f32(f32::NAN)),
            &["layer_norm_rms_epsilon", "NaN"],
        ),
        row(
            "37 vocab_size",
            with_key("vocab_size", u32(5)),
            &["vocab_size", "4, the rows of token_embd.weight", "found 5"],
        ),
        row(
            "37 tokens",
            tiny_model().with("tokenizer.ggml.tokens", strings(&["a", "b"])).build(),
            &["tokenizer.ggml.tokens", "4 tokens", "found 2"],
        ),
        row(
            "37 embedding rows",
            tiny_model().tensor(Tensor::f32("token_embd.weight", &[128, 5])).build(),
            &["found 4"],
        ),
        row("27 float for integer", with_key("block_count", f32(1.0)), &["block_count", "an integer", "found f32"]),
        row("27 negative", with_key("block_count", i32(-1)), &["block_count", "found -1"]),
        row("27 string", with_key("block_count", str("1")), &["block_count", "found string"]),
        row(
            "missing key",
            tiny_model().without(&arch_key("feed_forward_length")).build(),
            &["key bitnet-b1.58.feed_forward_length is missing"],
        ),
    ];
    refuse_all(rows, open);
}

#[test]
fn tensors() {
    let q = "blk.0.attn_q.weight";
    let ternary = |dims: &[u64], scale| tiny_model().tensor(Tensor::i2_s(q, dims, scale)).build();
    let code_3 = tiny_model().edit(q, |tensor| tensor.data[7] = 0b01_11_01_01).build();
    let nan_norm =
        tiny_model().edit("blk.0.ffn_norm.weight", |t| t.data[8..12].copy_from_slice(&f32::NAN.to_le_bytes()));
    let mut rows = vec![
        row("53, 56 other columns", ternary(&[192, 128], 0.5), &[q, "expected sizes [128, 128]", "[192, 128]"]),
        row(
            "56 transposed",
            {
                let down = Tensor::i2_s("blk.0.ffn_down.weight", &[128, 256], 0.5);
                tiny_model().tensor(down).build()
            },
            &["blk.0.ffn_down.weight", "expected sizes [256, 128]", "[128, 256]"],
        ),
        row("56 missing", tiny_model().without_tensor(q).build(), &["tensor blk.0.attn_q.weight is missing", ARCH]),
        row(
            "56 embedding missing",
            tiny_model().without_tensor("token_embd.weight").build(),
            &["token_embd.weight is missing"],
        ),
        row(
            "56 extra",
            tiny_model().tensor(Tensor::f32("blk.0.attn_q.bias", &[128])).build(),
            &["tensor blk.0.attn_q.bias", "no use"],
        ),
        row(
            "56 norm length",
            tiny_model().tensor(Tensor::f32("blk.0.attn_norm.weight", &[64])).build(),
            &["attn_norm", "[128]", "[64]"],
        ),
        row(
            "56 F32 projection",
            {
                let values = (0..128 * 128).flat_map(|n| ((n % 7) as f32).to_le_bytes()).collect();
                tiny_model().tensor(Tensor::new(q, &[128, 128], 0, values)).build()
            },
            &[q, "of type F32", "not ternary", "in row 0, column 2"],
        ),
        row(
            "56 I2_S norm",
            tiny_model().tensor(Tensor::i2_s("blk.0.attn_norm.weight", &[128], 1.0)).build(),
            &["attn_norm", "F32", "I2_S"],
        ),
        row(
            "56 I2_S embedding",
            tiny_model().tensor(Tensor::i2_s("token_embd.weight", &[128, 4], 1.0)).build(),
            &["token_embd.weight", "I2_S"],
        ),
        row("59 code 3", code_3, &["tensor blk.0.attn_q.weight row 0, column 39", "-1, 0 or +1", "a code of none"]),
        row("60 NaN norm", nan_norm.build(), &["blk.0.ffn_norm.weight element 2", "finite", "NaN"]),
        row(
            "vocabulary only",
            {
                let mut file = tiny_model();
                file.tensors.clear();
                file.build()
            },
            &["every tensor is missing", "vocabulary-only"],
        ),
    ];
    for scale in [0.0, -1.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::from_bits(1)] {
        let expected = &["scale of tensor blk.0.attn_q.weight", "a finite number above 0", "found"];
        rows.push(row(format!("60 scale {scale}"), ternary(&[128, 128], scale), expected));
    }
    refuse_all(rows, open);
}

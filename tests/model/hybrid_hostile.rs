//! Files of hybrid and of rotated models that contradict themselves: each refused with a reason, without panic, without large
//! allocations.

use bitnet_gpu::{Error, bytes::Bytes, gguf::File, model::Model};

use crate::common::{
    gguf_builder::{Gguf, Raw, Tensor, array, bool, i32s, str, strings, tiny_hybrid, tiny_model, u32},
    hostile::{refuse_all, row},
};

fn open(bytes: Bytes) -> Result<(), Error> {
    Model::from_gguf(&File::parse(bytes)?).map(drop)
}

fn with(key: &str, value: Raw) -> Vec<u8> {
    tiny_hybrid().with(&format!("qwen35.{key}"), value).build()
}

/// The projections that are rotated in [`rotated`], and the head.
const FOLDED: [&str; 14] = [
    "output.weight",
    "blk.0.attn_qkv.weight",
    "blk.0.attn_gate.weight",
    "blk.0.ssm_out.weight",
    "blk.0.ffn_gate.weight",
    "blk.0.ffn_up.weight",
    "blk.0.ffn_down.weight",
    "blk.1.attn_q.weight",
    "blk.1.attn_k.weight",
    "blk.1.attn_v.weight",
    "blk.1.attn_output.weight",
    "blk.1.ffn_gate.weight",
    "blk.1.ffn_up.weight",
    "blk.1.ffn_down.weight",
];

fn key(name: &str) -> String {
    format!("prism.hadamard.{name}")
}

/// Version 1 with signs, everything rotated.
fn rotated() -> Gguf {
    let mut file = tiny_hybrid();
    for (name, value) in [
        ("version", u32(1)),
        ("block_size", u32(64)),
        ("transform", str("normalized-sylvester-walsh-hadamard")),
        ("axis", str("input-last-dimension")),
        ("sign_mode", str("explicit")),
        ("sign_widths", i32s(&[128, 256])),
        ("sign_values", i32s(&[-1; 384])),
        ("weight_names", strings(&FOLDED)),
        ("inverse_weight_names", strings(&["token_embd.weight"])),
        ("gdn_v_grouped", bool(1)),
    ] {
        file = file.with(&key(name), value);
    }
    file
}

/// Version 2: the rotated embedding table is the head.
fn tied() -> Gguf {
    let file = rotated().with(&key("version"), u32(2)).with(&key("tied_output"), bool(1));
    file.with(&key("weight_names"), strings(&FOLDED[1..])).without_tensor("output.weight")
}

#[test]
fn the_files_themselves_are_valid() {
    for file in [tiny_hybrid(), rotated(), tied()] {
        open(file.build().into()).unwrap();
    }
    // A list that includes an MTP block, whose tensors are skipped; the flags of layers in their other forms.
    let mtp = tiny_hybrid().with("qwen35.block_count", u32(3)).with("qwen35.nextn_predict_layers", u32(1));
    let mtp = mtp.tensor(Tensor::f32("blk.2.nextn.enorm.weight", &[128]));
    let key = "qwen35.attention.recurrent_layers";
    let flags = [i32s(&[1, 0]), array(7, 3, [1, 0, 0]), array(4, 2, [1, 0, 0, 0, 0, 0, 0, 0])];
    for file in flags.map(|flags| mtp.clone().with(key, flags)).into_iter().chain([mtp]) {
        open(file.build().into()).unwrap();
    }
    // An output projection that is not rotated reads its heads as they are.
    let rest: Vec<&str> = FOLDED.into_iter().filter(|name| *name != "blk.0.ssm_out.weight").collect();
    open(rotated().with(&self::key("weight_names"), strings(&rest)).build().into()).unwrap();
}

#[test]
fn hyperparameters_of_hybrid_models() {
    let flags = &["recurrent_layers", "one for each of the 2 layers", "found"];
    let mut rows = vec![
        row("no kernel", with("ssm.conv_kernel", u32(0)), &["ssm.conv_kernel", "1 to", "found 0"]),
        row("a large kernel", with("ssm.conv_kernel", u32(1 << 30)), &["ssm.conv_kernel", "1 to"]),
        row("another kernel", with("ssm.conv_kernel", u32(3)), &["ssm_conv1d.weight", "expected sizes [3, 256]"]),
        row("wide heads", with("ssm.state_size", u32(1 << 20)), &["ssm.state_size", "1 to"]),
        row("no key heads", with("ssm.group_count", u32(0)), &["ssm.group_count", "found 0"]),
        row("odd heads", with("ssm.time_step_rank", u32(5)), &["time_step_rank", "a multiple of the 2 key heads"]),
        row("many heads", with("ssm.time_step_rank", u32(1 << 20)), &["time_step_rank", "at most"]),
        row("another width", with("ssm.inner_size", u32(96)), &["ssm.inner_size", "128, 4 heads of 32", "found 96"]),
        row("no interval", with("full_attention_interval", u32(0)), &["full_attention_interval", "found 0"]),
        row("another interval", with("full_attention_interval", u32(3)), &["tensor blk.1.attn_qkv.weight is missing"]),
        row("few flags", with("attention.recurrent_layers", i32s(&[1])), flags),
        row("other flags", with("attention.recurrent_layers", i32s(&[1, 2])), flags),
        row("no flags", with("attention.recurrent_layers", u32(1)), flags),
        row("all flags", with("attention.recurrent_layers", bool(1)), &["tensor blk.1.attn_qkv.weight is missing"]),
        row("only MTP", with("nextn_predict_layers", u32(2)), &["nextn_predict_layers", "fewer than the 2 blocks"]),
        row("much MTP", with("nextn_predict_layers", u32(u32::MAX)), &["nextn_predict_layers", "fewer than"]),
        row("a block beyond", tiny_hybrid().tensor(Tensor::f32("blk.2.x", &[1])).build(), &["tensor blk.2.x"]),
        row("a tensor too many", tiny_hybrid().tensor(Tensor::f32("blk.0.ssm_d", &[4])).build(), &["blk.0.ssm_d"]),
        row(
            "attention in a recurrent layer",
            tiny_hybrid().tensor(Tensor::i2_s("blk.0.attn_q.weight", &[128, 256], 0.5)).build(),
            &["tensor blk.0.attn_q.weight is not supported"],
        ),
        row(
            "growth",
            tiny_hybrid().tensor(Tensor::f32("blk.0.ssm_a", &[4])).build(),
            &["tensor blk.0.ssm_a", "at most 0", "found 1"],
        ),
        row(
            "experts",
            tiny_hybrid().with("general.architecture", str("qwen35moe")).build(),
            &["'qwen35moe'", "mixtures of experts"],
        ),
        row(
            "a projector",
            Gguf::new()
                .with("general.architecture", str("clip"))
                .tensor(Tensor::f32("v.patch_embd.weight", &[4]))
                .build(),
            &["mmproj", "another model"],
        ),
    ];
    for name in ["ssm_alpha.weight", "ssm_beta.weight", "ssm_conv1d.weight", "ssm_dt.bias", "ssm_a", "ssm_norm.weight"]
    {
        let name = format!("blk.0.{name}");
        let missing = tiny_hybrid().without_tensor(&name).build();
        rows.push(row(format!("no {name}"), missing, &[&format!("tensor {name} is missing")]));
        let nan = tiny_hybrid().edit(&name, |tensor| tensor.data[..4].copy_from_slice(&f32::NAN.to_le_bytes()));
        if !name.contains("alpha") && !name.contains("beta") {
            rows.push(row(format!("NaN in {name}"), nan.build(), &[&name, "a finite number", "found NaN"]));
        }
    }
    refuse_all(rows, open);
}

#[test]
fn rotations_that_are_unknown_or_incomplete() {
    let changed = |name: &str, value: Raw| rotated().with(&key(name), value).build();
    let names = |names: Vec<&str>| changed("weight_names", strings(&names));
    let but = |left: &str| FOLDED.into_iter().filter(|name| *name != left).collect::<Vec<_>>();
    let and = |more: &'static str| FOLDED.into_iter().chain([more]).collect::<Vec<_>>();
    let sums = &["sign_values", "as many as the widths add up to"];
    let mut rows = vec![
        row("version 0", changed("version", u32(0)), &["version = 0", "versions 1 and 2"]),
        row("version 3", changed("version", u32(3)), &["version = 3", "versions 1 and 2"]),
        row("tied in version 1", changed("tied_output", bool(1)), &["tied_output", "false in version 1"]),
        row("version 2 alone", changed("version", u32(2)), &["tied_output", "true in version 2"]),
        row("another transform", changed("transform", str("haar")), &["transform = 'haar'", "only"]),
        row("another axis", changed("axis", str("output")), &["axis = 'output'", "only"]),
        row("another mode", changed("sign_mode", str("random")), &["sign_mode = 'random'", "identity and explicit"]),
        row("signs without a mode", changed("sign_mode", str("identity")), &["sign_widths", "none where"]),
        row("an unknown key", changed("seed", u32(1)), &["prism.hadamard.seed", "not known"]),
        row("block of 0", changed("block_size", u32(0)), &["block_size", "a power of two"]),
        row("block of 1", changed("block_size", u32(1)), &["block_size", "a power of two"]),
        row("block of 96", changed("block_size", u32(96)), &["block_size", "a power of two"]),
        row("a wide block", changed("block_size", u32(256)), &["block_size", "divides [128, 256]"]),
        row("a huge block", changed("block_size", u32(1 << 31)), &["block_size", "divides"]),
        row("a width too few", changed("sign_widths", i32s(&[128])), sums),
        row("a width too many", changed("sign_widths", i32s(&[128, 256, 64])), sums),
        row("widths that overflow", changed("sign_widths", i32s(&[i32::MAX, i32::MAX])), sums),
        row("a width of 0", changed("sign_widths", i32s(&[0, 128, 256])), &["sign_widths", "above 0"]),
        row("a width below 0", changed("sign_widths", i32s(&[-128, 256])), &["sign_widths", "above 0"]),
        row("a width twice", changed("sign_widths", i32s(&[128, 128, 128])), &["sign_widths", "each width once"]),
        row("other widths", changed("sign_widths", i32s(&[127, 257])), &["sign_widths", "128, which folded"]),
        row("a sign of 0", changed("sign_values", i32s(&[0; 384])), &["sign_values", "-1 or 1", "found 0"]),
        row("a sign of 2", changed("sign_values", i32s(&[2; 384])), &["sign_values", "-1 or 1"]),
        row("the lowest sign", changed("sign_values", i32s(&[i32::MIN; 384])), &["sign_values", "-1 or 1"]),
        row("signs too few", changed("sign_values", i32s(&[1; 383])), sums),
        row("a name twice", names(and("blk.0.ffn_up.weight")), &["weight_names", "each name once"]),
        row("an unknown name", names(and("blk.0.ssm_alpha.weight")), &["weight_names", "names of projections"]),
        row("a norm", names(and("blk.0.attn_norm.weight")), &["weight_names", "names of projections"]),
        row("no name", names(and("")), &["weight_names", "names of projections"]),
        row("a block beyond", names(and("blk.7.ffn_up.weight")), &["weight_names", "blocks below 2"]),
        row("no such projection", names(and("blk.0.attn_q.weight")), &["weight_names", "their layers have"]),
        row("a name too few", names(but("blk.1.ffn_up.weight")), &["weight_names", "blk.1.ffn_up.weight, as other"]),
        row("no inverse", changed("inverse_weight_names", strings::<&str>(&[])), &["inverse_weight_names", "alone"]),
        row(
            "another inverse",
            changed("inverse_weight_names", strings(&["output.weight"])),
            &["inverse_weight_names", "token_embd.weight"],
        ),
        row("no head", rotated().without_tensor("output.weight").build(), &["tensor output.weight is missing"]),
        row(
            "a head beside a tied one",
            tied().tensor(Tensor::f32("output.weight", &[128, 4])).build(),
            &["output.weight beside a tied output"],
        ),
        row(
            "the name of a tied head",
            tied().with(&key("weight_names"), strings(&FOLDED)).build(),
            &["weight_names", "no head beside"],
        ),
        row(
            "a family without the ops",
            tiny_model().with(&key("version"), u32(1)).build(),
            &["prism.hadamard.version", "Hadamard"],
        ),
    ];
    for name in [
        "version",
        "block_size",
        "transform",
        "axis",
        "sign_mode",
        "sign_widths",
        "sign_values",
        "weight_names",
        "inverse_weight_names",
    ] {
        let name = key(name);
        rows.push(row(format!("no {name}"), rotated().without(&name).build(), &[&name, "missing"]));
        rows.push(row(format!("{name} of another type"), rotated().with(&name, array(12, 0, [])).build(), &[&name]));
    }
    refuse_all(rows, open);
}

/// Tensors of a block of multi-token prediction, by their names behind `blk.N.` and their sizes.
const MTP: [(&str, &[u64]); 14] = [
    ("nextn.eh_proj.weight", &[256, 128]),
    ("nextn.enorm.weight", &[128]),
    ("nextn.hnorm.weight", &[128]),
    ("nextn.shared_head_norm.weight", &[128]),
    ("attn_norm.weight", &[128]),
    ("post_attention_norm.weight", &[128]),
    ("attn_q.weight", &[128, 256]),
    ("attn_k.weight", &[128, 64]),
    ("attn_v.weight", &[128, 64]),
    ("attn_q_norm.weight", &[64]),
    ("attn_k_norm.weight", &[64]),
    ("attn_output.weight", &[128, 128]),
    ("ffn_gate.weight", &[128, 256]),
    ("ffn_up.weight", &[128, 256]),
];

/// A model with so many blocks of multi-token prediction in F32.
fn with_mtp(file: Gguf, blocks: u32) -> Gguf {
    let mut file = file.with("qwen35.block_count", u32(2 + blocks)).with("qwen35.nextn_predict_layers", u32(blocks));
    for block in 2..2 + blocks {
        for (name, dims) in MTP {
            file = file.tensor(Tensor::f32(format!("blk.{block}.{name}"), dims));
        }
        file = file.tensor(Tensor::f32(format!("blk.{block}.ffn_down.weight"), &[256, 128]));
    }
    file
}

fn mtp_of(file: &Gguf) -> Option<bitnet_gpu::model::MtpBlock> {
    Model::from_gguf(&File::parse(file.build().into()).unwrap()).unwrap().weights.mtp
}

/// None, one, and more, of which the first is read; tables of its own; a file that counts blocks and has none of their
/// tensors, and blocks whose matrices no kernel reads.
#[test]
fn blocks_of_multi_token_prediction_are_read_where_they_can_run() {
    assert!(mtp_of(&tiny_hybrid()).is_none() && mtp_of(&with_mtp(tiny_hybrid(), 0)).is_none());
    for file in [with_mtp(tiny_hybrid(), 1), with_mtp(rotated(), 1), with_mtp(tiny_hybrid(), 3)] {
        let mtp = mtp_of(&file).unwrap();
        assert!(mtp.head_norm.is_some() && mtp.token_embd.is_none() && mtp.output.is_none());
        // 128 x 256 + 256 x 128 + 2 x 64 x 128 + 128 x 128 + 3 x 256 x 128, and norms of 5 x 128 and 2 x 64.
        assert_eq!(mtp.bytes(), 4 * (196_608 + 768));
    }
    let one = with_mtp(tiny_hybrid(), 1);
    let mtp = mtp_of(&one.clone().without_tensor("blk.2.nextn.shared_head_norm.weight")).unwrap();
    assert!(mtp.head_norm.is_none());
    let tables = one.clone().tensor(Tensor::f32("blk.2.nextn.embed_tokens.weight", &[128, 4]));
    let mtp = mtp_of(&tables.tensor(Tensor::f32("blk.2.nextn.shared_head_head.weight", &[128, 4]))).unwrap();
    assert!(mtp.token_embd.is_some() && mtp.output.is_some());
    let counted = tiny_hybrid().with("qwen35.block_count", u32(3)).with("qwen35.nextn_predict_layers", u32(1));
    assert!(mtp_of(&counted).is_none());
    let unread = one.clone().tensor(Tensor::i2_s("blk.2.attn_k.weight", &[128, 64], 0.5));
    assert!(mtp_of(&unread).is_none());
    assert!(mtp_of(&one.clone().tensor(Tensor::f32("blk.2.attn_k.scale", &[1]))).is_none());
    // All matrices that share an input are rotated, or none.
    let folded = |names: &[&str]| {
        let names = [&FOLDED[..], names].concat();
        with_mtp(rotated(), 1).with(&key("weight_names"), strings(&names))
    };
    assert!(mtp_of(&folded(&["blk.2.attn_output.weight", "blk.2.ffn_gate.weight", "blk.2.ffn_up.weight"])).is_some());
    assert!(mtp_of(&folded(&["blk.2.ffn_gate.weight"])).is_none());
}

#[test]
fn damaged_blocks_of_multi_token_prediction_are_refused_by_name() {
    let one = with_mtp(tiny_hybrid(), 1);
    let mut cases = Vec::new();
    for (name, dims) in MTP {
        let name = format!("blk.2.{name}");
        // Without the first there is no block, and one of them may be missing.
        if !["blk.2.nextn.eh_proj.weight", "blk.2.nextn.shared_head_norm.weight"].contains(&name.as_str()) {
            cases.push((one.clone().without_tensor(&name), name.clone(), "is missing"));
        }
        let mut longer = dims.to_vec();
        *longer.last_mut().unwrap() += 1;
        cases.push((one.clone().tensor(Tensor::f32(&name, &longer)), name.clone(), "expected sizes"));
        if dims.len() == 1 {
            let nan = f32::NAN.to_le_bytes().repeat(dims[0] as usize);
            cases.push((one.clone().tensor(Tensor::new(&name, dims, 0, nan)), name, "a finite number"));
        }
    }
    for table in ["embed_tokens", "shared_head_head"] {
        let name = format!("blk.2.nextn.{table}.weight");
        cases.push((one.clone().tensor(Tensor::f32(&name, &[128, 5])), name, "expected sizes"));
    }
    for (file, name, reason) in cases {
        let error = open(file.build().into()).unwrap_err().to_string();
        assert!(error.contains(&name) && error.contains(reason), "{name}, {reason}: {error}");
    }
    let names = [&FOLDED[..], &["blk.2.attn_qkv.weight"]].concat();
    let error = open(with_mtp(rotated(), 1).with(&key("weight_names"), strings(&names)).build().into()).unwrap_err();
    assert!(error.to_string().contains("weight_names"), "{error}");
}

//! Output of conversions, against values worked out by hand from the formats' rules.

use std::{cell::RefCell, fs, ops::ControlFlow};

use bitnet_gpu::{
    convert::{ConvertOptions, convert, in_memory},
    gguf::{File, TensorType, Value},
    tokenizer::{EncodeOptions, Tokenizer},
};
use safetensors::Dtype;
use serde_json::json;

use super::support::{Case, DIM, FFN, Model, Source, VOCAB, noise, reals, scale, ternary};

/// A matrix whose row r is +1 in the columns of r's binary digits, so that rows can be told apart.
fn numbered_rows(rows: usize, cols: usize) -> Source {
    Source::f32(
        &[rows, cols],
        (0..rows * cols).map(|e| if ((e / cols) >> (e % cols).min(31)) & 1 == 1 { 1.0 } else { 0.0 }),
    )
}

/// The numbers of the rows, read back.
fn row_numbers(weights: &[i8], cols: usize) -> Vec<usize> {
    weights.chunks(cols).map(|row| row.iter().enumerate().map(|(bit, &w)| (w as usize) << bit).sum()).collect()
}

#[test]
fn llama_interleaves_the_rows_of_q_and_k_and_the_others_do_not() {
    let rows = |mut model: Model| {
        for name in ["q_proj", "k_proj", "v_proj"] {
            let rows = if name == "q_proj" { DIM } else { DIM / 2 };
            model.tensors.insert(format!("model.layers.0.self_attn.{name}.weight"), numbered_rows(rows, DIM));
        }
        let file = Case::of(&model).file();
        ["q", "k", "v"].map(|name| row_numbers(&ternary(&file, &format!("blk.0.attn_{name}.weight")), DIM))
    };
    // Heads of 8 rows: row i is followed by row i + 4 of its head.
    let turned: Vec<usize> = (0..4).flat_map(|head| [0, 4, 1, 5, 2, 6, 3, 7].map(|row| 8 * head + row)).collect();
    let kept: Vec<usize> = (0..32).collect();
    assert_eq!(rows(Model::llama()), [&turned[..], &turned[..16], &kept[..16]]);
    assert_eq!(rows(Model::bitnet()), [&kept[..], &kept[..16], &kept[..16]]);
}

#[test]
fn the_codes_lie_in_blocks_of_128_and_the_scale_behind_them() {
    // Elements 0 to 3 of row 0 are 1, -1, 0, 1 times 0.5 and the rest is 0, so the first element is code 2 at the
    // top of byte 0, the second code 0, the third code 1; element 32 (row 1, column 0) is code 0 at shift 4.
    let mut values = vec![0.0; FFN * DIM];
    values[..4].copy_from_slice(&[0.5, -0.5, 0.0, 0.5]);
    values[32] = -0.5;
    let mut model = Model::bitnet();
    model.tensors.insert("model.layers.1.mlp.up_proj.weight".into(), Source::f32(&[FFN, DIM], values));
    let file = Case::of(&model).file();
    let tensor = file.tensor("blk.1.ffn_up.weight").unwrap();
    assert_eq!((tensor.ty, &tensor.dims[..]), (TensorType::I2_S, &[DIM as u64, FFN as u64][..]));
    let data = file.data(tensor);
    assert_eq!(data.len(), FFN * DIM / 4 + 32);
    assert_eq!(data[..5], [0b10_00_01_01, 0b00_01_01_01, 0b01_01_01_01, 0b10_01_01_01, 0b01_01_01_01]);
    assert_eq!(data[FFN * DIM / 4..][..8], [0, 0, 0, 0x3f, 0, 0, 0, 0]);
}

#[test]
fn masters_give_the_same_codes_in_every_format() {
    // Multiples of 1/64 are exact in all three.
    let steps = |name: &str, count| noise(name, count).into_iter().map(|v| (v * 64.0).round() / 64.0);
    let mut model = Model::bitnet();
    for (name, tensor) in &mut model.tensors {
        *tensor = Source::f32(&tensor.shape, steps(name, tensor.bytes.len() / 4));
    }
    let expected = Case::of(&model).bytes();
    for dtype in [Dtype::BF16, Dtype::F16] {
        let mut cast = model.clone();
        cast.tensors.values_mut().for_each(|tensor| *tensor = tensor.cast(dtype));
        assert!(Case::of(&cast).bytes() == expected, "{dtype} masters give another file");
    }
}

#[test]
fn shards_prefixes_and_repetition_do_not_change_the_file() {
    let model = Model::bitnet();
    let case = Case::of(&model);
    let expected = case.bytes();

    let sharded = Case::new();
    model.write_shards(&sharded.input(), 3);
    assert!(sharded.bytes() == expected, "shards give another file");

    let mut bare = model.clone();
    bare.rename("model.", "");
    assert!(Case::of(&bare).bytes() == expected, "names without the prefix give another file");

    let again = case.folder.path().join("again.gguf");
    convert(&case.input(), &again, &ConvertOptions::default()).unwrap();
    assert!(fs::read(&again).unwrap() == expected, "a second run gives another file");
}

#[test]
fn the_metadata_says_what_the_config_says() {
    let file = Case::of(&Model::bitnet()).file();
    let metadata = file.metadata();
    assert_eq!(metadata.str("general.architecture").unwrap(), Some("bitnet-b1.58"));
    assert_eq!(metadata.get("general.name"), None);
    for (key, value) in [
        ("vocab_size", 24),
        ("context_length", 64),
        ("embedding_length", 32),
        ("block_count", 2),
        ("feed_forward_length", 64),
        ("rope.dimension_count", 8),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
    ] {
        assert_eq!(metadata.get(&format!("bitnet-b1.58.{key}")), Some(&Value::U32(value)), "{key}");
    }
    assert_eq!(metadata.get("bitnet-b1.58.attention.key_length"), None);
    assert_eq!(metadata.get("bitnet-b1.58.attention.layer_norm_rms_epsilon"), Some(&Value::F32(1e-5)));
    assert_eq!(metadata.get("bitnet-b1.58.rope.freq_base"), Some(&Value::F32(10000.0)));
    assert_eq!(metadata.str("bitnet-b1.58.hidden_activation").unwrap(), Some("relu2"));
    assert_eq!(metadata.get("general.file_type"), Some(&Value::U32(40)));
    assert_eq!(metadata.get("general.quantization_version"), Some(&Value::U32(2)));
}

#[test]
fn each_family_gets_its_architecture_and_tensors() {
    let mut old = Model::bitnet();
    old.config["architectures"] = json!(["BitnetForCausalLM"]);
    old.config["hidden_act"] = json!("silu");
    old.rename("attn_sub_norm", "inner_attn_ln");
    old.rename("ffn_sub_norm", "ffn_layernorm");
    let file = Case::of(&old).file();
    assert_eq!(file.metadata().str("general.architecture").unwrap(), Some("bitnet"));
    assert_eq!(file.metadata().str("bitnet.hidden_activation").unwrap(), Some("silu"));
    assert_eq!(reals(&file, "blk.1.attn_sub_norm.weight").len(), DIM);
    assert_eq!(reals(&file, "blk.1.ffn_sub_norm.weight").len(), FFN);

    let file = Case::of(&Model::qwen3()).file();
    assert_eq!(file.metadata().str("general.architecture").unwrap(), Some("qwen3"));
    assert_eq!(file.metadata().uint("qwen3.attention.key_length").unwrap(), Some(16));
    assert_eq!(file.metadata().uint("qwen3.attention.value_length").unwrap(), Some(16));
    assert_eq!(file.metadata().uint("qwen3.rope.dimension_count").unwrap(), Some(16));
    assert_eq!(reals(&file, "blk.0.attn_k_norm.weight").len(), 16);
    assert_eq!(file.tensor("blk.0.attn_q.weight").unwrap().dims, [32, 64]);
    assert_eq!(file.tensor("blk.0.attn_output.weight").unwrap().dims, [64, 32]);

    let file = Case::of(&Model::llama()).file();
    assert_eq!(file.metadata().str("general.architecture").unwrap(), Some("llama"));
    assert!(file.tensor("blk.0.attn_sub_norm.weight").is_none());
}

#[test]
fn tables_are_f16_and_norms_f32() {
    let mut model = Model::bitnet();
    let table: Vec<f32> = (0..VOCAB * DIM).map(|i| i as f32 / 8.0).collect();
    model.tensors.insert("model.embed_tokens.weight".into(), Source::f32(&[VOCAB, DIM], table.clone()));
    let norm = noise("norm", DIM);
    model.tensors.insert("model.norm.weight".into(), Source::f32(&[DIM], norm.clone()));
    let file = Case::of(&model).file();
    assert_eq!(file.tensor("token_embd.weight").unwrap().ty, TensorType::F16);
    assert_eq!(reals(&file, "token_embd.weight"), table);
    assert_eq!(file.tensor("output_norm.weight").unwrap().ty, TensorType::F32);
    assert_eq!(reals(&file, "output_norm.weight"), norm);
}

#[test]
fn the_head_is_written_only_when_it_is_its_own() {
    let mut model = Model::llama();
    model.matrix("lm_head.weight", VOCAB, DIM);
    let tied = Case::of(&model);
    assert!(tied.convert().unwrap().warnings.iter().any(|w| w.contains("lm_head.weight is left out")));
    let written = |tie: serde_json::Value| {
        model.config["tie_word_embeddings"] = tie;
        Case::of(&model).file().tensor("output.weight").is_some()
    };
    assert_eq!([json!(true), json!(false), json!(null)].map(written), [false, true, true]);
}

#[test]
fn rope_scaling_becomes_metadata_or_a_tensor() {
    let mut model = Model::llama();
    model.config["rope_scaling"] = json!({"type": "linear", "factor": 4.0});
    let file = Case::of(&model).file();
    assert_eq!(file.metadata().str("llama.rope.scaling.type").unwrap(), Some("linear"));
    assert_eq!(file.metadata().float("llama.rope.scaling.factor").unwrap(), Some(4.0));
    assert!(file.tensor("rope_freqs.weight").is_none());

    // Heads of 8, base 10^8: wavelengths 2 pi * (1, 100, 10^4, 10^6). Below 64 / 4 kept, above 64 / 1 divided by 32.
    model.config["rope_theta"] = json!(1e8);
    model.config["rope_scaling"] = json!({"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64});
    assert_eq!(reals(&Case::of(&model).file(), "rope_freqs.weight"), [1.0, 32.0, 32.0, 32.0]);
}

#[test]
fn packed_weights_keep_their_codes_and_take_their_scale() {
    // Four rows in a byte row: byte (r, c) holds rows r, r + 8, r + 16, r + 24 of the 32, lowest bits first.
    let weights: Vec<i8> = (0..DIM * FFN).map(|e| (e * 7 % 11 % 3) as i8 - 1).collect();
    let mut bytes = vec![0; DIM / 4 * FFN];
    for (e, w) in weights.iter().enumerate() {
        let (row, col) = (e / FFN, e % FFN);
        bytes[row % 8 * FFN + col] |= ((w + 1) as u8) << (2 * (row / 8));
    }
    let mut model = Model::bitnet();
    let name = "model.layers.0.mlp.down_proj";
    model.tensors.insert(format!("{name}.weight"), Source::u8(&[DIM / 4, FFN], bytes));
    model.tensors.insert(format!("{name}.weight_scale"), Source::f32(&[1], [4.0]).cast(Dtype::BF16));
    let file = Case::of(&model).file();
    assert_eq!(ternary(&file, "blk.0.ffn_down.weight"), weights);
    assert_eq!(scale(&file, "blk.0.ffn_down.weight"), 4.0);
    model.config["quantization_config"]["linear_class"] = json!("bitlinear");
    assert_eq!(scale(&Case::of(&model).file(), "blk.0.ffn_down.weight"), 0.25);
}

#[test]
fn an_ordinary_model_is_rounded_only_on_request() {
    let mut model = Model::llama();
    model.config["quantization_config"] = json!(null);
    let case = Case::of(&model);
    assert!(case.failure().contains("its values are not ternary"));
    let report =
        convert(&case.input(), &case.output(), &ConvertOptions { ternarise: true, ..Default::default() }).unwrap();
    assert_eq!(report.rounded, 14);

    for (name, tensor) in &mut model.tensors {
        if name.contains("_proj") {
            let values = noise(name, tensor.bytes.len() / 4).into_iter().map(|v| 0.75 * (v * 1.5).round());
            *tensor = Source::f32(&tensor.shape, values);
        }
    }
    let case = Case::of(&model);
    assert_eq!(case.convert().unwrap().rounded, 0);
    assert_eq!(scale(&File::open(&case.output()).unwrap(), "blk.0.attn_v.weight"), 0.75);
}

#[test]
fn the_report_counts_what_was_written() {
    let case = Case::of(&Model::bitnet());
    let report = case.convert().unwrap();
    let projections = 2 * (2 * DIM * DIM + 2 * DIM * DIM / 2 + 3 * DIM * FFN) as u64;
    assert_eq!((report.types["I2_S"].tensors, report.types["I2_S"].elements), (14, projections));
    assert_eq!(report.types["I2_S"].bytes, projections / 4 + 14 * 32);
    assert_eq!((report.types["F16"].tensors, report.types["F32"].tensors), (1, 9));
    assert_eq!(report.bytes_out, fs::metadata(case.output()).unwrap().len());
    assert_eq!(report.bytes_in, fs::metadata(case.input().join("model.safetensors")).unwrap().len());
    assert_eq!(report.rounded, 14);
    let text = report.to_string();
    assert!(text.contains("14 matrices rounded to ternary, 0 ternary already"), "{text}");
    assert_eq!(serde_json::to_value(&report).unwrap()["types"]["F16"]["tensors"], 1);
}

#[test]
fn a_model_without_a_tokenizer_says_so() {
    let report = Case::of(&Model::bitnet()).convert().unwrap();
    assert!(report.warnings.iter().any(|w| w.contains("tokenizer.json")), "{:?}", report.warnings);
}

/// A byte-level vocabulary of the letters a to w, and one token for the end.
fn letters() -> serde_json::Value {
    let vocab: serde_json::Map<_, _> = ('a'..='w').zip(1..).map(|(c, id)| (c.to_string(), json!(id))).collect();
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let end = json!({"id": 0, "content": "<end>", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true});
    json!({"version": "1.0", "added_tokens": [end], "normalizer": null, "pre_tokenizer": bytes, "decoder": bytes,
        "post_processor": null, "model": {"type": "BPE", "vocab": vocab, "merges": []}})
}

#[test]
fn the_tokenizer_comes_with_the_model() {
    let case = Case::of(&Model::bitnet());
    let write = |name: &str, value: serde_json::Value| fs::write(case.input().join(name), value.to_string()).unwrap();
    write("tokenizer.json", letters());
    write("tokenizer_config.json", json!({"eos_token": "<end>", "bos_token": "<end>", "add_bos_token": true}));
    let report = case.convert().unwrap();
    assert!(report.warnings.is_empty(), "{:?}", report.warnings);
    let file = File::open(&case.output()).unwrap();
    let tokenizer = Tokenizer::from_gguf(file.metadata()).unwrap();
    let options = EncodeOptions { add_special: true, ..Default::default() };
    assert_eq!(tokenizer.encode("cab", &options).unwrap(), [0, 3, 1, 2]);
    assert!(tokenizer.is_end(0));

    // A vocabulary of more tokens than the embedding has rows does not belong to the model.
    let mut large = letters();
    large["model"]["vocab"]["x"] = json!(24);
    write("tokenizer.json", large);
    fs::remove_file(case.output()).unwrap();
    assert!(case.failure().contains("tokenizer.json"));
}

#[test]
fn the_end_token_may_stand_in_config_json_alone() {
    let mut model = Model::bitnet();
    model.config["eos_token_id"] = json!(5);
    let case = Case::of(&model);
    fs::write(case.input().join("tokenizer.json"), letters().to_string()).unwrap();
    assert_eq!(case.file().metadata().uint("tokenizer.ggml.eos_token_id").unwrap(), Some(5));
}

#[test]
fn chat_templates_are_found_in_each_of_their_places() {
    let case = Case::of(&Model::bitnet());
    let write = |name: &str, text: &str| fs::write(case.input().join(name), text).unwrap();
    write("tokenizer.json", &letters().to_string());
    let template = || {
        let options = ConvertOptions { force: true, ..Default::default() };
        convert(&case.input(), &case.output(), &options).unwrap();
        let file = File::open(&case.output()).unwrap();
        file.metadata().str("tokenizer.chat_template").unwrap().map(str::to_owned)
    };
    assert_eq!(template(), None);
    write("tokenizer_config.json", r#"{"chat_template": "one"}"#);
    assert_eq!(template().as_deref(), Some("one"));
    let list = r#"[{"name": "tool_use", "template": "two"}, {"name": "default", "template": "three"}]"#;
    write("tokenizer_config.json", &format!(r#"{{"chat_template": {list}}}"#));
    assert_eq!(template().as_deref(), Some("three"));
    let named = File::open(&case.output()).unwrap();
    assert_eq!(named.metadata().str("tokenizer.chat_template.tool_use").unwrap(), Some("two"));
    write("chat_template.json", r#"{"chat_template": "five"}"#);
    assert_eq!(template().as_deref(), Some("three"));
    write("tokenizer_config.json", "{}");
    assert_eq!(template().as_deref(), Some("five"));
    write("chat_template.jinja", "four");
    assert_eq!(template().as_deref(), Some("four"));
    // Those of a folder go before those of a list.
    write("tokenizer_config.json", &format!(r#"{{"chat_template": {list}}}"#));
    fs::create_dir(case.input().join("additional_chat_templates")).unwrap();
    write("additional_chat_templates/rag.jinja", "six");
    write("additional_chat_templates/tool_use.jinja", "seven");
    write("additional_chat_templates/notes.txt", "eight");
    assert_eq!(template().as_deref(), Some("four"));
    let named = File::open(&case.output()).unwrap();
    let text = |name: &str| named.metadata().str(&format!("tokenizer.chat_template.{name}")).unwrap();
    assert_eq!((text("tool_use"), text("rag"), text("notes")), (Some("seven"), Some("six"), None));
    let names = ["tool_use", "rag"].map(str::to_owned).to_vec();
    assert_eq!(named.metadata().strings("tokenizer.chat_templates").unwrap(), Some(&names[..]));
    fs::write(case.input().join("additional_chat_templates/rag.jinja"), [0xff]).unwrap();
    let error = convert(&case.input(), &case.output(), &ConvertOptions { force: true, ..Default::default() });
    let error = error.unwrap_err().to_string();
    assert!(error.contains("rag.jinja: chat template: expected UTF-8 text"), "{error}");
}

#[test]
fn the_name_can_be_given() {
    let mut model = Model::bitnet();
    model.config["_name_or_path"] = json!("org/Small-Model");
    let case = Case::of(&model);
    assert_eq!(case.file().metadata().str("general.name").unwrap(), Some("Small-Model"));
    let options = ConvertOptions { name: Some("Other"), force: true, ..Default::default() };
    assert_eq!(convert(&case.input(), &case.output(), &options).unwrap().name, "Other");
    let file = File::open(&case.output()).unwrap();
    assert_eq!(file.metadata().str("general.name").unwrap(), Some("Other"));
}

#[test]
fn sampling_of_a_directory_becomes_keys_of_the_file() {
    let case = Case::of(&Model::bitnet());
    let generation = r#"{"do_sample": true, "temperature": 0.5, "top_k": 20, "eos_token_id": 1}"#;
    fs::write(case.input().join("generation_config.json"), generation).unwrap();
    let found = |file: &File| {
        ["temp", "top_k", "top_p"].map(|name| file.metadata().get(&format!("general.sampling.{name}")).cloned())
    };
    let expected = [Some(Value::F32(0.5)), Some(Value::I32(20)), None];
    assert_eq!(found(&case.file()), expected);
    assert_eq!(found(&in_memory(&case.input(), None).unwrap()), expected);
}

#[test]
fn progress_reaches_the_end_and_can_stop_the_work() {
    let case = Case::of(&Model::bitnet());
    let seen = RefCell::new(Vec::new());
    let stop_after = |limit: usize| {
        seen.borrow_mut().clear();
        let report = |progress: &bitnet_gpu::convert::Progress| {
            seen.borrow_mut().push((progress.done_bytes, progress.total_bytes));
            if seen.borrow().len() == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        convert(&case.input(), &case.output(), &ConvertOptions { progress: Some(&report), ..Default::default() })
    };
    let error = stop_after(5).unwrap_err();
    assert_eq!((seen.borrow().len(), case.names()), (5, vec!["in".to_owned()]), "{error}");
    stop_after(usize::MAX).unwrap();
    assert!(seen.borrow().is_sorted());
    let &(done, total) = seen.borrow().last().unwrap();
    assert_eq!(done, total);
}

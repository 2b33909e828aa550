//! Writes what each fuzz target begins with into the folder that is named: small valid inputs.

#[path = "../tests/convert/support.rs"]
#[allow(dead_code, reason = "the tests use all of it")]
mod checkpoint;

#[path = "../tests/common/gguf_builder.rs"]
#[allow(dead_code, reason = "the tests use all of it")]
mod gguf_builder;

#[path = "../tests/common/tiny_vocab.rs"]
#[allow(dead_code, reason = "the tests use all of it")]
mod tiny_vocab;

use std::{env, fs, path::PathBuf};

// Counts the branches that the build asks to be counted, as in the targets.
use libfuzzer_sys as _;

use gguf_builder::{f32s, i32s, sample, str, strings, tiny_model};

/// Half as large as the checkpoints of the tests.
fn checkpoint() -> Vec<u8> {
    let mut model = checkpoint::Model::bitnet();
    for tensor in model.tensors.values_mut() {
        *tensor = tensor.cast(safetensors::Dtype::BF16);
    }
    [model.config.to_string().as_bytes(), &[0], &checkpoint::serialise(model.tensors.iter())].concat()
}

/// A tokenizer and a template, and a model that is not there.
fn vocabulary() -> Vec<u8> {
    sample()
        .with("tokenizer.ggml.model", str("llama"))
        .with("tokenizer.ggml.tokens", strings(&["<unk>", "<s>", "</s>", "<0x0A>", "\u{2581}", "o", "l", "lo"]))
        .with("tokenizer.ggml.scores", f32s(&[0.0, 0.0, 0.0, 0.0, -1.0, -2.0, -3.0, -0.5]))
        .with("tokenizer.ggml.token_type", i32s(&[2, 3, 3, 6, 1, 1, 1, 1]))
        .with("tokenizer.chat_template", str("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"))
        .build()
}

const TEMPLATE: &str = "{%- if messages[0]['role'] == 'system' -%}{{ bos_token }}{%- endif -%}
{%- for message in messages -%}
{%- if not loop.first and message.role not in ['user', 'assistant'] -%}{{ raise_exception('no') }}{%- endif -%}
{{ '<|' ~ message['role'] | upper + '|>' + message.content.strip() | trim | replace('a', 'b') }}{{ eos_token }}
{%- set ns = namespace(n=loop.index0 % 2) -%}{% macro f(x) %}{{ x[1:] | length }}{% endmacro %}{{ f('abc') * ns.n }}
{%- endfor -%}{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}";
const GBNF: &str =
    "root ::= (expr \"=\" term \"\\n\")+\nexpr ::= term ([-+*/] term)*\nterm ::= [0-9]{1,3} | \"(\" expr \")\"";
const LARK: &str = "start: greeting NAME \"!\"*\ngreeting: \"hello \" | \"hell\"\nNAME: /[a-z]+/\n%ignore / /";
const SCHEMA: &str = r##"{"type":"object","properties":{"a":{"type":"string","maxLength":3,"pattern":"^[a-c]+$"},
"b":{"type":"integer","minimum":1,"maximum":99},"c":{"type":"array","items":{"enum":["x","y"]},"maxItems":2},
"d":{"anyOf":[{"type":"null"},{"$ref":"#/$defs/e"}]}},"required":["a"],"$defs":{"e":{"type":"number"}}}"##;
const CONVERSATION: &str = r#"{"version":1,"model":"m","messages":[{"role":"system","content":"Be kind."},
{"role":"user","content":"Hi"},{"role":"assistant","content":"\u00e9\n"}]}"#;

fn main() {
    let folder = PathBuf::from(env::args_os().nth(1).expect("usage: seeds FOLDER"));
    let tokenizer = tiny_vocab::byte_level_json(tiny_vocab::gpt2_json()).to_string();
    let seeds: [(&str, Vec<Vec<u8>>); 7] = [
        ("gguf", vec![sample().build(), vocabulary()]),
        ("model", vec![tiny_model().build(), vocabulary()]),
        ("checkpoint", vec![checkpoint()]),
        ("tokenizer", vec![tokenizer.into()]),
        ("template", vec![TEMPLATE.into()]),
        ("grammar", [GBNF, LARK, SCHEMA].map(Vec::from).into()),
        ("conversation", vec![CONVERSATION.into()]),
    ];
    for (target, inputs) in seeds {
        fs::create_dir_all(folder.join(target)).expect("a folder is made");
        for (at, input) in inputs.iter().enumerate() {
            fs::write(folder.join(target).join(format!("seed-{at}")), input).expect("a seed is written");
        }
    }
}

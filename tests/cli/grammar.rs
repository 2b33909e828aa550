//! Answers under a grammar or a JSON schema, as a process, on the built-in model.

use std::fs;

use serde_json::Value;

use crate::common::cli::{run, run_with_input};

/// The answer alone, and how it ended.
fn answer(more: &[&str]) -> (String, String) {
    let args = ["run", "-p", "Once upon a time", "-c", "512", "--backend", "cpu", "--json"];
    let json = run(&[&args, more].concat()).json();
    (json["text"].as_str().unwrap().into(), json["finish"].as_str().unwrap().into())
}

#[test]
fn answers_follow_a_json_schema_at_any_seed() {
    let schema = r#"{
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "age": {"type": "integer", "minimum": 1, "maximum": 99},
            "likes": {"type": "array", "items": {"enum": ["cats", "dogs"]}, "minItems": 1, "maxItems": 3}
        },
        "required": ["name", "age", "likes"],
        "additionalProperties": false
    }"#;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("schema.json");
    fs::write(&file, schema).unwrap();
    for seed in ["1", "2", "3", "4", "5", "6"] {
        for flag in [["-j", schema], ["-jf", file.to_str().unwrap()]] {
            let (text, finish) = answer(&[&["-s", seed, "--temp", "1.2"], &flag[..]].concat());
            let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e} in {text:?}"));
            assert_eq!(finish, "grammar", "{text}");
            let object = value.as_object().unwrap();
            assert_eq!(object.len(), 3, "{text}");
            assert!(object["name"].as_str().unwrap().chars().count() <= 12, "{text}");
            assert!((1..=99).contains(&object["age"].as_u64().unwrap()), "{text}");
            let likes = object["likes"].as_array().unwrap();
            assert!((1..=3).contains(&likes.len()), "{text}");
            assert!(likes.iter().all(|l| l == "cats" || l == "dogs"), "{text}");
        }
    }
}

#[test]
fn answers_follow_a_grammar_of_llama_cpp_and_one_of_lark() {
    let gbnf = "root ::= item (\", \" item)+ \".\"\nitem ::= (\"red\" | \"blue\") \" \" [a-z]{3,6}";
    let lark = "start: item (\", \" item)+ \".\"\nitem: (\"red\" | \"blue\") \" \" /[a-z]{3,6}/";
    for grammar in [gbnf, lark] {
        for seed in ["1", "2", "3"] {
            let (text, finish) = answer(&["-s", seed, "--grammar", grammar]);
            assert_eq!(finish, "grammar", "{text}");
            let items: Vec<_> = text.strip_suffix('.').unwrap().split(", ").collect();
            assert!(items.len() >= 2, "{text}");
            for item in items {
                let (color, thing) = item.split_once(' ').unwrap();
                assert!(color == "red" || color == "blue", "{text}");
                assert!((3..=6).contains(&thing.len()) && thing.bytes().all(|b| b.is_ascii_lowercase()), "{text}");
            }
        }
    }
    // A rule that comes back to itself.
    let nested = "root ::= pair\npair ::= \"(\" pair? \")\"";
    let (text, _) = answer(&["-s", "4", "--grammar", nested]);
    let depth = text.matches('(').count();
    assert!(depth > 0 && (text == format!("{}{}", "(".repeat(depth), ")".repeat(depth)) || text.len() > 200), "{text}");
}

/// With drafts, greedily, without a grammar file's help: the text is the same, and the grammar is kept.
#[test]
fn drafts_keep_the_grammar() {
    let grammar = "root ::= (\"tick tock \"){12} \"boom\"";
    let with = answer(&["--temp", "0", "--grammar", grammar, "--draft-max", "7"]);
    assert_eq!(with, (format!("{}boom", "tick tock ".repeat(12)), "grammar".into()));
    assert_eq!(answer(&["--temp", "0", "--grammar", grammar, "--draft-max", "0"]), with);
}

#[test]
fn each_answer_of_a_chat_follows_the_grammar() {
    let args = ["chat", "--backend", "cpu", "-s", "1", "--grammar", "root ::= \"yes\" | \"no\""];
    let finished = run_with_input(&args, b"Is it?\nAre you sure?\n/bye\n");
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let answers: Vec<_> = finished.stdout.lines().collect();
    assert!(answers.len() == 2 && answers.iter().all(|a| ["yes", "no"].contains(a)), "{finished:?}");
}

#[test]
fn a_schema_of_too_many_optional_properties_is_refused_in_plain_words() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("schema.json");
    let properties: serde_json::Map<_, _> =
        (0..1000).map(|n| (format!("p{n}"), serde_json::json!({"type": "string"}))).collect();
    fs::write(&file, serde_json::json!({"type": "object", "properties": properties}).to_string()).unwrap();
    let refused = run(&["run", "-p", "Hi", "-n", "99", "--backend", "cpu", "-s", "1", "-jf", file.to_str().unwrap()]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("this JSON schema is not supported: it has too many ways to go on"), "{refused:?}");
    assert!(refused.stderr.contains("where 2000 are the most") && refused.stderr.contains("required"), "{refused:?}");
}

#[test]
fn a_bad_grammar_is_an_error_that_says_where() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bad.gbnf");
    fs::write(&file, "root ::= \"a\"\n  wrong").unwrap();
    for (flags, expected) in [
        (["--grammar", "root ::= x"], "grammar, line 1, column 10: expected the name of a rule, found x"),
        (["--grammar-file", file.to_str().unwrap()], "bad.gbnf: grammar, line 2, column 3:"),
        (["--grammar", "start: \"a\" nothing"], "nothing"),
        (["--grammar", ""], "this grammar is not supported"),
        (["-j", "{"], "this JSON schema is not supported: EOF"),
        (["-j", r#"{"type":"strong"}"#], "strong"),
        // Nothing is a string of at most 1 and at least 2 characters.
        (["-j", r#"{"type":"string","minLength":2,"maxLength":1}"#], "this JSON schema is not supported"),
        (["-jf", "/no/such/file"], "cannot read /no/such/file"),
        #[cfg(unix)]
        (["--grammar-file", "/dev/zero"], "/dev/zero: text: expected at most 4 MiB, found more"),
    ] {
        let finished = run(&["run", "-p", "Hi", "-n", "4", "--backend", "cpu", flags[0], flags[1]]);
        assert!(finished.one_line_error(1).contains(expected), "{finished:?}");
    }
    if cfg!(unix) {
        let endless = run(&["run", "-cnv", "-p", "Hi", "-n", "4", "--backend", "cpu", "--chat-template", "/dev/zero"]);
        assert!(endless.one_line_error(1).contains("/dev/zero: text: expected at most 4 MiB"), "{endless:?}");
    }
    let both = run(&["run", "--grammar", "root ::= \"a\"", "-j", "{}"]);
    assert!(both.code == Some(2) && both.stderr.contains("cannot be used with"), "{both:?}");
}

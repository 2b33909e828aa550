//! `perplexity` of the built-in model, as a process.

use serde_json::Value;

use crate::common::{cli::run, shared};

#[test]
fn the_story_model_predicts_as_well_as_transformers_says() {
    let Some(text) = shared("demo-model/valid.txt") else { return };
    let reference: Value = serde_json::from_str(include_str!("../../assets/reference.json")).unwrap();
    let expected = reference["perplexity"].as_f64().unwrap();

    // Stories end with a token.
    let args = ["perplexity", "-f", text.to_str().unwrap(), "-c", "256", "--backend", "cpu", "--json", "--special"];
    let done = run(&args);
    assert_eq!(done.code, Some(0), "{done:?}");
    let found: Value = serde_json::from_str(&done.stdout).unwrap();
    let perplexity = found["perplexity"].as_f64().unwrap();
    // The reference scores one token more of each chunk.
    assert!((perplexity / expected - 1.0).abs() < 0.005, "{perplexity} is not within 0.5 % of {expected}");
    assert!(found["standard_error"].as_f64().unwrap() < 0.02 * perplexity, "{found}");
}

#[test]
fn a_text_shorter_than_a_chunk_is_refused() {
    run(&["perplexity", "-p", "Too short.", "-c", "64"]).one_line_error(1);
}

//! The programs in `examples/`, on the model that is part of the repository.

#[allow(dead_code, reason = "tests call what main calls")]
#[path = "../../examples/chat.rs"]
mod chat;
#[allow(dead_code, reason = "as above")]
#[path = "../../examples/embed.rs"]
mod embed;
#[allow(dead_code, reason = "as above")]
#[path = "../../examples/generate.rs"]
mod generate;
#[allow(dead_code, reason = "as above")]
#[path = "../../examples/logits.rs"]
mod logits;
#[allow(dead_code, reason = "as above")]
#[path = "../../examples/side_by_side.rs"]
mod side_by_side;

use bitnet_gpu::chat::Role;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/llama-stories-ternary-4m.gguf");

#[test]
fn generate_continues_a_text_as_run_does() {
    let mut text = String::new();
    generate::run(MODEL, "Once upon a time", 20, |piece| text += piece).unwrap();
    let by_program =
        crate::common::cli::run(&["run", "-m", MODEL, "-p", "Once upon a time", "-n", "20", "-s", "1", "--json"]);
    assert_eq!(by_program.json()["text"], text.as_str());
    assert!(text.split_whitespace().count() > 8, "{text}");
}

#[test]
fn answers_side_by_side_are_those_of_each_alone() {
    let prompts = ["Once upon a time", "The cat", "One day"].map(String::from);
    let alone = |prompt: &String| side_by_side::run(MODEL, std::slice::from_ref(prompt), 20).unwrap().remove(0);
    let expected: Vec<String> = prompts.iter().map(alone).collect();
    assert!(expected.iter().all(|text| text.split_whitespace().count() > 4), "{expected:?}");
    assert_eq!(side_by_side::run(MODEL, &prompts, 20).unwrap(), expected);
}

#[test]
fn chat_answers_each_question_in_one_conversation() {
    let questions = ["Who is Lily?", "And then?"];
    let mut shown = String::new();
    let ran = chat::run(MODEL, questions.iter().map(|q| (*q).to_owned()), 8, |piece| shown += piece);
    let conversation = ran.unwrap();
    let answers = conversation.messages().iter().filter(|message| message.role == Role::Assistant);
    let answers: Vec<&str> = answers.map(|message| message.content.as_str()).collect();
    assert_eq!(answers.len(), questions.len());
    assert_eq!(shown, answers.iter().map(|answer| format!("{answer}\n")).collect::<String>());
}

#[test]
fn embed_finds_a_text_nearest_to_itself() {
    let same = embed::run(MODEL, ["a cat", "a cat"]).unwrap();
    let other = embed::run(MODEL, ["a cat", "Once upon a time there was a big house."]).unwrap();
    assert!((same - 1.0).abs() < 1e-5 && other < same - 1e-3, "{same} {other}");
}

#[test]
fn logits_are_ranked_and_those_of_the_program() {
    let ranked = logits::run(MODEL, "Once upon a", 3).unwrap();
    assert!(ranked[0].0.contains("time"), "{ranked:?}");
    assert!(ranked.windows(2).all(|pair| pair[0].1 >= pair[1].1), "{ranked:?}");
}

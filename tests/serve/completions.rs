//! `/v1/completions`.

use serde_json::{Value, json};

use super::client::Server;

const COMPLETIONS: &str = "/v1/completions";

fn request(prompt: Value, more: Value) -> Value {
    let mut body = json!({ "prompt": prompt, "temperature": 0, "max_tokens": 8 });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[test]
fn prompts_are_text_tokens_or_lists_of_either() {
    let server = Server::start(&[]);
    let texts = |prompt: Value| -> Vec<String> {
        let answer = server.post(COMPLETIONS, &request(prompt, json!({}))).json();
        assert_eq!(answer["object"], "text_completion");
        let choices = answer["choices"].as_array().unwrap().iter().enumerate();
        choices
            .map(|(at, choice)| {
                assert_eq!(choice["index"], at);
                choice["text"].as_str().unwrap().to_owned()
            })
            .collect()
    };
    let ids = |text: &str| {
        server.post("/tokenize", &json!({ "content": text, "add_special": true })).json()["tokens"].clone()
    };
    let (one, two) = ("Once upon a time", "The dog and the cat went to the big park");
    let (first, second) = (texts(json!(one)), texts(json!(two)));
    assert_eq!(first.len(), 1);
    assert_eq!(texts(json!([one, two])), [first[0].clone(), second[0].clone()]);
    assert_eq!(texts(ids(one)), first);
    assert_eq!(texts(json!([ids(one), ids(two)])), [first[0].clone(), second[0].clone()]);
    for bad in [json!([]), json!(5), json!({ "a": 1 }), json!([99_999_999]), json!([-1]), json!(null)] {
        server.post(COMPLETIONS, &request(bad, json!({}))).error(400);
    }
}

#[test]
fn several_prompts_with_several_answers_each_are_numbered() {
    let server = Server::start(&[]);
    let more = json!({ "n": 2, "temperature": 1.0, "seed": 5, "echo": true });
    let answer = server.post(COMPLETIONS, &request(json!(["Lily saw", "Tom saw"]), more.clone())).json();
    let choices = answer["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 4);
    for (at, choice) in choices.iter().enumerate() {
        let echoed = if at < 2 { "Lily saw" } else { "Tom saw" };
        assert!(choice["text"].as_str().unwrap().starts_with(echoed), "{choice}");
    }
    assert_eq!(answer["usage"]["completion_tokens"], 32);
    let mut streamed = request(json!(["Lily saw", "Tom saw"]), more);
    streamed["stream"] = json!(true);
    let mut texts = vec![String::new(); 4];
    for event in server.post(COMPLETIONS, &streamed).events() {
        let choice = &event["choices"][0];
        texts[choice["index"].as_u64().unwrap() as usize] += choice["text"].as_str().unwrap();
    }
    let whole: Vec<&str> = choices.iter().map(|choice| choice["text"].as_str().unwrap()).collect();
    assert_eq!(texts, whole);
}

#[test]
fn probabilities_have_the_old_form() {
    let server = Server::start(&[]);
    let answer = server.post(COMPLETIONS, &request(json!("Once upon a time"), json!({ "logprobs": 2 }))).json();
    let choice = &answer["choices"][0];
    let found = &choice["logprobs"];
    let tokens: Vec<&str> = found["tokens"].as_array().unwrap().iter().map(|token| token.as_str().unwrap()).collect();
    assert_eq!((tokens.len(), tokens.concat()), (8, choice["text"].as_str().unwrap().to_owned()));
    let mut offset = 0;
    for (at, token) in tokens.iter().enumerate() {
        assert_eq!(found["text_offset"][at], offset);
        assert_eq!(found["top_logprobs"][at][token], found["token_logprobs"][at], "greedy");
        assert_eq!(found["top_logprobs"][at].as_object().unwrap().len(), 2);
        offset += token.len();
    }
}

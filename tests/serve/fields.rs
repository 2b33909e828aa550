//! Fields of llama.cpp's requests: done, or refused by their names.

use serde_json::{Value, json};

use super::client::{Server, chat, streamed};

const CHAT: &str = "/v1/chat/completions";
const COMPLETION: &str = "/completion";

fn prompt(more: Value) -> Value {
    let mut body = json!({ "prompt": "Once upon a time", "n_predict": 8, "temperature": 0 });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// Objects of a stream of llama.cpp, which has no word at its end.
fn pieces(body: &str) -> Vec<Value> {
    let event = |event: &str| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap();
    body.split_terminator("\n\n").map(event).collect()
}

#[test]
fn what_cannot_be_done_is_refused_by_its_name() {
    let server = Server::start(&[]);
    for (path, field, value) in [
        (CHAT, "dry_sequence_breakers", json!([5])),
        (CHAT, "dynatemp_range", json!(0.5)),
        (COMPLETION, "t_max_predict_ms", json!(100)),
        (CHAT, "post_sampling_probs", json!(true)),
        (COMPLETION, "id_slot", json!(4)),
        (COMPLETION, "samplers", json!(["temperature", "top_k"])),
        ("/v1/completions", "suffix", json!("the end")),
    ] {
        let mut body = if path == CHAT { chat("Hi", json!({})) } else { prompt(json!({})) };
        body[field] = value;
        let refused = server.post(path, &body);
        assert!(refused.error(400).contains(&format!("'{field}'")), "{refused:?}");
        assert_eq!(refused.json()["error"]["param"], field);
    }
    let echoed = prompt(json!({ "echo": true, "logprobs": 1 }));
    assert!(server.post("/v1/completions", &echoed).error(400).contains("'echo'"));
    // Values that ask for nothing are as absent.
    let idle = json!({ "dry_multiplier": 0, "dynatemp_range": 0.0, "t_max_predict_ms": -1, "id_slot": -1, "suffix": "",
        "post_sampling_probs": false });
    assert_eq!(server.post(COMPLETION, &prompt(idle)).status, 200);
}

/// Those of the draw sum to one over what the cuts left; those of the model are as without sampling.
#[test]
fn probabilities_are_those_of_the_model_or_of_the_draw() {
    let server = Server::start(&[]);
    let first = |more: Value| {
        let answer = server.post(COMPLETION, &prompt(more)).json();
        let entries = answer["completion_probabilities"].as_array().unwrap().clone();
        assert_eq!(entries.len() as u64, answer["tokens_predicted"].as_u64().unwrap());
        entries[0].clone()
    };
    let options = json!({ "n_probs": 10, "temperature": 2.0, "top_k": 4, "top_p": 1, "min_p": 0, "seed": 5, "post_sampling_probs": true });
    let drawn = first(options.clone());
    let top: Vec<f64> =
        drawn["top_probs"].as_array().unwrap().iter().map(|entry| entry["prob"].as_f64().unwrap()).collect();
    assert!(top.len() == 4 && top.is_sorted_by(|a, b| a >= b), "{drawn}");
    assert!((top.iter().sum::<f64>() - 1.0).abs() < 1e-5, "{drawn}");
    assert!(top.contains(&drawn["prob"].as_f64().unwrap()) && drawn.get("logprob").is_none(), "{drawn}");
    let mut raw = options;
    raw["post_sampling_probs"] = json!(false);
    let raw = first(raw);
    assert_eq!((&raw["id"], raw["top_logprobs"].as_array().unwrap().len()), (&drawn["id"], 10));
    // Twice the temperature halves what two logarithms differ by.
    let of_model = |at: usize| raw["top_logprobs"][at]["logprob"].as_f64().unwrap();
    let expected = (of_model(0) - of_model(1)) / 2.0;
    assert!(((top[0] / top[1]).ln() - expected).abs() < 1e-3, "{drawn} {raw}");
    let greedy = first(json!({ "n_probs": 3, "temperature": 0, "post_sampling_probs": true }));
    assert_eq!((&greedy["prob"], greedy["top_probs"].as_array().unwrap().len()), (&json!(1.0), 1));
}

#[test]
fn samplers_change_the_text_as_their_options_say() {
    let server = Server::start(&[]);
    let text = |more: Value| {
        let mut body = prompt(json!({ "temperature": 1.5, "seed": 3, "top_k": 0, "top_p": 1, "min_p": 0 }));
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        server.post(COMPLETION, &body).json()["content"].as_str().unwrap().to_owned()
    };
    let greedy = text(json!({ "temperature": 0 }));
    assert_ne!(text(json!({})), greedy);
    // So near to the highest logit there is nothing else.
    assert_eq!(text(json!({ "top_n_sigma": 0.001 })), greedy);
    assert_eq!(text(json!({ "top_k": 1, "samplers": ["top_k"] })), greedy);
    // Without top-k in the chain, its option does nothing.
    assert_eq!(text(json!({ "top_k": 1, "samplers": "t" })), text(json!({})));
    let settings = server.post(COMPLETION, &prompt(json!({ "xtc_probability": 0.5, "xtc_threshold": 0.2 }))).json();
    assert_eq!(settings["generation_settings"]["xtc_probability"], 0.5);
    // The most probable id of two or more never comes first.
    let excluded = json!({ "xtc_probability": 1, "xtc_threshold": 0.0, "top_k": 2, "n_predict": 1 });
    assert_ne!(text(excluded), text(json!({ "temperature": 0, "n_predict": 1 })));
}

#[test]
fn a_request_chooses_its_slot() {
    let server = Server::start(&["-np", "3"]);
    for slot in [2, 0, 2, 1] {
        let answer = server.post(COMPLETION, &prompt(json!({ "id_slot": slot }))).json();
        assert_eq!(answer["id_slot"], slot);
    }
    // Further choices take any other.
    let choices = server.post(CHAT, &chat("The dog", json!({ "id_slot": 1, "n": 3, "max_tokens": 2 }))).json();
    assert_eq!(choices["choices"].as_array().map(Vec::len), Some(3), "{choices}");
    // What the slot has of the prompt is used again; the text is that of any slot.
    let again = server.post(COMPLETION, &prompt(json!({ "id_slot": 2 }))).json();
    let anywhere = server.post(COMPLETION, &prompt(json!({ "cache_prompt": false }))).json();
    assert_eq!(again["content"], anywhere["content"]);
}

#[test]
fn progress_and_times_come_with_a_stream() {
    let server = Server::start(&["-b", "32"]);
    let long = "The dog and the cat went to the park. ".repeat(20);
    let ask = |more: Value| server.post(CHAT, &chat(&long, more));
    let plain = streamed(&ask(json!({ "stream": true, "cache_prompt": false })).events());
    let told = json!({ "stream": true, "cache_prompt": false, "return_progress": true, "timings_per_token": true });
    let events = ask(told).events();
    assert_eq!(streamed(&events), plain);
    let progress: Vec<&Value> = events.iter().filter_map(|event| event.get("prompt_progress")).collect();
    // The first one is told before anything is computed.
    assert_eq!(progress[0]["processed"], progress[0]["cache"]);
    let first = events.iter().find(|event| event.get("prompt_progress").is_some()).unwrap();
    assert_eq!((&first["timings"]["prompt_n"], &first["timings"]["prompt_ms"]), (&json!(0), &json!(0.0)));
    let read: Vec<u64> = progress.iter().map(|one| one["processed"].as_u64().unwrap()).collect();
    let total = progress[0]["total"].as_u64().unwrap();
    assert!(read.len() > 2 && read.is_sorted() && read.last() == Some(&total), "{progress:?}");
    let times: Vec<&Value> = events
        .iter()
        .filter(|event| !event["choices"][0]["delta"]["content"].is_null())
        .map(|event| &event["timings"])
        .collect();
    assert!(times.iter().all(|times| times["prompt_n"] == total), "{times:?}");
    assert!(times.is_sorted_by_key(|times| times["predicted_n"].as_u64().unwrap()));

    let body = prompt(json!({ "stream": true, "return_progress": true, "timings_per_token": true }));
    let pieces = pieces(&server.post(COMPLETION, &body).body);
    assert!(pieces.iter().any(|piece| piece["prompt_progress"]["total"].is_u64()));
    assert!(pieces.iter().any(|piece| piece["content"] != "" && piece["timings"]["predicted_n"].is_u64()));
}

#[test]
fn fields_of_a_completion_are_those_asked_for() {
    let server = Server::start(&[]);
    let text = |more: Value| server.post(COMPLETION, &prompt(more)).json();
    let whole = text(json!({ "n_predict": 1, "ignore_eos": true, "stop": ["END"], "seed": 5 }));
    assert_eq!(whole["tokens"], json!([]));
    assert_eq!(whole["timings"]["predicted_per_second"], 0.0, "no step, no speed: {whole}");
    let settings = &whole["generation_settings"];
    assert_eq!((&settings["n_predict"], &settings["stop"], &settings["seed"]), (&json!(1), &json!(["END"]), &json!(5)));
    assert!(settings["logit_bias"][0]["token"].is_u64() && settings["logit_bias"][0]["bias"].is_null(), "{settings}");
    assert_eq!(text(json!({ "n_predict": 1 }))["generation_settings"]["logit_bias"], json!([]));
    let ids = text(json!({ "n_predict": 3, "ignore_eos": true, "return_tokens": true }));
    assert_eq!(ids["tokens"].as_array().map(Vec::len), Some(3));
    let few = json!({ "n_predict": 2, "response_fields": ["content", "generation_settings/n_predict", "nothing"] });
    let few = text(few);
    assert_eq!(few.as_object().map(serde_json::Map::len), Some(2), "{few}");
    assert!(few["content"].is_string() && few["generation_settings/n_predict"] == 2, "{few}");
    assert_eq!(server.post(COMPLETION, &prompt(json!({ "response_fields": [1] }))).status, 400);
    // A chat shows what became of it.
    let told = server.post(CHAT, &chat("The dog", json!({ "verbose": true, "max_tokens": 1 }))).json();
    let rendered = server.post("/apply-template", &chat("The dog", json!({}))).json();
    assert_eq!(told["__verbose"]["prompt"], rendered["prompt"]);
    assert_eq!(told["__verbose"]["generation_settings"]["n_predict"], 1);
}

#[test]
fn prompts_come_as_texts_ids_objects_and_lists_of_them() {
    let server = Server::start(&[]);
    let answer = |prompt: Value| {
        let body = json!({ "prompt": prompt, "n_predict": 4, "temperature": 0 });
        server.post(COMPLETION, &body)
    };
    let ids = server.post("/tokenize", &json!({ "content": "The dog", "add_special": true })).json()["tokens"].clone();
    let object = json!({ "prompt_string": "The dog" });
    let all = answer(json!([ids, "The dog", object])).json();
    let expected = answer(json!("The dog")).json()["content"].clone();
    let contents: Vec<&Value> = all.as_array().unwrap().iter().map(|one| &one["content"]).collect();
    assert_eq!(contents, [&expected; 3]);
    for bad in [json!({}), json!({ "prompt_string": 5 }), json!({ "prompt_string": "x", "multimodal_data": ["AA=="] })]
    {
        assert_eq!(answer(bad.clone()).status, 400, "{bad}");
    }
}

/// The first word of a repetition is the same, and what follows is not.
#[test]
fn dry_ends_repetitions() {
    let server = Server::start(&[]);
    let line = "The red fox saw the blue bird. ";
    let ask = |more: Value| {
        let mut body = json!({ "prompt": line.repeat(4), "n_predict": 40, "temperature": 0 });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        server.post(COMPLETION, &body).json()
    };
    let text = |answer: &Value| answer["content"].as_str().unwrap().to_owned();
    let plain = text(&ask(json!({})));
    let dry = ask(json!({ "dry_multiplier": 5, "dry_penalty_last_n": -1 }));
    assert_ne!(text(&dry), plain);
    assert_eq!(dry["generation_settings"]["dry_penalty_last_n"], -1);
    // What every repetition begins with breaks it.
    let broken = json!({ "dry_multiplier": 5, "dry_penalty_last_n": -1, "dry_sequence_breakers": ["e", "o", "i", "a", "u", " ", "."] });
    assert_eq!(text(&ask(broken)), plain);
    assert_eq!(text(&ask(json!({ "dry_multiplier": 5, "dry_allowed_length": 500 }))), plain);
    assert_eq!(text(&ask(json!({ "dry_multiplier": 5, "samplers": ["top_k", "temperature"] }))), plain);
}

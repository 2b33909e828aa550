//! Chats: whole and streamed, their fields, and what a client may rely on.

use serde_json::{Value, json};

use super::client::{Server, chat, content, streamed};

const CHAT: &str = "/v1/chat/completions";

#[test]
fn a_stream_says_in_order_what_a_whole_answer_says() {
    let server = Server::start(&[]);
    let whole = server.post(CHAT, &chat("Tell me a story", json!({ "max_tokens": 30 })));
    let body = whole.json();
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(body["choices"][0]["finish_reason"], "length");
    assert_eq!(body["usage"]["completion_tokens"], 30);
    let total = body["usage"]["prompt_tokens"].as_u64().unwrap() + 30;
    assert_eq!(body["usage"]["total_tokens"], total);
    assert_eq!(body["timings"]["predicted_n"], 30);

    let mut connection = server.connect();
    for usage in [false, true] {
        let more = json!({ "max_tokens": 30, "stream": true, "stream_options": { "include_usage": usage } });
        let request = chat("Tell me a story", more).to_string();
        let response = connection.request("POST", CHAT, &[], request.as_bytes());
        assert_eq!(response.header("x-accel-buffering"), Some("no"));
        let events = response.events();
        assert_eq!(events[0]["choices"][0]["delta"], json!({ "role": "assistant", "content": null }));
        assert_eq!(streamed(&events), content(&whole));
        let ends: Vec<usize> =
            (0..events.len()).filter(|&at| !events[at]["choices"][0]["finish_reason"].is_null()).collect();
        assert_eq!(ends, [events.len() - 1 - usize::from(usage)]);
        assert_eq!(events[ends[0]]["choices"][0]["finish_reason"], "length");
        assert_eq!(events[ends[0]]["choices"][0]["delta"], json!({}));
        let last = events.last().unwrap();
        if usage {
            assert_eq!((&last["choices"], &last["usage"]["completion_tokens"]), (&json!([]), &json!(30)));
        } else {
            assert!(last.get("usage").is_none() && last["timings"]["predicted_n"] == 30);
        }
        let text = |event: &Value| event["choices"][0]["delta"]["content"].as_str() == Some("");
        assert!(!events.iter().any(text), "no empty pieces");
        assert!(events.iter().all(|event| event["id"] == events[0]["id"]), "one id");
    }
}

/// A model that finds no end leaves room for the next turn.
#[test]
fn an_answer_without_a_limit_ends_after_half_of_the_context() {
    let server = Server::start(&["-c", "256"]);
    let body = json!({ "messages": [{ "role": "user", "content": "Hi" }], "ignore_eos": true });
    let answer = server.post(CHAT, &body).json();
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert_eq!(answer["usage"]["completion_tokens"], 128);
}

#[test]
fn fields_without_meaning_and_null_are_accepted() {
    let server = Server::start(&[]);
    let odd = json!({
        "store": true, "metadata": { "a": 1 }, "user": "me", "service_tier": "auto", "parallel_tool_calls": false,
        "reasoning_effort": "low", "prompt_cache_key": "x", "unheard_of": [1, { "b": null }],
        "top_p": null, "stop": null, "seed": null, "logit_bias": null, "response_format": null, "tools": null,
        "tool_choice": null, "stream": null, "stream_options": null, "n": null, "logprobs": null, "grammar": null,
    });
    let plain = content(&server.post(CHAT, &chat("Hi", json!({}))));
    assert_eq!(content(&server.post(CHAT, &chat("Hi", odd))), plain);
}

#[test]
fn what_makes_no_sense_is_named_with_status_400() {
    let server = Server::start(&["-np", "2"]);
    for (more, field) in [
        (json!({ "temperature": "hot" }), "temperature"),
        (json!({ "stream": 1 }), "stream"),
        (json!({ "max_tokens": -2 }), "max_tokens"),
        (json!({ "n": 3 }), "n"),
        (json!({ "n": 0 }), "n"),
        (json!({ "stop": 5 }), "stop"),
        (json!({ "stop": vec!["x"; 100] }), "stop"),
        (json!({ "logit_bias": [[1]] }), "logit_bias"),
        (json!({ "top_logprobs": 2 }), "top_logprobs"),
        (json!({ "logprobs": true, "top_logprobs": 21 }), "top_logprobs"),
        (json!({ "response_format": { "type": "xml" } }), "response_format"),
        (json!({ "grammar": "root ::= \"a\"", "json_schema": {} }), "grammar"),
        (json!({ "messages": [] }), "messages"),
        (json!({ "messages": null }), "messages"),
        (json!({ "messages": [{ "role": 5, "content": "" }] }), "messages"),
        (json!({ "continue_final_message": true }), "continue_final_message"),
        (json!({ "continue_final_message": true, "add_generation_prompt": true }), "continue_final_message"),
        (json!({ "repeat_penalty": 0 }), "repeat_penalty"),
    ] {
        let response = server.post(CHAT, &chat("Hi", more.clone()));
        response.error(400);
        assert_eq!(response.json()["error"]["param"], field, "{more}: {response:?}");
        // As a stream, too: before the first token it is an error with a status.
        let mut request = chat("Hi", more);
        if request["stream"] != 1 {
            request["stream"] = json!(true);
        }
        server.post(CHAT, &request).error(400);
    }
    let wrong = server.post(CHAT, &chat("Hi", json!({ "grammar": "root ::= (" })));
    assert!(wrong.error(400).contains("grammar"));
    let unkept = json!({ "type": "json_schema", "json_schema": { "schema": { "not": {} } } });
    for (field, value) in [("grammar", json!("root ::= (")), ("json_schema", json!(5)), ("response_format", unkept)] {
        let refused = server.post(CHAT, &chat("Hi", json!({ field: value })));
        assert_eq!(refused.json()["error"]["param"], field, "{refused:?}");
    }
}

#[test]
fn a_prompt_beyond_the_context_is_refused_in_the_words_that_clients_know() {
    let server = Server::start(&["-c", "128"]);
    let long = "A cat sat on a mat. ".repeat(60);
    let refused = server.post(CHAT, &chat(&long, json!({ "stream": true })));
    assert!(refused.error(400).contains("exceeds the available context size (128 tokens)"));
    let error = &refused.json()["error"];
    assert_eq!((&error["code"], &error["param"]), (&json!("context_length_exceeded"), &json!("messages")));
    assert!(error["n_prompt_tokens"].as_u64().unwrap() > 128 && error["n_ctx"] == 128);
    // An answer that fills the context ends there.
    let full = server.post(CHAT, &chat("Hi", json!({ "max_tokens": -1, "ignore_eos": true }))).json();
    assert_eq!(full["choices"][0]["finish_reason"], "length");
    assert_eq!(full["usage"]["total_tokens"], 129, "the last token needs no place");
}

#[test]
fn stops_end_the_text_before_them_across_tokens() {
    let server = Server::start(&[]);
    let ask = |more: Value| {
        server.post("/v1/completions", &{
            let mut body = json!({ "prompt": "Once upon a time", "temperature": 0, "max_tokens": 40 });
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            body
        })
    };
    let text = |more: Value| ask(more).json()["choices"][0]["text"].as_str().unwrap().to_owned();
    let plain = text(json!({}));
    // In the middle of a word, so it is spread over tokens or cuts one.
    let at = plain.char_indices().nth(plain.chars().count() / 2).unwrap().0;
    let stop: String = plain[at..].chars().take(9).collect();
    let before = plain.split(&stop).next().unwrap();
    for stops in [json!(stop), json!(["never there", stop])] {
        let answer = ask(json!({ "stop": stops })).json();
        assert_eq!(answer["choices"][0]["text"], before);
        assert_eq!(answer["choices"][0]["finish_reason"], "stop");
        let events = ask(json!({ "stop": stops, "stream": true })).events();
        let joined: String = events.iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect();
        assert_eq!(joined, before);
    }
    for none in [json!(""), json!([]), json!(null)] {
        assert_eq!(text(json!({ "stop": none })), plain);
    }
}

#[test]
fn seeds_repeat_and_choices_differ() {
    let server = Server::start(&[]);
    let drawn = |more: Value| {
        let more_of_all = json!({ "temperature": 1.0, "max_tokens": 25, "seed": 7, "ignore_eos": true });
        let mut body = chat("Tell me a story", more_of_all);
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        server.post(CHAT, &body).json()
    };
    let texts = |answer: &Value| -> Vec<String> {
        let choices = answer["choices"].as_array().unwrap().iter();
        choices.map(|choice| choice["message"]["content"].as_str().unwrap().to_owned()).collect()
    };
    let one = texts(&drawn(json!({})));
    assert_eq!(texts(&drawn(json!({}))), one);
    let three = drawn(json!({ "n": 3 }));
    let choices = texts(&three);
    assert_eq!(choices[0], one[0], "the first choice is what it is alone");
    assert!(choices[0] != choices[1] && choices[1] != choices[2]);
    assert_eq!(choices[1], texts(&drawn(json!({ "seed": 8 })))[0]);
    assert_eq!(three["usage"]["completion_tokens"], 75);
    assert_ne!(texts(&drawn(json!({ "seed": -1 }))), texts(&drawn(json!({ "seed": -1 }))));
}

#[test]
fn probabilities_come_with_their_tokens() {
    let server = Server::start(&[]);
    let more = json!({ "logprobs": true, "top_logprobs": 3, "max_tokens": 10 });
    let whole = server.post(CHAT, &chat("Hello", more.clone()));
    let check = |entries: &[Value], text: &str| {
        let bytes: Vec<u8> = entries
            .iter()
            .flat_map(|entry| entry["bytes"].as_array().unwrap().iter().map(|byte| byte.as_u64().unwrap() as u8))
            .collect();
        assert_eq!(String::from_utf8(bytes).unwrap().trim_start(), text.trim_start());
        for entry in entries {
            let top = entry["top_logprobs"].as_array().unwrap();
            assert_eq!(top.len(), 3);
            // Greedy: the token is the most probable one.
            assert_eq!(entry["logprob"], top[0]["logprob"]);
            let sum: f64 = top.iter().map(|one| one["logprob"].as_f64().unwrap().exp()).sum();
            assert!((0.0..=1.0001).contains(&sum) && entry["logprob"].as_f64().unwrap() <= 0.0);
        }
    };
    let entries = whole.json()["choices"][0]["logprobs"]["content"].as_array().unwrap().clone();
    assert_eq!(entries.len(), 10);
    check(&entries, &content(&whole));
    let mut request = chat("Hello", more);
    request["stream"] = json!(true);
    let events = server.post(CHAT, &request).events();
    let of_events: Vec<Value> = events
        .iter()
        .filter_map(|event| event["choices"][0]["logprobs"]["content"].as_array().cloned())
        .flatten()
        .collect();
    assert_eq!(of_events, entries);
}

#[test]
fn answers_keep_to_schemas_and_grammars() {
    let server = Server::start(&[]);
    let schema = json!({
        "type": "object",
        "properties": { "name": { "type": "string", "maxLength": 8 }, "age": { "type": "integer", "maximum": 99, "minimum": 1 } },
        "required": ["name", "age"], "additionalProperties": false,
    });
    let format =
        json!({ "type": "json_schema", "json_schema": { "name": "person", "strict": true, "schema": schema } });
    let more = json!({ "response_format": format, "max_tokens": 200, "temperature": 1.0, "seed": 3 });
    let person: Value = serde_json::from_str(&content(&server.post(CHAT, &chat("Who?", more)))).unwrap();
    assert!(person["name"].is_string() && (1..=99).contains(&person["age"].as_i64().unwrap()), "{person}");
    let grammar = json!({ "grammar": "root ::= (\"yes\" | \"no\") \"!\"" });
    let answer = server.post(CHAT, &chat("Is it?", grammar));
    assert!(["yes!", "no!"].contains(&content(&answer).as_str()));
    assert_eq!(answer.json()["choices"][0]["finish_reason"], "stop");
    let object = json!({ "response_format": { "type": "json_object" }, "max_tokens": 5 });
    let cut = server.post(CHAT, &chat("JSON?", object)).json();
    assert!(cut["choices"][0]["message"]["content"].as_str().unwrap().starts_with('{'));
    assert_eq!(cut["choices"][0]["finish_reason"], "length", "cut JSON is no error");
}

#[test]
fn a_biased_token_is_chosen_and_a_banned_one_is_not() {
    let server = Server::start(&[]);
    let first = |more: Value| {
        let mut request = chat("Hello", json!({ "max_tokens": 1, "logprobs": true }));
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        server.post(CHAT, &request).json()["choices"][0]["logprobs"]["content"][0]["id"].as_u64().unwrap()
    };
    let usual = first(json!({}));
    assert_ne!(first(json!({ "logit_bias": [[usual, false]] })), usual);
    assert_eq!(first(json!({ "logit_bias": { "300": 100 } })), 300);
    assert_eq!(first(json!({ "logit_bias": { "99999999": 100 } })), usual, "no such token");
}

#[test]
fn an_answer_is_continued_and_never_repeated() {
    let server = Server::start(&[]);
    let text = content(&server.post(CHAT, &chat("Tell me a story", json!({ "max_tokens": 24 }))));
    let begun: String = text.chars().take(text.chars().count() / 2).collect();
    for more in [json!({}), json!({ "add_generation_prompt": false, "continue_final_message": true })] {
        let mut request = chat("Tell me a story", json!({ "max_tokens": 5 }));
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        request["messages"].as_array_mut().unwrap().push(json!({ "role": "assistant", "content": begun }));
        let prompt = server.post("/apply-template", &request).json()["prompt"].as_str().unwrap().to_owned();
        assert!(prompt.ends_with(&format!("<|im_start|>assistant\n{begun}")), "{prompt}");
        assert!(!content(&server.post(CHAT, &request)).starts_with(&begun));
    }
}

/// The next turn goes on from what the slot holds, also with another request between them.
#[test]
fn a_second_turn_computes_the_new_turn_alone() {
    let server = Server::start(&[]);
    let system = json!({ "role": "system", "content": "You tell stories to children. ".repeat(20) });
    let question = json!({ "role": "user", "content": "Tell me about a cat" });
    let ask = |messages: Value| {
        server
            .post(CHAT, &json!({ "messages": messages, "temperature": 0, "max_tokens": 40, "ignore_eos": true }))
            .json()
    };
    let first = ask(json!([system, question]));
    let text = first["choices"][0]["message"]["content"].clone();
    assert_eq!(first["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    // The title request, and another conversation with the same instructions.
    ask(json!([{ "role": "user", "content": "Write a title for this. ".repeat(20) }]));
    let other = ask(json!([system, { "role": "user", "content": "What is the sun?" }]));
    let shared = other["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    let read = first["usage"]["prompt_tokens"].as_u64().unwrap();
    assert!(shared > read * 3 / 4, "{shared} of {read}");
    let second = ask(
        json!([system, question, { "role": "assistant", "content": text }, { "role": "user", "content": "And then?" }]),
    );
    let cached = second["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert!(cached >= read, "{cached} of {read}, and the answer");
    // Without the cache the text is the same, and nothing is reused.
    let mut fresh = json!({ "messages": [system, question], "temperature": 0, "max_tokens": 40, "ignore_eos": true });
    fresh["cache_prompt"] = json!(false);
    let fresh = server.post(CHAT, &fresh).json();
    assert_eq!(fresh["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    assert_eq!(fresh["choices"][0]["message"]["content"], text);
}

/// With a single slot, conversations in turn: each is brought back from main memory.
#[test]
fn conversations_that_gave_way_come_back() {
    let server = Server::start(&["-np", "1"]);
    let question = |word: &str| format!("Tell me about {word}. ").repeat(30);
    let ask = |word: &str| server.post(CHAT, &chat(&question(word), json!({})));
    let first = ask("cats");
    ask("dogs");
    let again = ask("cats");
    assert_eq!(content(&again), content(&first));
    let usage = &again.json()["usage"];
    let (cached, all) = (usage["prompt_tokens_details"]["cached_tokens"].as_u64(), usage["prompt_tokens"].as_u64());
    assert!(cached.unwrap() + 10 > all.unwrap(), "{usage}");
    let none = Server::start(&["-np", "1", "--cache-ram", "0"]);
    none.post(CHAT, &chat(&question("cats"), json!({})));
    none.post(CHAT, &chat(&question("dogs"), json!({})));
    let again = none.post(CHAT, &chat(&question("cats"), json!({}))).json();
    let cached = again["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert!(cached < 60, "only what all questions begin with: {cached}");
}

/// A client that names its slot finds as much again as one that names none.
#[test]
fn an_asked_slot_takes_what_others_hold_and_what_gave_way() {
    let server = Server::start(&["-np", "2"]);
    let question = |word: &str| format!("Tell me about {word}. ").repeat(30);
    let ask = |word: &str, slot: usize| {
        let answer = server.post(CHAT, &chat(&question(word), json!({ "id_slot": slot })));
        let usage = answer.json()["usage"].clone();
        let all = usage["prompt_tokens"].as_u64().unwrap();
        (content(&answer), all - usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap())
    };
    let (text, _) = ask("cats", 0);
    // From the other slot, then from main memory.
    let (forked, computed) = ask("cats", 1);
    assert!(forked == text && computed < 20, "{computed}");
    ask("dogs", 0);
    ask("birds", 1);
    let (restored, computed) = ask("cats", 0);
    assert!(restored == text && computed < 20, "{computed}");
    // And what the slot held in between gave way in turn.
    let (_, computed) = ask("dogs", 1);
    assert!(computed < 20, "{computed}");
}

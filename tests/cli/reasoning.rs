//! Reasoning before an answer, in `run` and `chat`. The built-in model tells stories and never thinks, so prompts
//! begin the reasoning for it, and a budget ends it.

use std::fs;

use serde_json::Value as Json;

use crate::common::cli::{Finished, run, run_with_input};

const PROMPT: &str = "Once upon a time\n<think>\n";
const END: &str = "\n</think>\n\n";
/// Begins the reasoning, and ends it at once on request.
const TEMPLATE: &str = "{% for m in messages %}{{ m.content }}\n\
    {% if m.reasoning_content %}({{ m.reasoning_content }}){% endif %}{% endfor %}<think>\n\
    {{ '\n</think>\n\n' if enable_thinking is defined and not enable_thinking }}";

fn continued(more: &[&str]) -> Finished {
    let finished = run(&[&["run", "--backend", "cpu", "--temp", "0", "-p", PROMPT, "--no-escape"], more].concat());
    assert_eq!(finished.code, Some(0), "{finished:?}");
    finished
}

fn continued_json(more: &[&str]) -> Json {
    serde_json::from_str(&continued(&[more, &["--json"]].concat()).stdout).unwrap()
}

fn text<'j>(json: &'j Json, key: &str) -> &'j str {
    json[key].as_str().unwrap()
}

fn ids(json: &Json, key: &str) -> Vec<u64> {
    json[key].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
}

#[test]
fn a_budget_ends_the_reasoning_and_nothing_else_changes() {
    let free = continued_json(&["-n", "6", "--show-thinking"]);
    let limited = continued_json(&["-n", "30", "--reasoning-budget", "6", "--show-thinking"]);
    let (thought, all) = (text(&free, "text"), text(&limited, "text"));
    let answer = all.strip_prefix(&format!("{thought}{END}")).expect("reasoning as without a budget, and its end");
    assert!(answer.len() > 10 && ids(&limited, "tokens").len() == 30, "{all:?}");
    assert_eq!(text(&limited, "reasoning"), thought.trim());
    // The answer is what the model says to all that.
    let whole = format!("{PROMPT}{thought}{END}");
    let again = run(&["run", "--backend", "cpu", "--temp", "0", "--no-escape", "-n", "10", "--json", "-p", &whole]);
    let again: Json = serde_json::from_str(&again.stdout).unwrap();
    let prompt_ids = ids(&again, "prompt_ids");
    let ended = prompt_ids.len() - ids(&limited, "prompt_ids").len();
    assert_eq!(prompt_ids, [ids(&limited, "prompt_ids"), ids(&limited, "tokens")[..ended].to_vec()].concat());
    assert_eq!(ids(&again, "tokens"), ids(&limited, "tokens")[ended..ended + 10]);

    // None at all.
    for off in [&["--reasoning-budget", "0"][..], &["--reasoning", "off"], &["-rea", "off", "--reasoning-budget", "9"]]
    {
        let json = continued_json(&[off, &["-n", "9", "--show-thinking"]].concat());
        assert!(text(&json, "text").starts_with(END) && json["reasoning"].is_null(), "{json}");
    }
}

/// Reasoning is not bound by it.
#[test]
fn a_grammar_holds_for_the_answer() {
    let grammar = ["--grammar", r#"root ::= "yes" | "no""#, "-n", "40", "--show-thinking", "--reasoning-budget", "5"];
    let json = continued_json(&grammar);
    let (thought, answer) = text(&json, "text").split_once(END).unwrap();
    assert!(!thought.is_empty() && ["yes", "no"].contains(&answer), "{json}");
    assert_eq!(json["finish"], "grammar");
}

#[test]
fn run_prints_the_answer_without_the_reasoning() {
    let budget = ["-n", "30", "--reasoning-budget", "6"];
    let json = continued_json(&budget);
    let finished = continued(&[&budget[..], &["--stats"]].concat());
    assert_eq!(finished.stdout, format!("{PROMPT}{}\n", text(&json, "text")));
    assert!(!text(&json, "text").contains("think") && !text(&json, "text").starts_with('\n'), "{json}");
    // The six, and five of the end before its tag is complete.
    assert!(finished.stderr.contains("thinking 11 tokens of these, not shown (--show-thinking)"), "{finished:?}");
    let shown = continued(&[&budget[..], &["--show-thinking", "--stats"]].concat());
    assert!(shown.stdout.contains(END) && shown.stderr.contains("thinking 11 tokens of these\n"), "{shown:?}");
    // Never ended: there is no answer.
    assert_eq!(continued(&["-n", "6"]).stdout, format!("{PROMPT}\n"));
    // Without reasoning nothing is said of it.
    let plain = run(&["run", "--backend", "cpu", "--temp", "0", "-n", "6", "-p", "Once", "--no-display-prompt"]);
    assert!(plain.stdout.trim().len() > 3 && !plain.stderr.contains("thinking"), "{plain:?}");
}

fn chat(template: &str, more: &[&str], input: &str) -> Finished {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("think.jinja");
    fs::write(&file, template).unwrap();
    let flags = ["chat", "--backend", "cpu", "--temp", "0", "-n", "24", "--chat-template", file.to_str().unwrap()];
    run_with_input(&[&flags, more].concat(), input.as_bytes())
}

#[test]
fn the_template_is_told_what_is_wanted() {
    let open = chat(TEMPLATE, &["--reasoning-budget", "5"], "Hello\n");
    assert_eq!(open.code, Some(0), "{open:?}");
    // Not on a terminal: as the model wrote it.
    assert_eq!(open.stdout.matches(END).count(), 1, "{open:?}");
    let wanted = chat(TEMPLATE, &["--reasoning", "on", "--reasoning-budget", "5"], "Hello\n");
    assert_eq!(wanted.stdout, open.stdout);
    for off in [
        &["--reasoning", "off"][..],
        &["--reasoning-budget", "0"],
        &["--chat-template-kwargs", r#"{"enable_thinking": false}"#],
    ] {
        let closed = chat(TEMPLATE, off, "Hello\n");
        assert!(closed.stdout.trim().len() > 10 && !closed.stdout.contains("think"), "{closed:?}");
        assert!(!closed.stderr.contains("note: the chat template"), "{closed:?}");
    }
    // One that cannot be told: a word, and it is ended where it begins.
    let deaf = "{{ messages[-1].content }}\n<think>\n";
    let closed = chat(deaf, &["--reasoning", "off"], "Hello\n");
    assert!(closed.stdout.starts_with(END), "{closed:?}");
    assert!(closed.stderr.contains("no enable_thinking in it"), "{closed:?}");
    let wanted = chat(deaf, &["--reasoning", "on"], "Hello\n");
    assert!(wanted.stderr.contains("--reasoning changes nothing"), "{wanted:?}");
    assert!(!chat(deaf, &[], "Hello\n").stderr.contains("enable_thinking"));
    // In the middle of a chat.
    let switched = chat(TEMPLATE, &[], "/set reasoning off\n/show\nHello\n/set reasoning maybe\n");
    assert!(switched.stdout.contains("reasoning off") && !switched.stdout.contains("think"), "{switched:?}");
    assert!(switched.stderr.contains("reasoning is on, off or auto"), "{switched:?}");
}

#[test]
fn variables_reach_the_template() {
    let refusing = "{{ raise_exception('mood ' ~ mood.of) }}";
    let refused = chat(refusing, &["--chat-template-kwargs", r#"{"mood": {"of": "calm"}}"#], "Hello\n");
    assert!(refused.code == Some(1) && refused.stderr.contains("mood calm"), "{refused:?}");
    let broken = chat(refusing, &["--chat-template-kwargs", "{mood}"], "Hello\n");
    broken.one_line_error(1);
    assert!(broken.stderr.contains("expected a JSON object"), "{broken:?}");
    for bad in [&["--reasoning", "maybe"][..], &["--reasoning-budget", "-2"], &["--reasoning-budget", "some"]] {
        assert_eq!(run(&[&["chat"], bad].concat()).code, Some(2), "{bad:?}");
    }
}

/// Reasoning is kept apart from the answer, and the template is given both.
#[test]
fn a_chat_keeps_the_reasoning_apart() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("chat.json");
    let script = format!("Hello\n/save {}\nAnd then?\n", file.display());
    let finished = chat(TEMPLATE, &["--reasoning-budget", "5"], &script);
    assert_eq!((finished.code, finished.stdout.matches(END).count()), (Some(0), 2), "{finished:?}");
    let saved: Json = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let message = &saved["messages"][1];
    let (reasoning, answer) = (text(message, "reasoning"), text(message, "content"));
    let (thought, rest) = finished.stdout.split_once(END).unwrap();
    assert_eq!(thought.trim(), reasoning, "{finished:?} {saved}");
    assert!(answer.len() > 10 && rest.trim_start().starts_with(&format!("{answer}\n")), "{finished:?} {saved}");
    // Loaded, the second turn is the same: its prompt has both.
    let loaded = chat(TEMPLATE, &["--reasoning-budget", "5"], &format!("/load {}\nAnd then?\n", file.display()));
    assert!(loaded.stdout.len() > 20 && finished.stdout.ends_with(&loaded.stdout), "{finished:?} {loaded:?}");
}

//! `chat` and `run -cnv` as processes, on the built-in model.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use crate::common::{
    cli::{Finished, program, run, run_with_input},
    watchdog::must_end,
};

/// Short greedy answers on the CPU.
fn chat(more: &[&str], input: &str) -> Finished {
    let short = ["chat", "--backend", "cpu", "--temp", "0", "-n", "6"];
    run_with_input(&[&short, more].concat(), input.as_bytes())
}

/// The number before `word` in `text`, each time.
fn numbers_before(text: &str, word: &str) -> Vec<usize> {
    text.match_indices(word)
        .map(|(at, _)| {
            let digits = text[..at].trim_end().rsplit(|c: char| !c.is_ascii_digit()).next().unwrap();
            digits.parse().unwrap()
        })
        .collect()
}

#[test]
fn only_the_new_turn_is_computed() {
    let finished = chat(&["--verbose"], "Hello\nAnd then?\n");
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let prompts = numbers_before(&finished.stderr, "tokens (");
    let reused = numbers_before(&finished.stderr, "reused");
    let answers = numbers_before(&finished.stderr, "tokens, ");
    assert_eq!((reused.len(), reused[0]), (2, 0), "{finished:?}");
    // All of the first turn but the last token, which was chosen and not run.
    assert_eq!(reused[1], prompts[0] + answers[0] - 1, "{finished:?}");
    assert!(prompts[1] > reused[1] && finished.stderr.contains("tok/s"), "{finished:?}");
}

#[test]
fn a_saved_conversation_goes_on_as_it_would_have() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("chat.json");
    let file = file.to_str().unwrap();
    let whole = chat(&[], &format!("Hello\nAnd then?\n/save {file}\n/clear\n/show\nOne day\n/bye\nnever said\n"));
    assert_eq!(whole.code, Some(0), "{whole:?}");
    assert!(whole.stderr.contains("(4 messages written"), "{whole:?}");
    let (_, after_clear) = whole.stdout.split_once("model     ").unwrap();
    assert!(!after_clear.contains("> Hello"), "{whole:?}");
    let whole = chat(&[], "Hello\nAnd then?\nOne day\n");
    let rest = chat(&[], &format!("/load {file}\nOne day\n"));
    assert!(rest.stdout.trim().len() > 3 && whole.stdout.ends_with(&rest.stdout), "{whole:?} {rest:?}");
    let loaded = chat(&[], &format!("/load {file}\n/show\n"));
    for part in ["> Hello\n", "> And then?\n", "assistant ", "template  chatml"] {
        assert!(loaded.stdout.contains(part), "no {part:?} in {loaded:?}");
    }
    // The model's name is checked.
    let json = fs::read_to_string(file).unwrap();
    fs::write(file, json.replace("\"model\": \"", "\"model\": \"another ")).unwrap();
    let refused = chat(&[], &format!("/load {file}\n"));
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("chat.json: model: expected") && refused.stderr.contains("another"), "{refused:?}");
}

#[test]
fn a_turn_is_taken_back_or_answered_again() {
    let first = chat(&[], "Hello\n").stdout;
    let second = |question: &str| {
        let both = chat(&[], &format!("Hello\n{question}\n")).stdout;
        both.strip_prefix(&first).unwrap().to_owned()
    };
    let (taken_back, kept) = (second("And then?"), second("One day"));
    let again = chat(&[], "Hello\nAnd then?\n/undo\nOne day\n/regenerate\n");
    // Greedy: an answer that is given again is the same.
    assert_eq!(again.stdout, [&first[..], &taken_back, &kept, &kept].concat());
    assert!(again.stderr.contains("(taken back: And then?)"), "{again:?}");
    for nothing in ["/undo\n", "/regenerate\n"] {
        assert_eq!(chat(&[], nothing).code, Some(2), "{nothing:?}");
    }
}

#[test]
fn a_file_of_another_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("chat.json");
    let file = path.to_str().unwrap();
    fs::write(&path, "precious").unwrap();
    let refused = chat(&[], &format!("Hello\n/save {file}\n"));
    assert!(refused.code == Some(2) && refused.stderr.contains("exists"), "{refused:?}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    fs::remove_file(&path).unwrap();
    // Its own is.
    let again = chat(&[], &format!("Hello\n/save {file}\nAnd then?\n/save {file}\n/load {file}\n/save {file}\n"));
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(again.stderr.contains("(4 messages written"), "{again:?}");
    // Behind /clear it is another conversation.
    let another = chat(&[], &format!("/load {file}\n/clear\nOne day\n/save {file}\n"));
    assert!(another.code == Some(2) && another.stderr.contains("exists"), "{another:?}");
}

#[test]
fn texts_of_several_lines_and_settings() {
    let script = "\"\"\"first\n\nlast\"\"\"\n/set temp 0.25\n/set seed 7\n/set system Be  kind.\n/show\n/help\n";
    let finished = chat(&[], script);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    for part in ["> first\\n\\nlast\n", "temp 0.25", "seed 7", "system Be  kind.\n", "/bye", "n 6\n"] {
        assert!(finished.stdout.contains(part), "no {part:?} in {finished:?}");
    }
}

#[test]
fn mistakes_in_a_script_end_it() {
    let cases = [
        ("/nix\nHello\n", 2, "/help"),
        ("/set temp warm\n", 2, "temp"),
        ("/set top_p 7\n", 2, "top"),
        ("/set nonsense 1\n", 2, "nonsense"),
        ("/save\n", 2, "/save needs a file"),
        ("\"\"\"no end\n", 2, "no end"),
        ("/load /nonexistent/chat.json\n", 1, "/nonexistent/chat.json"),
    ];
    for (script, code, reason) in cases {
        let finished = chat(&[], script);
        assert_eq!((finished.code, finished.stdout.as_str()), (Some(code), ""), "{script:?}: {finished:?}");
        let last = finished.stderr.lines().last().unwrap();
        assert!(last.starts_with("error: ") && last.contains(reason), "{script:?}: {last}");
    }
}

#[test]
fn the_oldest_turns_make_room() {
    let finished = chat(&["-c", "90", "-sys", "Hm"], "one\ntwo\nthree\nfour\n/show\n");
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert!(finished.stderr.contains("the context is full: 1 turn forgotten"), "{finished:?}");
    assert!(finished.stdout.contains("system Hm\n") && finished.stdout.contains("> four\n"), "{finished:?}");
    assert!(!finished.stdout.contains("> one\n"), "{finished:?}");
    assert!(finished.stdout.contains(" older messages that the model does not see any more"), "{finished:?}");
    let endless = "a ".repeat(2000);
    let refused = chat(&[], &endless);
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""), "{refused:?}");
    assert!(refused.stderr.contains("error: the context is full"), "{refused:?}");
}

#[test]
fn the_prompt_of_a_conversation_is_its_system_prompt() {
    for flags in [&["-cnv", "-p", r"Be\tkind."][..], &["-cnv", "-sys", r"Be\tkind."], &["-cnv", r"Be\tkind."]] {
        let args = [&["run", "--backend", "cpu", "--temp", "0", "-n", "6"], flags].concat();
        let finished = run_with_input(&args, b"Hello\n/show\n");
        assert_eq!(finished.code, Some(0), "{finished:?}");
        assert!(finished.stdout.contains("system Be\\tkind.\n> Hello\n"), "{finished:?}");
        assert!(finished.stderr.contains("no assistant"), "{finished:?}");
    }
    for args in [&["run", "-cnv", "-p", "a", "-sys", "b"][..], &["run", "-sys", "b"], &["run", "-cnv", "--json"]] {
        assert_eq!(run(args).code, Some(2), "{args:?}");
    }
}

#[test]
fn templates_by_name_and_by_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mine.jinja");
    fs::write(&file, "{% for m in messages %}{{ m.content }}.{% endfor %}").unwrap();
    for (template, shown) in [("bitnet", "bitnet (built in)"), (file.to_str().unwrap(), "Jinja from --chat-template")] {
        let finished = chat(&["--chat-template", template], "Hello\n/show\n");
        assert_eq!(finished.code, Some(0), "{finished:?}");
        assert!(finished.stdout.contains(&format!("template  {shown}\n")), "{finished:?}");
    }
    let unknown = chat(&["--chat-template", "vicuna"], "Hello\n");
    unknown.one_line_error(2);
    assert!(unknown.stderr.contains("bitnet, llama3, falcon3, chatml, qwen3"), "{unknown:?}");
    fs::write(&file, "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}").unwrap();
    let endless = chat(&["--chat-template", file.to_str().unwrap()], "Hello\n");
    assert_eq!((endless.code, endless.stdout.as_str()), (Some(1), ""), "{endless:?}");
    assert!(endless.stderr.contains("too many steps"), "{endless:?}");
}

/// Waits until `found` says yes to all that was read.
fn wait_for(read: &Mutex<String>, what: &str, found: impl Fn(&str) -> bool) {
    must_end(&format!("waiting for the {what}"), || {
        while !found(&read.lock().unwrap()) {
            thread::sleep(Duration::from_millis(10));
        }
    });
}

/// Waits until the program waits for a line, after its last output; without `/proc`, some time.
#[cfg(unix)]
fn wait_for_reading(child: &Child) {
    let stat = format!("/proc/{}/stat", child.id());
    if !fs::exists(&stat).unwrap() {
        return thread::sleep(Duration::from_millis(200));
    }
    // The state stands after the name in parentheses; the main thread sleeps (S) in nothing else then.
    let sleeps = || fs::read_to_string(&stat).unwrap().rsplit_once(')').unwrap().1.starts_with(" S");
    must_end("waiting for the program to read", || {
        while !sleeps() {
            thread::sleep(Duration::from_millis(10));
        }
    });
}

/// Everything that comes out of `from`, as it comes.
fn collect(mut from: impl Read + Send + 'static) -> Arc<Mutex<String>> {
    let read = Arc::new(Mutex::new(String::new()));
    let writer = Arc::clone(&read);
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            writer.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    });
    read
}

fn send(stdin: &mut ChildStdin, text: &str) {
    stdin.write_all(text.as_bytes()).unwrap();
    stdin.flush().unwrap();
}

#[cfg(unix)]
fn interrupt(child: &Child) {
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
}

/// The answer stops, the chat goes on; while it waits for a line, Ctrl-C ends it.
#[cfg(unix)]
#[test]
fn ctrl_c_stops_the_answer_and_not_the_chat() {
    let args = ["chat", "--backend", "cpu", "--temp", "0", "-c", "60000", "--ignore-eos"];
    let mut child = program(&args).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let stdout = collect(child.stdout.take().unwrap());
    let stderr = collect(child.stderr.take().unwrap());
    send(&mut stdin, "Hello\n");
    wait_for(&stdout, "answer", |text| text.len() > 20);
    interrupt(&child);
    wait_for(&stderr, "end", |text| text.contains("(stopped)"));
    let answered = stdout.lock().unwrap().len();
    send(&mut stdin, "/set n 3\nAnd?\n");
    wait_for(&stderr, "second answer", |text| text.contains("(ended by -n)"));
    wait_for(&stdout, "text of the second answer", |text| text.len() > answered);
    // Until the program waits for a line again, this Ctrl-C could be taken for one that stops an answer.
    send(&mut stdin, "/show\n");
    wait_for(&stdout, "description", |text| text.contains("> And?\n"));
    wait_for_reading(&child);
    interrupt(&child);
    assert_eq!(child.wait().unwrap().code(), Some(130), "{stderr:?}");
}

/// On a terminal: editing, history, mistakes that do not end the chat, and Ctrl-C twice.
#[cfg(target_os = "linux")]
#[test]
fn a_session_on_a_terminal() {
    if Command::new("script").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        eprintln!("skipped: there is no `script` to give a terminal");
        return;
    }
    let line = format!("{} chat --backend cpu --temp 0 -n 3", env!("CARGO_BIN_EXE_bitnet-gpu"));
    let mut command = Command::new("script");
    command.args(["-qefc", &line, "/dev/null"]).env("TERM", "xterm").env_remove("RUST_LOG");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let screen = collect(child.stdout.take().unwrap());
    // What the editor sends when it begins to read a line.
    let lines_read = |count: usize| wait_for(&screen, "prompt", |s| s.matches("\x1b[?2004h").count() >= count);
    let sent = ["Hallo\x7f\x7fllo\x01x\x1b[3~\x08\r", "\x1b[A\r", "/nix\r", "/show\r", "\x03"];
    for (at, keys) in sent.into_iter().enumerate() {
        lines_read(at + 1);
        send(&mut stdin, keys);
    }
    lines_read(sent.len() + 1);
    send(&mut stdin, "\x03");
    let code = child.wait().unwrap().code();
    let screen = screen.lock().unwrap();
    assert_eq!(code, Some(130), "{screen}");
    assert!(screen.contains("error: there is no command /nix"), "{screen}");
    assert!(screen.contains("(Ctrl-C again, Ctrl-D or /bye ends the chat)"), "{screen}");
    let (_, description) = screen.split_once("template  chatml").expect("a description");
    let questions: Vec<_> = description.lines().filter(|line| line.starts_with("> ")).map(str::trim_end).collect();
    assert_eq!(questions, ["> alllo", "> alllo"], "{screen}");
}

/// A reader of the answers can leave.
#[test]
fn a_closed_pipe_ends_the_chat_quietly() {
    let mut child = program(&["chat", "--backend", "cpu", "--temp", "0"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    send(&mut stdin, "/help\n");
    stdout.read_line(&mut String::new()).unwrap();
    drop(stdout);
    send(&mut stdin, "/help\n/help\n");
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(!String::from_utf8_lossy(&output.stderr).contains("error"), "{output:?}");
}

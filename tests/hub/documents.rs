//! The commands that README and `docs/` show: each is one that the program takes, those that need neither a GPU nor
//! long measurements run, and links lead somewhere.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use tempfile::TempDir;

use super::{BUILT_IN, hub_command, server::Server};
use crate::common::cli::{Finished, run};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Repositories that the documents name, with their models as the Hub lists them.
const REPOSITORIES: [(&str, &[&str]); 11] = [
    ("microsoft/BitNet-b1.58-2B-4T-gguf", &["ggml-model-i2_s.gguf"]),
    ("prism-ml/Ternary-Bonsai-1.7B-gguf", &["F16.gguf", "Q2_0.gguf", "Q2_0_g64.gguf", "PQ2_0.gguf"]),
    ("prism-ml/Ternary-Bonsai-4B-gguf", &["F16.gguf", "Q2_0.gguf", "Q2_0_g64.gguf", "PQ2_0.gguf"]),
    ("prism-ml/Ternary-Bonsai-8B-gguf", &["F16.gguf", "Q2_0.gguf", "Q2_0_g64.gguf", "PQ2_0.gguf"]),
    ("prism-ml/Ternary-Bonsai-2-27B-gguf", &["F16.gguf", "PQ2_0.gguf", "PTQ1_0.gguf", "mmproj-Q8_0.gguf"]),
    ("tiiuae/Falcon-E-1B-Instruct-GGUF", &["ggml-model-i2_s.gguf"]),
    ("tiiuae/Falcon-E-3B-Instruct-GGUF", &["ggml-model-i2_s.gguf"]),
    ("tiiuae/Falcon3-1B-Instruct-1.58bit-GGUF", &["ggml-model-i2_s.gguf"]),
    ("tiiuae/Falcon3-3B-Instruct-1.58bit-GGUF", &["ggml-model-i2_s.gguf"]),
    ("tiiuae/Falcon3-7B-Instruct-1.58bit-GGUF", &["ggml-model-i2_s.gguf"]),
    ("tiiuae/Falcon3-10B-Instruct-1.58bit-GGUF", &["ggml-model-i2_s.gguf"]),
];

/// README and the guides, with their text.
fn documents() -> Vec<(PathBuf, String)> {
    let root = Path::new(ROOT);
    let mut files = vec![root.join("README.md"), root.join("CONTRIBUTING.md")];
    for folder in ["docs", "docs/notes", "packaging"] {
        let entries = fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path());
        files.extend(entries.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    }
    files.sort();
    files.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

/// The commands of a text: lines of code blocks, and code between other words. Placeholders have become words that
/// the program takes.
fn commands(text: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if fenced || line.starts_with("    ") {
            found.extend(line.trim().strip_prefix("bitnet-gpu "));
        } else {
            found.extend(line.split('`').skip(1).step_by(2).filter_map(|code| code.strip_prefix("bitnet-gpu ")));
        }
    }
    // In `Cargo.toml` it is a name with an equals sign.
    found.into_iter().filter(|line| !line.starts_with("= ")).map(words).collect()
}

/// As a shell splits a line: quotes hold words together, and a comment or a file for the output ends it.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (at, part) in line.split('"').enumerate() {
        if at % 2 == 1 {
            words.push(part.to_owned());
            continue;
        }
        let code = part.split(" #").next().and_then(|code| code.split(" > ").next()).unwrap();
        words.extend(code.split_whitespace().map(|word| match word {
            "COMMAND" => "run".to_owned(),
            "SHELL" => "bash".to_owned(),
            _ => word.to_owned(),
        }));
        if code.len() < part.len() {
            break;
        }
    }
    words
}

#[test]
fn every_command_of_the_documents_is_one() {
    let all: Vec<(PathBuf, Vec<String>)> = documents()
        .into_iter()
        .flat_map(|(path, text)| commands(&text).into_iter().map(move |words| (path.clone(), words)))
        .collect();
    assert!(all.len() > 80, "{} commands found", all.len());
    // Flags and their values are looked at from left to right, so that help is printed only if all before it are right.
    let check = |(path, words): &(PathBuf, Vec<String>)| {
        let help = (words[0] != "help").then_some("--help");
        let done = run(&words.iter().map(String::as_str).chain(help).collect::<Vec<_>>());
        (done.code != Some(0)).then(|| format!("{}: bitnet-gpu {}\n{}", path.display(), words.join(" "), done.stderr))
    };
    let quarter = all.len().div_ceil(4);
    let wrong: Vec<String> = thread::scope(|scope| {
        let parts: Vec<_> =
            all.chunks(quarter).map(|part| scope.spawn(|| part.iter().filter_map(check).collect::<Vec<_>>())).collect();
        parts.into_iter().flat_map(|part| part.join().unwrap()).collect()
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// True of commands that take a moment and need no GPU, and no model but those that [`Reader`] has.
fn is_quick(words: &[String]) -> bool {
    const QUICK: [&str; 13] = [
        "run",
        "chat",
        "serve",
        "inspect",
        "plan",
        "pull",
        "list",
        "rm",
        "perplexity",
        "tokenize",
        "logits",
        "help",
        "--version",
    ];
    const OTHERWISE: [&str; 8] =
        ["gpu", "-ngl", "--bench", "--host", "FILE", "path/to/huggingface-model", "--slot-save-path", "32768"];
    QUICK.contains(&words[0].as_str()) && !words.iter().any(|word| OTHERWISE.contains(&word.as_str()))
}

/// Somebody who follows a document from top to bottom, in a folder with a few files.
struct Reader<'a> {
    folder: TempDir,
    server: &'a Server,
}

impl<'a> Reader<'a> {
    fn new(server: &'a Server) -> Self {
        let folder = TempDir::new().unwrap();
        fs::create_dir(folder.path().join("models")).unwrap();
        for file in ["model.gguf", "a.gguf", "b.gguf", "models/c.gguf"] {
            fs::copy(BUILT_IN, folder.path().join(file)).unwrap();
        }
        fs::write(folder.path().join("prompt.txt"), "Once upon a time").unwrap();
        fs::write(folder.path().join("text.txt"), "The cat sat on the mat. ".repeat(80)).unwrap();
        Self { folder, server }
    }

    fn command(&self, words: &[String]) -> Command {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        // Removing asks where it may.
        let sure = (words[0] == "rm").then_some("-y");
        let args: Vec<&str> = words.into_iter().chain(sure).collect();
        let mut command = hub_command(&self.folder.path().join("hub"), self.server, &args);
        command.current_dir(&self.folder).env("LLAMA_ARG_N_PREDICT", "4").env("LLAMA_ARG_PORT", "0");
        command.env("BITNET_BACKEND", "cpu");
        command
    }

    /// What went wrong, if anything did.
    fn follow(&self, words: &[String]) -> Option<String> {
        let mut command = self.command(words);
        if words[0] == "serve" {
            let mut child = command.spawn().unwrap();
            let mut first = String::new();
            BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
            child.kill().unwrap();
            let ended = child.wait_with_output().unwrap();
            let told = String::from_utf8_lossy(&ended.stderr).into_owned();
            return (!first.starts_with("listening on http://")).then_some(told);
        }
        let done: Finished = command.output().unwrap().into();
        (done.code != Some(0)).then_some(done.stderr)
    }
}

#[test]
fn who_follows_the_documents_gets_no_error() {
    let model = fs::read(BUILT_IN).unwrap();
    let server = Server::start(&[("name-i2_s.gguf", &model)]);
    let listed = |files: &[&str]| files.iter().map(|&file| file.to_owned()).collect();
    server.set(|state| {
        state.others = REPOSITORIES.iter().map(|(repo, files)| ((*repo).to_owned(), listed(files))).collect()
    });
    let follow = |path: &Path, text: &str| -> (usize, Vec<String>) {
        let quick: Vec<Vec<String>> = commands(text).into_iter().filter(|words| is_quick(words)).collect();
        let reader = Reader::new(&server);
        let wrong = |words: &Vec<String>| {
            let told = reader.follow(words)?;
            Some(format!("{}: bitnet-gpu {}\n{told}", path.display(), words.join(" ")))
        };
        (quick.len(), quick.iter().filter_map(wrong).collect())
    };
    let documents = documents();
    let results: Vec<(usize, Vec<String>)> = thread::scope(|scope| {
        let readers: Vec<_> = documents.iter().map(|(path, text)| scope.spawn(|| follow(path, text))).collect();
        readers.into_iter().map(|reader| reader.join().unwrap()).collect()
    });
    let followed: usize = results.iter().map(|(count, _)| count).sum();
    assert!(followed > 40, "{followed} commands were run");
    let wrong: Vec<String> = results.into_iter().flat_map(|(_, wrong)| wrong).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn links_between_documents_lead_somewhere() {
    let documents = documents();
    let mut followed = 0;
    for (path, text) in &documents {
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") || link.contains(char::is_whitespace) {
                continue;
            }
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            let told = format!("{}: {link}", path.display());
            assert!(target.exists(), "{told}");
            let anchors =
                |text: &str| text.lines().filter(|line| line.starts_with('#')).map(anchor).collect::<Vec<_>>();
            if !heading.is_empty() {
                assert!(anchors(&fs::read_to_string(&target).unwrap()).iter().any(|one| one == heading), "{told}");
            }
            followed += 1;
        }
    }
    assert!(followed > 25, "{followed} links");
}

/// The name that a heading has in links, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    kept.chars().filter(|c| c.is_alphanumeric() || "-_ ".contains(*c)).map(|c| if c == ' ' { '-' } else { c }).collect()
}

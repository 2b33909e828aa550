//! Models by name: fetched when they are first named, listed, removed.

use std::{fs, time::Duration};

use serde_json::Value as Json;
use tempfile::TempDir;

use super::{BUILT_IN, Case, server::Server, with_hub};

const CPU: [&str; 6] = ["-n", "4", "--temp", "0", "--backend", "cpu"];

/// Two models that run, under names with types.
fn stories() -> Case {
    let model = fs::read(BUILT_IN).unwrap();
    let server = Server::start(&[("stories-i2_s.gguf", &model), ("stories-f16.gguf", &model[..2000])]);
    Case { server, folder: TempDir::new().unwrap(), bytes: model }
}

fn listed(case: &Case) -> Vec<Json> {
    let list = with_hub(case, &["list", "--json"], &[]).json();
    list["models"].as_array().unwrap().clone()
}

#[test]
fn a_name_fetches_what_is_missing_and_asks_for_nothing_later() {
    let case = stories();
    let text = |name: &str, more: &[(&str, &str)]| {
        let done = with_hub(&case, &[&["run", "-hf", name, "The dog"][..], &CPU, &["--json"]].concat(), more);
        (done.json()["text"].clone(), done.stderr)
    };
    let (first, told) = text("org/name:i2_s", &[]);
    assert!(told.contains("org/name:i2_s is not here") && told.contains("1 file, 1.8 MiB fetched"), "{told}");
    assert!(!case.server.requests().is_empty());
    for name in ["hf.co/org/name:i2_s", "https://huggingface.co/org/name/blob/main/stories-i2_s.gguf", "org/name"] {
        assert_eq!(text(name, &[]).0, first, "{name}");
    }
    assert_eq!(text("org/name:I2_S", &[("HF_HUB_OFFLINE", "1")]).0, first);
    assert!(case.server.requests().is_empty(), "what is here is not asked for");

    // A second model of the repository is fetched beside the first.
    let half = with_hub(&case, &["inspect", "org/name:f16"], &[]);
    assert!(half.stderr.contains("org/name:f16: 1 file, 2.0 KiB fetched"), "{half:?}");
    let names: Vec<Json> = listed(&case).iter().map(|model| model["name"].clone()).collect();
    assert_eq!(names, ["org/name:stories-f16.gguf", "org/name:stories-i2_s.gguf"]);

    // What is not there either is one error, and a path into a folder asks nobody.
    let nowhere = with_hub(&case, &["chat", "org/other"], &[]);
    assert!(nowhere.code == Some(1) && nowhere.stderr.contains("the server says 404"), "{nowhere:?}");
    case.server.requests();
    let path = with_hub(&case, &["run", "-m", "src/nothing", "x"], &[]);
    assert!(path.one_line_error(1).contains("src/nothing"));
    assert!(case.server.requests().is_empty());
}

#[test]
fn models_are_listed_and_removed() {
    let case = stories();
    let nothing = with_hub(&case, &["list"], &[]);
    assert!(nothing.code == Some(0) && nothing.stdout.is_empty() && nothing.stderr.contains("no models"));
    for name in ["org/name:i2_s", "org/name:f16"] {
        assert_eq!(with_hub(&case, &["pull", name], &[]).code, Some(0));
    }
    let models = listed(&case);
    let expected =
        [("org/name:stories-f16.gguf", 2000, "unreadable"), ("org/name:stories-i2_s.gguf", case.bytes.len(), "I2_S")];
    for (model, (name, bytes, ty)) in models.iter().zip(expected) {
        assert_eq!((&model["name"], &model["bytes"], &model["type"]), (&name.into(), &bytes.into(), &ty.into()));
        let age = std::time::UNIX_EPOCH + Duration::from_secs(model["modified"].as_u64().unwrap());
        assert!(age.elapsed().unwrap() < Duration::from_secs(3600));
    }
    let table = with_hub(&case, &["ls"], &[]).stdout;
    assert!(table.contains("org/name:stories-i2_s.gguf | 1.8 MiB") && table.contains("just now"), "{table}");

    // One of two: its contents go, the other stays and runs.
    let removed = with_hub(&case, &["rm", "org/name:f16"], &[]);
    assert!(removed.code == Some(0) && removed.stderr.contains("2.0 KiB freed"), "{removed:?}");
    assert_eq!(fs::read_dir(case.repo().join("blobs")).unwrap().count(), 1);
    let run = [&["run", "org/name", "The dog"][..], &CPU].concat();
    assert_eq!(with_hub(&case, &run, &[("HF_HUB_OFFLINE", "1")]).code, Some(0));

    // A name that is not there keeps all from going.
    let wrong = with_hub(&case, &["rm", "org/name", "org/other", "-y"], &[]);
    assert!(wrong.one_line_error(1).contains("org/other"));
    assert_eq!(listed(&case).len(), 1);
    let removed = with_hub(&case, &["rm", "org/name", "-y"], &[]);
    assert!(removed.stderr.contains("1.8 MiB freed"), "{removed:?}");
    assert!(!case.repo().exists() && listed(&case).is_empty());
}

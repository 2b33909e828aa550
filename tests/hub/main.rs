//! Downloads into the Hugging Face cache, against a server on this machine that also fails in every way.

#[path = "../common/mod.rs"]
mod common;
mod documents;
mod names;
mod network;
mod server;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use bitnet_gpu::{
    error::Result,
    hub::{Cache, Hub, ModelName, PullEvent, Pulled, pull},
};
use common::cli::{Finished, program};
use server::{COMMIT, Server, Trouble, sha256};
use tempfile::TempDir;

const BUILT_IN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/llama-stories-ternary-4m.gguf");

/// Bytes that compress and repeat in no way.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// A server with one large file, and an empty cache.
struct Case {
    server: Server,
    folder: TempDir,
    bytes: Vec<u8>,
}

impl Case {
    fn new() -> Self {
        let bytes = noise(300_000);
        let server = Server::start(&[("README.md", b"a model"), ("m.gguf", &bytes)]);
        Self { server, folder: TempDir::new().unwrap(), bytes }
    }

    fn cache(&self) -> Cache {
        Cache::at(self.folder.path())
    }

    fn pull(&self) -> Result<Pulled> {
        let name = ModelName::parse("org/name").unwrap();
        pull(&Hub::at(&self.server.endpoint(), None), &self.cache(), &name, &mut |_| ())
    }

    fn failure(&self) -> String {
        let text = self.pull().unwrap_err().to_string();
        assert!(!text.contains('\n'), "{text}");
        text
    }

    fn repo(&self) -> PathBuf {
        self.folder.path().join("models--org--name")
    }

    fn blob(&self) -> PathBuf {
        self.repo().join("blobs").join(sha256(&self.bytes))
    }

    fn incomplete(&self) -> PathBuf {
        self.repo().join("blobs").join(format!("{}.incomplete", sha256(&self.bytes)))
    }

    /// The bytes that were asked for, as ranges; "" = all.
    fn ranges(&self) -> Vec<String> {
        let gets = self.server.requests().into_iter().filter(|r| r.method == "GET" && r.path.starts_with("/cdn/"));
        gets.map(|r| r.headers.get("range").cloned().unwrap_or_default()).collect()
    }
}

#[test]
fn a_file_lies_in_the_cache_as_huggingface_hub_puts_it() {
    let case = Case::new();
    let mut seen = Vec::new();
    let hub = Hub::at(&case.server.endpoint(), Some("secret".into()));
    let name = ModelName::parse("org/name").unwrap();
    let pulled = pull(&hub, &case.cache(), &name, &mut |event| {
        if let PullEvent::Progress(at) = event {
            seen.push((at.done_bytes, at.total_bytes));
        }
    })
    .unwrap();
    let snapshot = case.repo().join("snapshots").join(COMMIT).join("m.gguf");
    assert_eq!(pulled, Pulled { path: snapshot.clone(), commit: COMMIT.into(), files: 1, fetched_bytes: 300_000 });
    assert!(fs::read(&snapshot).unwrap() == case.bytes);
    assert_eq!(fs::read_to_string(case.repo().join("refs/main")).unwrap(), COMMIT);
    #[cfg(unix)]
    assert_eq!(fs::read_link(&snapshot).unwrap(), Path::new("../../blobs").join(sha256(&case.bytes)));
    assert_eq!(fs::read_dir(case.repo().join("blobs")).unwrap().count(), 1, "nothing but the contents");
    assert_eq!(seen.last(), Some(&(300_000, Some(300_000))));
    assert!(seen.is_sorted());

    // The token goes to the Hub and not to the host it redirects to.
    for request in case.server.requests() {
        let has_token = request.headers.get("authorization").map(String::as_str) == Some("Bearer secret");
        assert_eq!(has_token, !request.path.starts_with("/cdn/"), "{request:?}");
    }
    // The second time there is nothing to fetch, and nothing is written, as the cache may be one to read only.
    let reference = case.repo().join("refs/main");
    let earlier = fs::metadata(&reference).unwrap().modified().unwrap() - Duration::from_secs(1000);
    fs::File::options().write(true).open(&reference).unwrap().set_modified(earlier).unwrap();
    assert_eq!(case.pull().unwrap().fetched_bytes, 0);
    assert_eq!(fs::metadata(&reference).unwrap().modified().unwrap(), earlier);
    assert_eq!(case.ranges(), [""; 0]);
    assert_eq!(case.cache().find(&name).unwrap(), Some(snapshot));
}

#[test]
fn what_was_cut_off_goes_on_where_it_ended() {
    let case = Case::new();
    case.server.trouble(Some(Trouble::Cut { after: 100_000, times: 2 }));
    assert_eq!(case.pull().unwrap().fetched_bytes, 300_000);
    assert_eq!(case.ranges(), ["", "bytes=100000-", "bytes=200000-"]);
    assert!(fs::read(case.blob()).unwrap() == case.bytes);

    // What an earlier run left is taken up.
    let case = Case::new();
    fs::create_dir_all(case.repo().join("blobs")).unwrap();
    fs::write(case.incomplete(), &case.bytes[..123_456]).unwrap();
    assert_eq!(case.pull().unwrap().fetched_bytes, 300_000 - 123_456);
    assert_eq!(case.ranges(), ["bytes=123456-"]);
    assert!(fs::read(case.blob()).unwrap() == case.bytes);

    // All of it was there, without its name.
    let case = Case::new();
    fs::create_dir_all(case.repo().join("blobs")).unwrap();
    fs::write(case.incomplete(), &case.bytes).unwrap();
    assert_eq!(case.pull().unwrap().fetched_bytes, 0);
    assert!(case.blob().exists() && !case.incomplete().exists());

    // A server without ranges sends all of it again.
    let case = Case::new();
    case.server.trouble(Some(Trouble::NoRanges));
    fs::create_dir_all(case.repo().join("blobs")).unwrap();
    fs::write(case.incomplete(), &case.bytes[..1000]).unwrap();
    assert_eq!(case.pull().unwrap().fetched_bytes, 300_000);
    assert!(fs::read(case.blob()).unwrap() == case.bytes);
}

#[test]
fn a_server_that_is_busy_is_asked_again_and_not_for_ever() {
    let case = Case::new();
    case.server.trouble(Some(Trouble::Status { code: 503, times: 2 }));
    case.pull().unwrap();
    assert_eq!(case.ranges().len(), 3);

    let case = Case::new();
    case.server.trouble(Some(Trouble::Status { code: 503, times: usize::MAX }));
    assert!(case.failure().contains("the server says 503"));
    assert_eq!(case.ranges().len(), 4);
    assert!(!case.blob().exists() && !case.repo().join("refs/main").exists());
    assert!(!case.incomplete().exists(), "nothing came");

    // It comes on every time, so it is asked more often than that.
    let case = Case::new();
    case.server.trouble(Some(Trouble::Cut { after: 40_000, times: 6 }));
    case.pull().unwrap();
}

#[test]
fn other_bytes_than_announced_are_not_kept() {
    let case = Case::new();
    case.server.trouble(Some(Trouble::OtherBytes));
    let text = case.failure();
    assert!(text.starts_with("SHA-256 of m.gguf, which is not kept: expected ") && text.contains(&sha256(&case.bytes)));
    assert!(!case.blob().exists() && !case.incomplete().exists());

    // An old beginning of another file is found out in the same way, and the next attempt begins anew.
    case.server.trouble(None);
    fs::write(case.incomplete(), vec![7; 1000]).unwrap();
    assert!(case.failure().starts_with("SHA-256"));
    case.pull().unwrap();

    let case = Case::new();
    case.server.trouble(Some(Trouble::TooMany));
    let text = case.failure();
    assert!(text.contains("expected 300000 bytes, found more from the server"), "{text}");
    assert!(!case.blob().exists());
}

#[test]
fn what_the_server_refuses_is_explained() {
    let case = Case::new();
    let pull_of = |name: &str, endpoint: &str| {
        pull(&Hub::at(endpoint, None), &case.cache(), &ModelName::parse(name).unwrap(), &mut |_| ())
            .unwrap_err()
            .to_string()
    };
    let text = pull_of("org/other", &case.server.endpoint());
    assert!(text.contains("the server says 404") && text.contains("no such file or model as org/other"), "{text}");
    let text = pull_of("org/name:q4", &case.server.endpoint());
    assert!(text.starts_with("file q4 in org/name is missing") && text.contains("m.gguf"), "{text}");
    let text = pull_of("org/name", "http://127.0.0.1:1");
    assert!(text.starts_with("cannot fetch http://127.0.0.1:1/api/models/org/name/revision/main: "), "{text}");
    case.server.set(|state| state.files.push(("../../evil".into(), vec![1; 5000])));
    let text = pull_of("org/name", &case.server.endpoint());
    assert!(text.contains("expected paths inside the repository, found ../../evil"), "{text}");
}

#[test]
fn two_downloads_of_one_file_do_not_write_into_each_other() {
    let case = Case::new();
    fs::create_dir_all(case.repo().join("blobs")).unwrap();
    let held = fs::File::create(case.incomplete()).unwrap();
    held.lock().unwrap();
    assert!(case.failure().contains("another program is fetching it now"));
    drop(held);
    case.pull().unwrap();
}

/// The program with this cache and server, and no settings of whoever runs the tests.
fn hub_command(cache: &Path, server: &Server, args: &[&str]) -> Command {
    let mut command = program(args);
    for name in ["HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "HF_ENDPOINT"] {
        command.env_remove(name);
    }
    for name in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_DISABLE_IMPLICIT_TOKEN"] {
        command.env_remove(name);
    }
    for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
        command.env_remove(name).env_remove(name.to_uppercase());
    }
    for name in ["SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"] {
        command.env_remove(name);
    }
    command.env("HF_HUB_CACHE", cache).env("HF_ENDPOINT", server.endpoint());
    command.env("HF_HOME", cache.join("home"));
    command
}

fn with_hub(case: &Case, args: &[&str], more: &[(&str, &str)]) -> Finished {
    let mut command = hub_command(case.folder.path(), &case.server, args);
    command.envs(more.iter().copied());
    command.output().unwrap().into()
}

#[test]
fn a_model_is_pulled_and_run_by_its_name() {
    let model = fs::read(BUILT_IN).unwrap();
    let server = Server::start(&[("stories-i2_s.gguf", &model), ("stories-f16.gguf", &[1; 2000])]);
    let case = Case { server, folder: TempDir::new().unwrap(), bytes: model };
    let name = "org/name:i2_s";

    let absent = with_hub(&case, &["run", name, "The dog"], &[("HF_HUB_OFFLINE", "1")]);
    assert!(absent.one_line_error(1).contains("bitnet-gpu pull org/name:i2_s"), "{absent:?}");
    let offline = with_hub(&case, &["pull", name], &[("HF_HUB_OFFLINE", "1")]);
    assert!(offline.one_line_error(1).contains("HF_HUB_OFFLINE"), "{offline:?}");
    assert!(case.server.requests().is_empty(), "offline means no request");
    let ambiguous = with_hub(&case, &["pull", "org/name"], &[]);
    assert!(ambiguous.one_line_error(2).contains("org/name:FILE: stories-i2_s.gguf, stories-f16.gguf"));
    assert!(with_hub(&case, &["pull", "name"], &[]).one_line_error(2).contains("org/name or org/name:file"));

    let pulled = with_hub(&case, &["pull", name], &[]);
    assert_eq!(pulled.code, Some(0), "{pulled:?}");
    let path = pulled.stdout.trim_end();
    assert!(path.ends_with(&format!("snapshots/{COMMIT}/stories-i2_s.gguf")), "{path}");
    assert!(pulled.stderr.contains("1 file, 1.8 MiB fetched"), "{}", pulled.stderr);
    let again = with_hub(&case, &["pull", name, "--json"], &[("HF_HUB_OFFLINE", "on")]).json();
    assert_eq!((again["path"].as_str(), again["fetched_bytes"].as_u64()), (Some(path), Some(0)));

    case.server.requests();
    let more = ["-n", "6", "--temp", "0", "--backend", "cpu", "--json"];
    let text = |args: &[&str]| with_hub(&case, &[&["run"], args, &more].concat(), &[]).json()["text"].clone();
    let expected = text(&["-p", "The dog"]);
    for args in
        [&[name, "The dog"][..], &["-m", name, "The dog"], &["-m", name, "-p", "The dog"], &[name, "-p", "The dog"]]
    {
        assert_eq!(text(args), expected, "{args:?}");
    }
    let inspected = with_hub(&case, &["inspect", name, "--json"], &[]).json();
    assert_eq!(inspected["runs"], true);
    assert!(case.server.requests().is_empty(), "what is here is not asked for");
}

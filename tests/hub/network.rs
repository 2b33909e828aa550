//! The way to the Hub: proxies, certificates, redirects, tokens, and refusals.

use std::fs;

use bitnet_gpu::hub::{Hub, ModelName, pull};
use tempfile::TempDir;

use super::{
    Case,
    common::cli::Finished,
    noise,
    server::{Server, start_proxy},
    with_hub,
};

const AUTHORITY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/hub/tls/authority.pem");

fn pulled(case: &Case, more: &[(&str, &str)]) -> Finished {
    with_hub(case, &["pull", "org/name"], more)
}

#[track_caller]
fn assert_pulled(done: &Finished) {
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.stdout.ends_with("m.gguf\n"), "{done:?}");
}

#[test]
fn requests_go_through_the_proxy_of_their_scheme() {
    let (case, (port, asked)) = (Case::new(), start_proxy());
    let proxy = format!("http://me:secret@127.0.0.1:{port}");
    let done = pulled(&case, &[("HTTP_PROXY", &proxy), ("ALL_PROXY", "socks5://127.0.0.1:1")]);
    assert_pulled(&done);
    assert!(!done.stderr.contains("warning"), "{done:?}");
    let (hub, host) = (format!("127.0.0.1:{}", case.server.port), format!("localhost:{}", case.server.port));
    let asked = asked.lock().unwrap().clone();
    assert!(asked.contains(&hub) && asked.contains(&host), "{asked:?}");
}

#[test]
fn a_proxy_is_never_gone_around() {
    let case = Case::new();
    let socks = pulled(&case, &[("ALL_PROXY", "socks5h://127.0.0.1:1")]);
    let line = socks.one_line_error(1);
    assert!(line.contains("the proxy socks5h://127.0.0.1:1 (ALL_PROXY)"), "{line}");
    let dead = pulled(&case, &[("http_proxy", "http://me:secret@127.0.0.1:1")]);
    let line = dead.one_line_error(1);
    assert!(line.contains("through the proxy http://127.0.0.1:1 (http_proxy)") && !line.contains("secret"), "{line}");
    assert!(case.server.requests().is_empty());
    // Unless the host is exempt.
    assert_pulled(&pulled(&case, &[("ALL_PROXY", "socks5h://127.0.0.1:1"), ("NO_PROXY", "localhost,127.0.0.1")]));
}

#[test]
fn certificate_authorities_are_named_by_variables() {
    let server = Server::start_with_tls(&[("m.gguf", &noise(500))]);
    let case = Case { server, folder: TempDir::new().unwrap(), bytes: Vec::new() };
    let endpoint = case.server.endpoint().replace("http:", "https:");
    let stranger = pulled(&case, &[("HF_ENDPOINT", &endpoint)]);
    let line = stranger.one_line_error(1);
    assert!(line.contains("certificate") && line.contains("SSL_CERT_FILE"), "{line}");
    for variable in ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"] {
        assert_pulled(&pulled(&case, &[("HF_ENDPOINT", &endpoint), (variable, AUTHORITY)]));
        fs::remove_dir_all(case.repo()).unwrap();
    }
    let absent = pulled(&case, &[("HF_ENDPOINT", &endpoint), ("SSL_CERT_FILE", "/no/such/file")]);
    assert!(absent.one_line_error(1).contains("SSL_CERT_FILE (/no/such/file)"), "{absent:?}");
}

#[test]
fn a_mirror_may_have_a_path_and_lead_to_another_host() {
    let case = Case::new();
    case.server.set(|state| state.prefix = "/hub".into());
    let endpoint = format!("{}/hub/", case.server.endpoint());
    assert_pulled(&pulled(&case, &[("HF_ENDPOINT", &endpoint)]));
    // Small files lie behind a redirect to a path of the host, which has the prefix already.
    let small = Server::start(&[("m.gguf", &noise(500))]);
    small.set(|state| state.prefix = "/hub".into());
    let endpoint = format!("{}/hub", small.endpoint());
    fs::remove_dir_all(case.repo()).unwrap();
    assert_pulled(&pulled(&case, &[("HF_ENDPOINT", &endpoint)]));

    let (case, mirror) = (Case::new(), Server::start(&[]));
    mirror.set(|state| state.moved_to = Some(case.server.endpoint()));
    assert_pulled(&pulled(&case, &[("HF_ENDPOINT", &mirror.endpoint()), ("HF_TOKEN", "hf_good")]));
    let has_token = |server: &Server| server.requests().iter().any(|r| r.headers.contains_key("authorization"));
    assert!(has_token(&mirror) && !has_token(&case.server), "another server does not see the token");
}

#[test]
fn the_token_stays_with_its_host_when_a_model_was_renamed() {
    let case = Case::new();
    case.server.set(|state| state.token = Some("hf_good".into()));
    let refused = with_hub(&case, &["pull", "org/old"], &[]);
    let line = refused.one_line_error(1);
    assert!(line.contains("401") && line.ends_with("it says: Invalid username or password."), "{line}");
    assert_eq!(case.server.requests().len(), 1, "it would be refused again");
    let done = with_hub(&case, &["pull", "org/old"], &[("HF_TOKEN", " hf_good\n")]);
    assert_eq!(done.code, Some(0), "{done:?}");
    // As `hf auth login` leaves it.
    let home = case.folder.path().join("home");
    fs::create_dir_all(&home).unwrap();
    fs::write(home.join("token"), "hf_good\n").unwrap();
    assert_pulled(&pulled(&case, &[]));
    assert!(pulled(&case, &[("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]).one_line_error(1).contains("401"));
}

#[test]
fn look_ups_are_tried_again_where_that_may_help() {
    let look = |refusals: &[(u16, Option<&str>)]| {
        let case = Case::new();
        let answers = refusals.iter().rev().map(|&(status, wait)| {
            (status, wait.map(|wait| ("Retry-After", wait.to_owned())).into_iter().collect(), "busy")
        });
        case.server.set(|state| state.refusals = answers.collect());
        let name = ModelName::parse("org/name").unwrap();
        let hub = Hub::at(&case.server.endpoint(), None);
        let result = pull(&hub, &case.cache(), &name, &mut |_| ()).map(|pulled| pulled.files);
        (result.map_err(|error| error.to_string()), case.server.requests().len())
    };
    // A list, facts, and two for the contents.
    assert_eq!(look(&[]), (Ok(1), 4));
    assert_eq!(look(&[(503, None), (429, Some("0"))]), (Ok(1), 6));
    for status in [401, 403, 404] {
        let (result, asked) = look(&[(status, None)]);
        assert_eq!(asked, 1, "{status}: {result:?}");
    }
    let (result, asked) = look(&[(429, Some("3600"))]);
    let text = result.unwrap_err();
    assert!(text.contains("wait a little (it asks for 3600 s)") && asked == 1, "{text}");
    let (result, asked) = look(&[(503, Some("0")), (503, Some("0")), (503, Some("0")), (503, Some("0"))]);
    assert!(result.unwrap_err().contains("the server says 503") && asked == 4);
}

#[test]
fn the_words_of_the_hub_are_shown() {
    let case = Case::new();
    let gated = "Access to model org/name is restricted. You must have access to it and be authenticated.";
    let refusal = || {
        let headers = vec![("X-Error-Code", "GatedRepo".to_owned()), ("X-Error-Message", gated.to_owned())];
        vec![(403, headers, "{\"error\": \"other words\"}")]
    };
    case.server.set(|state| state.refusals = refusal());
    let line = pulled(&case, &[("HF_TOKEN", "hf_x")]).one_line_error(1).to_owned();
    assert!(line.contains("ask for access at http://") && line.ends_with(gated), "{line}");
    case.server.set(|state| state.refusals = vec![(404, Vec::new(), "{\"error\": \"Repository\\n not found\"}")]);
    let line = pulled(&case, &[]).one_line_error(1).to_owned();
    assert!(line.ends_with("no such file or model as org/name; it says: Repository\\n not found"), "{line}");
    case.server.set(|state| state.refusals = vec![(200, Vec::new(), " <html>Log in to WiFi</html>")]);
    let line = pulled(&case, &[]).one_line_error(1).to_owned();
    assert!(line.contains("a web page (does this network ask to log in?)"), "{line}");
}

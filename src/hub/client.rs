//! Requests to the Hub. What comes back is checked like any file: names stay inside the repository, hashes are hashes.

use std::{io::Read, time::Duration};

use serde::Deserialize;
use ureq::{
    Body,
    http::{HeaderMap, Method, Request, Response, Uri},
};

use super::{
    name::{ModelName, is_plain_path, is_word},
    network::{Network, variable},
    redirect,
    retry::{Again, Failure, LONGEST, retried},
    token,
};
use crate::error::{Error, Result, shown};

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// The longest list of files that is read.
const MAX_LIST_BYTES: u64 = 64 << 20;

/// The longest explanation of a refusal that is read.
const MAX_WORDS_BYTES: u64 = 64 << 10;

/// Redirects that are followed; the Hub needs one, a mirror and a renamed repository one each.
const MAX_REDIRECTS: usize = 5;

/// Stands beside a redirect to a large file: the tag of the contents.
const LINKED_ETAG: &str = "x-linked-etag";

/// A server that speaks the Hub's language, and who asks.
#[derive(Debug)]
pub struct Hub {
    endpoint: String,
    token: Option<String>,
    network: Network,
}

/// The files of a repository at a commit.
#[derive(Debug)]
pub(super) struct Listing {
    pub commit: String,
    pub files: Vec<String>,
}

/// Facts about a file from the Hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileFacts {
    /// Names its contents: the SHA-256 of large files, the Git hash of small ones.
    pub etag: String,
    pub bytes: Option<u64>,
}

impl FileFacts {
    /// The SHA-256, where the tag is one.
    pub fn sha256(&self) -> Option<&str> {
        (self.etag.len() == 64 && self.etag.bytes().all(|b| b.is_ascii_hexdigit())).then_some(self.etag.as_str())
    }
}

impl Hub {
    /// As the user's environment says: `HF_ENDPOINT`, the token (`HF_TOKEN`, or what `hf auth login` keeps), proxies
    /// (`HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`) and certificate authorities (`SSL_CERT_FILE`, else the system's).
    ///
    /// # Errors
    /// If a variable cannot be followed.
    pub fn of_user() -> Result<Self> {
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.into());
        Ok(Self { network: Network::of_user()?, ..Self::at(&endpoint, token::of_user()?) })
    }

    /// A server by its address, without a proxy; trusts the program's list of certificate authorities.
    pub fn at(endpoint: &str, token: Option<String>) -> Self {
        Self { endpoint: endpoint.trim().trim_end_matches('/').to_owned(), token, network: Network::direct() }
    }

    /// The files of the main branch.
    pub(super) fn list(&self, name: &ModelName) -> Result<Listing> {
        #[derive(Deserialize)]
        struct Info {
            sha: String,
            siblings: Vec<Sibling>,
        }
        #[derive(Deserialize)]
        struct Sibling {
            rfilename: String,
        }
        let url = format!("{}/api/models/{}/revision/main", self.endpoint, name.repo());
        let (url, text) = retried(|| {
            let (url, response) = self.ask(Method::GET, &url, &[], None)?;
            let mut response = self.accepted(&url, name, response)?;
            let mut text = Vec::new();
            let body = response.body_mut().as_reader().take(MAX_LIST_BYTES).read_to_end(&mut text);
            body.map_err(|e| Failure { error: failed(&url, e), again: Again::Soon })?;
            Ok((url, text))
        })?;
        let wrong = |expected: &str, found: &str| Error::malformed(url.clone(), expected, shown(found));
        if text.trim_ascii_start().starts_with(b"<") {
            return Err(wrong("the Hub's description of a model", "a web page (does this network ask to log in?)"));
        }
        let info: Info =
            serde_json::from_slice(&text).map_err(|e| wrong("the Hub's description of a model", &e.to_string()))?;
        if !is_word(&info.sha) {
            return Err(wrong("a commit", &info.sha));
        }
        let files: Vec<String> = info.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
        if let Some(bad) = files.iter().find(|file| !is_plain_path(file)) {
            return Err(wrong("paths inside the repository", bad));
        }
        Ok(Listing { commit: info.sha, files })
    }

    fn url(&self, name: &ModelName, commit: &str, file: &str) -> String {
        format!("{}/{}/resolve/{commit}/{}", self.endpoint, name.repo(), escaped(file))
    }

    /// Looks a file up without fetching it. Large files lie elsewhere: what is said about them stands beside the
    /// redirect, which is not followed.
    pub(super) fn facts(&self, name: &ModelName, commit: &str, file: &str) -> Result<FileFacts> {
        let url = self.url(name, commit, file);
        retried(|| {
            let (url, response) = self.ask(Method::HEAD, &url, &[], Some(LINKED_ETAG))?;
            if let Some(etag) = text(response.headers(), LINKED_ETAG) {
                return Ok(facts(&url, &etag, text(response.headers(), "x-linked-size"))?);
            }
            let response = self.accepted(&url, name, response)?;
            let etag = text(response.headers(), "etag");
            let etag = etag.ok_or_else(|| Error::malformed(url.clone(), "an ETag", "none"))?;
            Ok(facts(&url, &etag, text(response.headers(), "content-length"))?)
        })
    }

    /// Begins to fetch a file from byte `start` on; gives where the answer begins, which may be 0 all the same.
    /// `None` when the server has nothing from there on.
    pub(super) fn fetch(
        &self,
        name: &ModelName,
        commit: &str,
        file: &str,
        start: u64,
    ) -> Result<Option<(u64, impl Read)>, Failure> {
        let range = (start > 0).then(|| ("Range", format!("bytes={start}-")));
        let (url, response) = self.ask(Method::GET, &self.url(name, commit, file), range.as_slice(), None)?;
        if response.status() == 416 && start > 0 {
            return Ok(None);
        }
        let response = self.accepted(&url, name, response)?;
        let begins = if response.status() == 206 {
            let range = text(response.headers(), "content-range").unwrap_or_default();
            let begins = range.strip_prefix("bytes ").and_then(|rest| rest.split('-').next()?.parse::<u64>().ok());
            match begins {
                Some(begins) if begins == start => begins,
                _ => return Err(Error::malformed(url, format!("the bytes from {start} on"), shown(&range)).into()),
            }
        } else {
            0
        };
        Ok(Some((begins, response.into_body().into_reader())))
    }

    /// The answer at the end of redirects, and its address; a redirect with the header `at` is the answer itself.
    fn ask(
        &self,
        method: Method,
        url: &str,
        headers: &[(&str, String)],
        at: Option<&str>,
    ) -> Result<(String, Response<Body>), Failure> {
        let invalid = |url: &str| Error::malformed("HF_ENDPOINT", "an address such as https://HOST", shown(url));
        let endpoint: Uri = self.endpoint.parse().map_err(|_| invalid(&self.endpoint))?;
        if !matches!(endpoint.scheme_str(), Some("http" | "https")) {
            return Err(invalid(&self.endpoint).into());
        }
        let mut to: Uri = url.parse().map_err(|_| invalid(url))?;
        for _ in 0..=MAX_REDIRECTS {
            // Contents are hashed as they are: a compressed answer would have another length.
            let mut request = Request::builder().method(&method).uri(&to).header("Accept-Encoding", "identity");
            for (name, value) in headers {
                request = request.header(*name, value);
            }
            if let Some(token) = self.token.as_ref().filter(|_| redirect::keeps_token(&endpoint, &to)) {
                request = request.header("Authorization", format!("Bearer {token}"));
            }
            let request = request.body(()).map_err(|e| failed(&to.to_string(), e))?;
            let response = self.send(&to, request)?;
            let location = response.status().is_redirection().then(|| text(response.headers(), "location")).flatten();
            let Some(location) = location.filter(|_| at.is_none_or(|at| !response.headers().contains_key(at))) else {
                return Ok((to.to_string(), response));
            };
            let next = redirect::target(&to, &location);
            to = next
                .ok_or_else(|| Error::malformed(to.to_string(), "a redirect that may be followed", shown(&location)))?;
        }
        Err(Error::malformed(url, format!("at most {MAX_REDIRECTS} redirects"), "more").into())
    }

    /// One request, through the proxy of its address.
    fn send(&self, to: &Uri, request: Request<()>) -> Result<Response<Body>, Failure> {
        let proxy = self.network.proxy(to)?;
        let (proxy, setting) = proxy.map_or((None, None), |(proxy, setting)| (Some(proxy), Some(setting)));
        let agent = &self.network.agent;
        let request = agent.configure_request(request).proxy(proxy).build();
        agent.run(request).map_err(|error| {
            let through = setting.map(|setting| format!("through {setting}: ")).unwrap_or_default();
            let trust = match &error {
                ureq::Error::Rustls(_) | ureq::Error::Tls(_) | ureq::Error::Io(_) if is_distrust(&error) => {
                    "; SSL_CERT_FILE names a file of certificates to trust"
                }
                _ => "",
            };
            Failure { again: again(&error), error: failed(&to.to_string(), format!("{through}{error}{trust}")) }
        })
    }

    /// The answer where it is none of refusal.
    fn accepted(&self, url: &str, name: &ModelName, mut response: Response<Body>) -> Result<Response<Body>, Failure> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let is_gated = text(response.headers(), "x-error-code").as_deref() == Some("GatedRepo");
        let repo = name.repo();
        let hint = match status.as_u16() {
            401 | 403 if is_gated && self.token.is_some() => format!(": ask for access at {}/{repo}", self.endpoint),
            401 | 403 if self.token.is_some() => {
                format!(": {repo} is not open to this HF_TOKEN, or there is no such model")
            }
            401 | 403 => format!(": {repo} is private or gated (HF_TOKEN gives access), or there is no such model"),
            404 => format!(": there is no such file or model as {name}"),
            429 => ": too many requests; wait a little".to_owned(),
            _ => String::new(),
        };
        let wait = text(response.headers(), "retry-after").and_then(|wait| wait.trim().parse().ok());
        let again = match (status.as_u16(), wait.map(Duration::from_secs)) {
            (408 | 429 | 500 | 502..=504, Some(wait)) => Again::After(wait),
            (408 | 429 | 500 | 502..=504, None) => Again::Soon,
            _ => Again::Never,
        };
        let wait = match again {
            Again::After(wait) if wait > LONGEST => format!(" (it asks for {} s)", wait.as_secs()),
            _ => String::new(),
        };
        let words = words(&mut response).map(|words| format!("; it says: {words}")).unwrap_or_default();
        Err(Failure { error: failed(url, format!("the server says {status}{hint}{wait}{words}")), again })
    }
}

/// Whether it may help to send the request again: not where nobody listens, nor where the certificate is not trusted.
fn again(error: &ureq::Error) -> Again {
    match error {
        ureq::Error::Io(io) if io.kind() == std::io::ErrorKind::ConnectionRefused || is_distrust(error) => Again::Never,
        ureq::Error::Io(_) | ureq::Error::ConnectionFailed | ureq::Error::Protocol(_) => Again::Soon,
        _ => Again::Never,
    }
}

fn is_distrust(error: &ureq::Error) -> bool {
    error.to_string().contains("certificate")
}

/// The Hub's own explanation of a refusal, in a line.
fn words(response: &mut Response<Body>) -> Option<String> {
    #[derive(Deserialize)]
    struct Refusal {
        error: String,
    }
    let said = text(response.headers(), "x-error-message").or_else(|| {
        let mut body = Vec::new();
        response.body_mut().as_reader().take(MAX_WORDS_BYTES).read_to_end(&mut body).ok()?;
        serde_json::from_slice(&body).ok().map(|Refusal { error }| error)
    })?;
    const MAX_CHARS: usize = 300;
    let line: String = said.chars().take(MAX_CHARS).flat_map(char::escape_debug).collect();
    let line = line.replace("\\'", "'").replace("\\\"", "\"");
    (!line.is_empty()).then_some(line)
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// The tag becomes the name of a file.
fn facts(url: &str, etag: &str, bytes: Option<String>) -> Result<FileFacts> {
    let tag = etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"');
    if !is_word(tag) {
        return Err(Error::malformed(url, "an ETag of letters and digits", shown(etag)));
    }
    Ok(FileFacts { etag: tag.to_owned(), bytes: bytes.and_then(|bytes| bytes.parse().ok()) })
}

pub(super) fn failed(url: &str, reason: impl ToString) -> Error {
    Error::Download { url: url.to_owned(), reason: reason.to_string() }
}

/// A path for a URL; slashes stay.
fn escaped(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => out.push(byte.into()),
            _ => out += &format!("%{byte:02X}"),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_become_names_of_files_only_if_they_are_harmless() {
        let sha = "0123456789abcdef".repeat(4);
        let found = facts("u", &format!("\"{sha}\""), Some("5".into())).unwrap();
        assert_eq!((found.sha256(), found.bytes), (Some(sha.as_str()), Some(5)));
        let weak = facts("u", "W/\"abc\"", None).unwrap();
        assert_eq!((weak.etag.as_str(), weak.sha256()), ("abc", None));
        for bad in ["\"../x\"", "\"a/b\"", "", "\"\"", "a\\b"] {
            assert!(facts("u", bad, None).is_err(), "{bad}");
        }
    }

    #[test]
    fn paths_are_escaped_for_urls() {
        assert_eq!(escaped("a b/ü#1.gguf"), "a%20b/%C3%BC%231.gguf");
    }
}

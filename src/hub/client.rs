//! Requests to the Hub. What comes back is checked like any file: names stay inside the repository, hashes are hashes.

use std::{env, io::Read, time::Duration};

use serde::Deserialize;
use ureq::{
    Agent, Body,
    http::{HeaderMap, Response},
};

use super::name::{ModelName, is_plain_path, is_word};
use crate::error::{Error, Result, shown};

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// A server that says nothing for so long is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// The longest list of files that is read.
const MAX_LIST_BYTES: u64 = 64 << 20;

/// Redirects of a look-up that are followed; the Hub needs one.
const MAX_REDIRECTS: usize = 5;

/// A server that speaks the Hub's language, and who asks.
#[derive(Debug)]
pub struct Hub {
    endpoint: String,
    token: Option<String>,
    /// Follows redirects.
    follow: Agent,
    /// Shows them.
    look: Agent,
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
    /// As `HF_ENDPOINT` and `HF_TOKEN` say.
    pub fn of_user() -> Self {
        let set = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        Self::at(&set("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.into()), set("HF_TOKEN"))
    }

    /// A server by its address.
    pub fn at(endpoint: &str, token: Option<String>) -> Self {
        let config = || {
            Agent::config_builder()
                .http_status_as_error(false)
                .timeout_connect(Some(PATIENCE))
                .timeout_recv_response(Some(PATIENCE))
                .timeout_per_read(Some(PATIENCE))
                .user_agent(concat!("bitnet-gpu/", env!("CARGO_PKG_VERSION")))
        };
        Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token,
            follow: config().build().into(),
            look: config().max_redirects(0).max_redirects_will_error(false).build().into(),
        }
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
        let response = self.follow.get(&url);
        let response = self.signed(response).call().map_err(|e| failed(&url, e))?;
        check_status(&url, name, &response, self.token.is_some())?;
        let mut text = Vec::new();
        let body = response.into_body().into_reader().take(MAX_LIST_BYTES).read_to_end(&mut text);
        body.map_err(|e| failed(&url, e))?;
        let wrong = |expected: &str, found: &str| Error::malformed(url.clone(), expected, shown(found));
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
        let mut url = self.url(name, commit, file);
        for _ in 0..=MAX_REDIRECTS {
            let response = self.look.head(&url).header("Accept-Encoding", "identity");
            let response = self.signed(response).call().map_err(|e| failed(&url, e))?;
            let headers = response.headers();
            let redirect = response.status().is_redirection().then(|| text(headers, "location")).flatten();
            if let Some(etag) = text(headers, "x-linked-etag") {
                return facts(&url, &etag, text(headers, "x-linked-size"));
            }
            match redirect {
                // Within the same server, as of a repository that was renamed.
                Some(to) if to.starts_with('/') && !to.starts_with("//") => url = format!("{}{to}", self.endpoint),
                Some(to) => return Err(Error::malformed(url, "a tag beside the redirect", shown(&to))),
                None => {
                    check_status(&url, name, &response, self.token.is_some())?;
                    let etag = text(headers, "etag");
                    let etag = etag.ok_or_else(|| Error::malformed(url.clone(), "an ETag", "none"))?;
                    return facts(&url, &etag, text(headers, "content-length"));
                }
            }
        }
        Err(Error::malformed(url, format!("at most {MAX_REDIRECTS} redirects"), "more"))
    }

    /// Begins to fetch a file from byte `start` on; gives where the answer begins, which may be 0 all the same.
    /// `None` when the server has nothing from there on.
    pub(super) fn fetch(
        &self,
        name: &ModelName,
        commit: &str,
        file: &str,
        start: u64,
    ) -> Result<Option<(u64, impl Read)>> {
        let url = self.url(name, commit, file);
        let mut request = self.signed(self.follow.get(&url)).header("Accept-Encoding", "identity");
        if start > 0 {
            request = request.header("Range", format!("bytes={start}-"));
        }
        let response = request.call().map_err(|e| failed(&url, e))?;
        if response.status() == 416 && start > 0 {
            return Ok(None);
        }
        check_status(&url, name, &response, self.token.is_some())?;
        let begins = if response.status() == 206 {
            let range = text(response.headers(), "content-range").unwrap_or_default();
            let begins = range.strip_prefix("bytes ").and_then(|rest| rest.split('-').next()?.parse::<u64>().ok());
            match begins {
                Some(begins) if begins == start => begins,
                _ => return Err(Error::malformed(url, format!("the bytes from {start} on"), shown(&range))),
            }
        } else {
            0
        };
        Ok(Some((begins, response.into_body().into_reader())))
    }

    fn signed(
        &self,
        request: ureq::RequestBuilder<ureq::typestate::WithoutBody>,
    ) -> ureq::RequestBuilder<ureq::typestate::WithoutBody> {
        match &self.token {
            Some(token) => request.header("Authorization", format!("Bearer {token}")),
            None => request,
        }
    }
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

fn check_status(url: &str, name: &ModelName, response: &Response<Body>, has_token: bool) -> Result<()> {
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    let hint = match status.as_u16() {
        401 | 403 if has_token => format!(": {} is not open to this HF_TOKEN, or there is no such model", name.repo()),
        401 | 403 => {
            format!(": {} is private or gated (HF_TOKEN gives access), or there is no such model", name.repo())
        }
        404 => format!(": there is no such file or model as {name}"),
        429 => ": too many requests; wait a little".to_owned(),
        _ => String::new(),
    };
    Err(failed(url, format!("the server says {status}{hint}")))
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

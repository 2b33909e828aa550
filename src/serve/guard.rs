//! In front of all routes: who may ask, from which page, under which name; and how errors are counted.

use std::sync::Arc;

use axum::{
    body::{Body, HttpBody},
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{
    ServeOptions,
    app::App,
    error::{ApiError, ErrorForm},
    listener::{Way, is_socket},
    page,
};

/// Routes that need no key.
const PUBLIC: [&str; 2] = ["/health", "/v1/health"];

/// Methods that a page may ask with; the list is llama.cpp's, though no route here takes DELETE.
const METHODS: &str = "GET, POST, DELETE, OPTIONS";

/// Schemes of origins that are pages of the web.
const WEB: [&str; 2] = ["http", "https"];

/// Answers what needs no route, and passes on what may.
pub async fn check(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let origin = request.headers().get(header::ORIGIN).cloned();
    let allowed = origin.filter(|origin| origin_may(&app.options, origin));
    let asked = request.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut response = match refuse(&app.options, &request) {
        Some(error) => error.into_response(),
        None if method == Method::OPTIONS => StatusCode::OK.into_response(),
        None if !app.models.is_ready() && !page::has(&app.options, &path) => ApiError::loading().into_response(),
        None => next.run(request).await,
    };
    response = ErrorForm::of_path(&path).apply(response);
    if method == Method::HEAD {
        // The length is that of the body which is not sent.
        if let Some(length) = response.body().size_hint().exact() {
            response.headers_mut().entry(header::CONTENT_LENGTH).or_insert(length.into());
        }
        *response.body_mut() = Body::empty();
    }
    if let Some(origin) = allowed {
        allow(response.headers_mut(), origin, asked);
    }
    let status = response.status().as_u16();
    if status >= 400 {
        app.metrics.error(status);
        app.log.request(&format!("{method} {} {status}", path.escape_debug()));
    }
    response
}

fn refuse(options: &ServeOptions, request: &Request) -> Option<ApiError> {
    let headers = request.headers();
    let is_by_socket = request.extensions().get() == Some(&Way::Socket);
    if is_open_at_home(options) && !is_by_socket && !host_may(headers) {
        return Some(ApiError::forbidden("requests to this server must be for localhost or for an address"));
    }
    let is_action = ![Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method());
    if is_action && headers.get_all(header::ORIGIN).iter().any(|origin| !page_may(options, headers, origin)) {
        let message = "this server takes no requests from pages of this origin. Start it with `--cors-origins`";
        return Some(ApiError::forbidden(message));
    }
    let is_public = request.method() == Method::OPTIONS
        || PUBLIC.contains(&request.uri().path())
        || page::has(options, request.uri().path());
    let has_key = options.keys.is_empty() || is_public || shown_keys(headers).any(|key| is_key(options, key));
    (!has_key).then(ApiError::unauthorized)
}

/// Without a key, for this machine alone: any web page could reach it through a name that its owner points here.
fn is_open_at_home(options: &ServeOptions) -> bool {
    let at_home = |host: &String| {
        let name = host.trim_matches(['[', ']']);
        name == "localhost" || is_socket(name) || name.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
    };
    options.keys.is_empty() && options.hosts.iter().all(at_home)
}

/// Whether a page of `origin` may ask for more than to read: browsers send much without asking first.
fn page_may(options: &ServeOptions, headers: &HeaderMap, origin: &HeaderValue) -> bool {
    origin_may(options, origin) || is_own(headers, origin) || is_program(origin)
}

/// Whether a page of `origin` came from the host that the request is for.
fn is_own(headers: &HeaderMap, origin: &HeaderValue) -> bool {
    // Behind a proxy the host may be another one. No page can set this header itself.
    if headers.get("sec-fetch-site").is_some_and(|site| site == "same-origin") {
        return true;
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let of_page = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    of_page
        .is_some_and(|(scheme, name)| WEB.contains(&scheme) && host.is_some_and(|host| host.eq_ignore_ascii_case(name)))
}

/// Whether `origin` is that of a program or an extension of a browser (`tauri://`, `app://`), which somebody installed.
fn is_program(origin: &HeaderValue) -> bool {
    let scheme = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(scheme, _)| scheme);
    scheme.is_some_and(|scheme| !scheme.is_empty() && !WEB.iter().any(|web| web.eq_ignore_ascii_case(scheme)))
}

fn host_may(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST) else { return true };
    host.to_str().is_ok_and(|host| {
        let name = without_port(host);
        is_home(name) || name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok()
    })
}

/// A name of this machine that nobody else can give to another.
fn is_home(name: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost") || name == "127.0.0.1" || name == "[::1]"
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|b| b.is_ascii_digit()) && (!name.contains(':') || name.ends_with(']')) =>
        {
            name
        }
        _ => host,
    }
}

fn shown_keys(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = text(header::AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
    });
    bearer.into_iter().chain(text(HeaderName::from_static("x-api-key")))
}

/// In a time that does not tell how much of it was right.
fn is_key(options: &ServeOptions, shown: &str) -> bool {
    options.keys.iter().fold(false, |any, key| any | equal(key.as_bytes(), shown.as_bytes()))
}

fn equal(a: &[u8], b: &[u8]) -> bool {
    let different = a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b));
    std::hint::black_box(different) == 0 && a.len() == b.len()
}

/// Whether a page of `origin` may read the answers.
fn origin_may(options: &ServeOptions, origin: &HeaderValue) -> bool {
    let Ok(origin) = origin.to_str() else { return false };
    if options.cors_origins.is_empty() {
        // A key is as good as a list: a page without it gets nothing.
        let host = origin.split_once("://").map(|(_, host)| without_port(host));
        return !options.keys.is_empty() || host.is_some_and(is_home);
    }
    options.cors_origins.iter().any(|allowed| match allowed.as_str() {
        "*" => true,
        "localhost" => origin.split_once("://").is_some_and(|(_, host)| is_home(without_port(host))),
        exactly => exactly.eq_ignore_ascii_case(origin),
    })
}

fn allow(headers: &mut HeaderMap, origin: HeaderValue, asked: Option<HeaderValue>) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS));
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked.unwrap_or(HeaderValue::from_static("*")));
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_this_machine_and_addresses_pass() {
        let may = |host: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static(host));
            host_may(&headers)
        };
        for host in
            ["localhost", "LOCALHOST:8080", "a.localhost:1", "127.0.0.1:8080", "[::1]:80", "[::1]", "192.168.1.5:1"]
        {
            assert!(may(host), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example:8080", "127.0.0.1.nip.io"] {
            assert!(!may(host), "{host}");
        }
    }

    #[test]
    fn pages_of_this_machine_may_and_others_on_request() {
        let may = |options: &ServeOptions, origin| origin_may(options, &HeaderValue::from_static(origin));
        let plain = ServeOptions::default();
        assert!(may(&plain, "http://localhost:3000") && may(&plain, "https://[::1]:1"));
        assert!(!may(&plain, "http://evil.example") && !may(&plain, "null"));
        let listed = ServeOptions { cors_origins: vec!["https://a.example".into()], ..ServeOptions::default() };
        assert!(may(&listed, "https://a.example") && !may(&listed, "http://localhost:3000"));
        let keyed = ServeOptions { keys: vec!["k".into()], ..ServeOptions::default() };
        assert!(may(&keyed, "https://b.example"));
    }

    #[test]
    fn pages_of_the_server_itself_may_act() {
        let may = |origin: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static("192.168.1.5:8080"));
            page_may(&ServeOptions::default(), &headers, &HeaderValue::from_static(origin))
        };
        let own = ["http://192.168.1.5:8080", "https://192.168.1.5:8080", "http://localhost:3000", "tauri://localhost"];
        for origin in own {
            assert!(may(origin), "{origin}");
        }
        let mut proxied = HeaderMap::new();
        proxied.insert(header::HOST, HeaderValue::from_static("backend:8080"));
        let origin = HeaderValue::from_static("https://chat.example");
        assert!(!page_may(&ServeOptions::default(), &proxied, &origin));
        proxied.insert("sec-fetch-site", HeaderValue::from_static("same-origin"));
        assert!(page_may(&ServeOptions::default(), &proxied, &origin));
        for origin in ["http://192.168.1.5:3000", "http://192.168.1.5", "http://evil.example", "null", ""] {
            assert!(!may(origin), "{origin:?}");
        }
    }

    #[test]
    fn keys_are_compared_whole() {
        let options = ServeOptions { keys: vec!["one".into(), "three".into()], ..ServeOptions::default() };
        assert!(is_key(&options, "one") && is_key(&options, "three"));
        assert!(!is_key(&options, "on") && !is_key(&options, "onee") && !is_key(&options, ""));
    }
}

//! Redirects: where they lead, and who may see the token there.

use ureq::http::Uri;

/// `location` as an address, seen from `from`. `None` where it leads out of HTTP, or from HTTPS to HTTP.
pub(super) fn target(from: &Uri, location: &str) -> Option<Uri> {
    let (scheme, authority) = (from.scheme_str()?, from.authority()?);
    let address = if location.contains("://") && !location.starts_with('/') {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        let folder = from.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{location}")
    };
    // What follows a # is not sent.
    let address = address.split('#').next().unwrap_or(&address);
    let to: Uri = address.parse().ok()?;
    let allowed = match to.scheme_str()? {
        "https" => true,
        "http" => scheme == "http",
        _ => false,
    };
    (allowed && to.host().is_some()).then_some(to)
}

/// True where a token for `endpoint` may be sent to `to`: the same scheme, host and port, or the same host by HTTPS.
pub(super) fn keeps_token(endpoint: &Uri, to: &Uri) -> bool {
    let origin = |uri: &Uri| {
        let is_https = uri.scheme_str() == Some("https");
        (is_https, uri.host().map(str::to_ascii_lowercase), uri.port_u16().unwrap_or(if is_https { 443 } else { 80 }))
    };
    let (from, to) = (origin(endpoint), origin(to));
    from == to || (from.1 == to.1 && (from.0, from.2) == (false, 80) && (to.0, to.2) == (true, 443))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_where_they_say() {
        let from: Uri = "https://hub.example/prefix/a/b?x=1".parse().unwrap();
        for (location, expected) in [
            ("/prefix/c?y=2", "https://hub.example/prefix/c?y=2"),
            ("c", "https://hub.example/prefix/a/c"),
            ("//cdn.example/c", "https://cdn.example/c"),
            ("https://cdn.example:444/c?u=http://x#part", "https://cdn.example:444/c?u=http://x"),
            ("/c?u=http://x", "https://hub.example/c?u=http://x"),
        ] {
            assert_eq!(target(&from, location).map(|to| to.to_string()).as_deref(), Some(expected), "{location}");
        }
        for bad in ["http://hub.example/c", "ftp://hub.example/c", "file:///etc/passwd", "https:///x"] {
            assert_eq!(target(&from, bad), None, "{bad}");
        }
    }

    #[test]
    fn a_token_stays_with_its_host() {
        let keeps = |endpoint: &str, to: &str| keeps_token(&endpoint.parse().unwrap(), &to.parse().unwrap());
        assert!(keeps("https://hub.example/prefix", "https://HUB.example:443/other"));
        assert!(keeps("http://hub.example", "https://hub.example/x"));
        for to in ["https://cdn.hub.example", "https://hub.example:8443", "http://hub.example"] {
            assert!(!keeps("https://hub.example", to), "{to}");
        }
        assert!(!keeps("http://hub.example:8080", "https://hub.example/x"), "another server of the host");
    }
}

//! The chat page at `/`: a few files in the program, which use the same routes as every other client.

use axum::{
    Router,
    http::{HeaderName, header},
    routing::get,
};

use super::ServeOptions;

/// A file of the page.
struct PageFile {
    path: &'static str,
    content_type: &'static str,
    text: &'static str,
}

const FILES: [PageFile; 4] = [
    PageFile { path: "/", content_type: "text/html; charset=utf-8", text: include_str!("page/index.html") },
    PageFile { path: "/page.css", content_type: "text/css; charset=utf-8", text: include_str!("page/page.css") },
    PageFile { path: "/page.js", content_type: "text/javascript; charset=utf-8", text: include_str!("page/page.js") },
    PageFile {
        path: "/markdown.js",
        content_type: "text/javascript; charset=utf-8",
        text: include_str!("page/markdown.js"),
    },
];

/// Nothing from elsewhere, nothing inline: text of a model that got into the page as HTML would still be harmless.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; \
                      img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// True for the paths of the page's files, where there is a page. They hold nothing secret: they need no key and no loaded
/// model.
pub fn has(options: &ServeOptions, path: &str) -> bool {
    options.page && FILES.iter().any(|file| file.path == path)
}

/// The page's files, where there is a page.
pub fn routes<S: Clone + Send + Sync + 'static>(options: &ServeOptions) -> Router<S> {
    FILES.iter().filter(|_| options.page).fold(Router::new(), |router, file| {
        let headers: [(HeaderName, &str); 4] = [
            (header::CONTENT_TYPE, file.content_type),
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::CACHE_CONTROL, "no-cache"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        ];
        router.route(file.path, get(move || async move { (headers, file.text) }))
    })
}

//! A headless Chromium with one page, until that has posted its report.

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

/// A browser that has not answered by then hangs.
const PATIENCE: Duration = Duration::from_secs(600);

/// Ends with its owner, also by a panic.
struct Browser(Child);

impl Drop for Browser {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The report that the page posts. The page is served over HTTP, because WebGPU is for secure origins, of which the own
/// machine is one.
pub fn report_of(program: &OsStr, page: &str) -> serde_json::Value {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let profile = tempfile::tempdir().unwrap();
    let browser = Command::new(program)
        // SwiftShader, a GPU in software, is there on every machine. As root there is no sandbox.
        .args(["--headless=new", "--no-sandbox", "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"])
        .args(["--no-first-run", "--disable-extensions", "--disable-dev-shm-usage"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("http://{address}/"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let _browser = Browser(browser.unwrap_or_else(|e| panic!("{}: {e}", program.display())));
    let (sender, receiver) = mpsc::channel();
    let page = page.to_owned();
    thread::spawn(move || {
        for stream in listener.incoming() {
            // A connection that the browser opens and does not use is none of ours.
            if let Ok(Some(report)) = stream.and_then(|stream| answer(stream, &page)) {
                let _ = sender.send(report);
                return;
            }
        }
    });
    let report = receiver.recv_timeout(PATIENCE).unwrap_or_else(|e| panic!("no report from the browser: {e}"));
    serde_json::from_str(&report).unwrap()
}

/// One request: the page, or its report.
fn answer(stream: TcpStream, page: &str) -> std::io::Result<Option<String>> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut reader = BufReader::new(&stream);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? <= 2 {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let report = request.starts_with("POST /report ").then(|| String::from_utf8_lossy(&body).into_owned());
    let (status, content) = match &report {
        None if request.starts_with("GET / ") => ("200 OK", page),
        None => ("404 Not Found", ""),
        Some(_) => ("200 OK", ""),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        content.len()
    );
    (&stream).write_all(head.as_bytes())?;
    (&stream).write_all(content.as_bytes())?;
    Ok(report)
}

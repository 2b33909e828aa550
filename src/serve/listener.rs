//! Places to listen at: addresses, and on Unix sockets of the file system.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};
#[cfg(unix)]
use {
    std::{
        fs,
        os::unix::{
            fs::{FileTypeExt, MetadataExt},
            net::UnixStream,
        },
        path::{Path, PathBuf},
        time::Duration,
    },
    tokio::net::UnixListener,
};

/// How often a lock that others hold for a moment is tried, and the time between.
#[cfg(unix)]
const LOCK_TRIES: usize = 200;
#[cfg(unix)]
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Bytes to and from a client.
pub type Stream = Pin<Box<dyn Bytes>>;

/// How a client came.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Network,
    /// By a file of this machine, which no web page can open.
    Socket,
}

/// Both directions of a connection.
pub trait Bytes: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Bytes for T {}

/// True for a host that is the path of a Unix socket.
pub fn is_socket(host: &str) -> bool {
    host.ends_with(".sock")
}

/// One place to listen at.
pub enum Listener {
    Tcp(TcpListener, SocketAddr),
    /// The file goes first, while its number is still taken.
    #[cfg(unix)]
    Unix(Socket, UnixListener),
}

/// The file of a Unix socket.
#[cfg(unix)]
pub struct Socket {
    path: PathBuf,
    identity: Option<(u64, u64)>,
}

#[cfg(unix)]
impl Socket {
    fn new(path: &Path) -> Self {
        Self { path: path.into(), identity: Self::identity(path) }
    }

    /// Device and inode of what is there.
    fn identity(path: &Path) -> Option<(u64, u64)> {
        fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
    }
}

#[cfg(unix)]
impl Drop for Socket {
    fn drop(&mut self) {
        // Another server may have put its own there.
        if self.identity.is_some() && Self::identity(&self.path) == self.identity {
            // It may be gone already.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Listener {
    /// Listens on a name or address and this port, or on a Unix socket.
    pub async fn bind(host: &str, port: u16) -> io::Result<Self> {
        if is_socket(host) {
            return Self::bind_socket(host);
        }
        let listener = TcpListener::bind((host.trim_matches(['[', ']']), port)).await?;
        let address = listener.local_addr()?;
        Ok(Self::Tcp(listener, address))
    }

    #[cfg(unix)]
    fn bind_socket(path: &str) -> io::Result<Self> {
        let path = Path::new(path);
        // Of servers that begin at once, one looks and listens before the next one looks: the lock ends with this.
        let _turn = lock_folder_of(path);
        // Left behind by a process that was killed: nobody answers there.
        let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
        if is_socket && UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
            fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        Ok(Self::Unix(Socket::new(path), listener))
    }

    #[cfg(not(unix))]
    fn bind_socket(_path: &str) -> io::Result<Self> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "this system has no Unix sockets"))
    }

    /// Its port; `None` for a socket.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp(_, address) => Some(address.port()),
            #[cfg(unix)]
            Self::Unix(..) => None,
        }
    }

    /// Where it is, as a URL.
    pub fn url(&self) -> String {
        match self {
            Self::Tcp(_, address) => format!("http://{address}"),
            #[cfg(unix)]
            Self::Unix(socket, _) => format!("unix://{}", socket.path.display()),
        }
    }

    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<(Stream, Way)>> {
        match self {
            Self::Tcp(listener, _) => listener.poll_accept(context).map_ok(|(stream, _)| {
                // Tokens are small: each is to arrive at once.
                let _ = stream.set_nodelay(true);
                (Box::pin(stream) as Stream, Way::Network)
            }),
            #[cfg(unix)]
            Self::Unix(_, listener) => {
                listener.poll_accept(context).map_ok(|(stream, _)| (Box::pin(stream) as Stream, Way::Socket))
            }
        }
    }
}

/// A lock on the folder of a file; without one where the system has none, or somebody holds it for long.
#[cfg(unix)]
fn lock_folder_of(path: &Path) -> Option<fs::File> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = fs::File::open(folder).ok()?;
    for _ in 0..LOCK_TRIES {
        match folder.try_lock() {
            Ok(()) => return Some(folder),
            Err(fs::TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            Err(fs::TryLockError::Error(_)) => return None,
        }
    }
    None
}

/// The next connection at any of them.
pub async fn accept(listeners: &[Listener]) -> io::Result<(Stream, Way)> {
    poll_fn(|context| {
        let mut accepted = listeners.iter().map(|listener| listener.poll_accept(context));
        accepted.find(Poll::is_ready).unwrap_or(Poll::Pending)
    })
    .await
}

#[cfg(all(test, unix))]
mod tests {
    use std::{os::unix::net::UnixListener as Plain, thread};

    use super::*;

    /// Each finds the socket of one that was killed; a socket that somebody answers at is nobody else's.
    #[tokio::test]
    async fn of_servers_that_begin_at_once_one_gets_the_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bitnet.sock");
        let runtime = tokio::runtime::Handle::current();
        for _ in 0..20 {
            drop(Plain::bind(&path).unwrap());
            let bound: Vec<io::Result<Listener>> = thread::scope(|scope| {
                let bind = || {
                    let _entered = runtime.enter();
                    Listener::bind_socket(path.to_str().unwrap())
                };
                let begun: Vec<_> = (0..6).map(|_| scope.spawn(bind)).collect();
                begun.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            let (mut listening, refused): (Vec<_>, Vec<_>) = bound.into_iter().partition(Result::is_ok);
            assert_eq!(listening.len(), 1, "{:?}", refused.iter().map(|one| one.as_ref().err()).collect::<Vec<_>>());
            assert!(refused.iter().all(|one| one.as_ref().is_err_and(|why| why.kind() == io::ErrorKind::AddrInUse)));
            UnixStream::connect(&path).unwrap();
            drop(listening.pop());
            assert!(!path.exists());
        }
    }
}

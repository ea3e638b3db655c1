//! Tells systemd how the service is: ready, alive, stopping (sd_notify(3),
//! `Type=notify` and `WatchdogSec=` of a unit). Without `NOTIFY_SOCKET` it tells
//! nobody. Never waits: a message that the supervisor does not take at once is
//! dropped, and the next look sends another.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The line to the supervisor, if there is one.
#[derive(Debug, Default)]
pub struct Supervisor(Option<(UnixDatagram, SocketAddr)>);

impl Supervisor {
    /// The supervisor that `NOTIFY_SOCKET` names; logs once when it cannot be
    /// reached.
    pub fn from_environment() -> Self {
        let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return Self::default() };
        match connect(&path) {
            Ok(line) => Self(Some(line)),
            Err(error) => {
                tracing::warn!(socket = %path.display(), %error, "the supervisor cannot be told how the service is");
                Self::default()
            }
        }
    }

    /// Everything is started.
    pub fn ready(&self) {
        self.tell("READY=1");
    }

    /// The service lives, and does what `status` says. To be called every
    /// second by what would stop if the service hung.
    pub fn alive(&self, status: &str) {
        self.tell(&format!("WATCHDOG=1\nSTATUS={status}"));
    }

    /// It is being stopped.
    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    fn tell(&self, message: &str) {
        if let Some((socket, address)) = &self.0 {
            // Full, or gone: said by the supervisor's own watchdog.
            let _ = socket.send_to_addr(message.as_bytes(), address);
        }
    }
}

fn connect(path: &OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(path)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer).expect("a message");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    #[test]
    fn a_supervisor_hears_all_and_a_deaf_one_holds_nobody_up() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notify");
        let name = format!("flatframe-test-{}", std::process::id());
        let abstract_name = SocketAddr::from_abstract_name(&name).expect("a name");
        for (listener, path) in [
            (UnixDatagram::bind(&path).expect("bound"), path.as_os_str().to_owned()),
            (UnixDatagram::bind_addr(&abstract_name).expect("bound"), format!("@{name}").into()),
        ] {
            let supervisor = Supervisor(Some(connect(&path).expect("reached")));
            supervisor.ready();
            supervisor.alive("2 cameras");
            supervisor.stopping();
            assert_eq!(received(&listener), "READY=1");
            assert_eq!(received(&listener), "WATCHDOG=1\nSTATUS=2 cameras");
            assert_eq!(received(&listener), "STOPPING=1");
            // Far more than its queue takes, and then nobody at all.
            (0..10_000).for_each(|_| supervisor.alive("still"));
            drop(listener);
            supervisor.alive("gone");
        }
        Supervisor::default().ready();
    }
}

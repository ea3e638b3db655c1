//! A wire with a delay, packet by packet, for kernels without netem: two
//! network interfaces (TUN) whose packets this process carries from one to the
//! other. The delay is latency alone: it limits no rate. Bounded: what does not
//! fit the queue is lost, as on a real wire.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;

/// Packets on their way in one direction: 1 s of 24 Mbit/s.
const MOST_PACKETS: usize = 2048;
/// Largest packet of the interfaces, in bytes (their MTU is 1500).
const PACKET_BYTES: usize = 2048;
/// `_IOW('T', 202, int)` of linux/if_tun.h.
const TUNSETIFF: libc::c_ulong = 0x4004_54CA;

/// Both interfaces.
pub struct Wire {
    ends: [Arc<File>; 2],
    delay_ms: Arc<AtomicU64>,
}

/// Packets are carried while it lives.
pub struct Carrying(Vec<JoinHandle<()>>);

impl Wire {
    /// Makes the interfaces, without delay and not yet carrying.
    ///
    /// # Errors
    /// When the system gives none.
    pub fn open(first: &str, second: &str) -> anyhow::Result<Self> {
        let ends = [interface(first)?, interface(second)?].map(Arc::new);
        Ok(Self { ends, delay_ms: Arc::default() })
    }

    /// Begins to carry packets.
    ///
    /// # Errors
    /// When the runtime cannot watch the interfaces.
    pub fn carry(&self) -> std::io::Result<Carrying> {
        let mut ways = Vec::new();
        for (from, to) in [(0, 1), (1, 0)] {
            // SAFETY: the file stays open and the same while the Arc in it lives.
            let from = unsafe { AsyncFd::register(self.ends[from].clone()) }?;
            let (to, delay_ms) = (self.ends[to].clone(), self.delay_ms.clone());
            ways.push(tokio::spawn(carry_way(from, to, delay_ms)));
        }
        Ok(Carrying(ways))
    }

    /// Every packet takes so long from now on, in each direction.
    pub fn set_delay(&self, delay: Duration) {
        self.delay_ms.store(delay.as_millis() as u64, Relaxed);
    }
}

impl Drop for Carrying {
    fn drop(&mut self) {
        for way in &self.0 {
            way.abort();
        }
    }
}

/// Opens a TUN interface without packet headers, non-blocking.
fn interface(name: &str) -> anyhow::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let device = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .context("open /dev/net/tun")?;
    // SAFETY: all zero is a valid ifreq: integers and arrays of them.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays 0.
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the request is an ifreq that lives through the call.
    if unsafe { libc::ioctl(device.as_raw_fd(), TUNSETIFF, &request) } != 0 {
        return Err(std::io::Error::last_os_error()).context("make a TUN interface");
    }
    Ok(device)
}

async fn carry_way(from: AsyncFd<Arc<File>>, to: Arc<File>, delay_ms: Arc<AtomicU64>) {
    let mut queue: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    let mut packet = [0; PACKET_BYTES];
    loop {
        let due = queue.front().map(|(due, _)| *due);
        tokio::select! {
            ready = from.readable() => {
                let Ok(mut ready) = ready else { return };
                match ready.get_inner().as_ref().read(&mut packet) {
                    Ok(bytes) => {
                        if queue.len() < MOST_PACKETS {
                            let delay = Duration::from_millis(delay_ms.load(Relaxed));
                            queue.push_back((Instant::now() + delay, packet[..bytes].to_vec()));
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => ready.clear_ready(),
                    // The interface is gone.
                    Err(_) => return,
                }
            }
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => {}
        }
        while queue.front().is_some_and(|(due, _)| *due <= Instant::now()) {
            if let Some((_, packet)) = queue.pop_front() {
                // A packet that the other side does not take is lost.
                let _ = (&*to).write(&packet);
            }
        }
    }
}

//! A V4L2 capture device: what it is, what it offers, and its buffers. The only
//! file of this source with `unsafe`. Chooses nothing and knows no camera.
//!
//! All but [`Streaming::take`] may take as long as the device likes: not for
//! threads that serve sockets.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use flatframe_shared::frame::PictureSize;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::kernel::{self, Buffer, Capability, Format, FormatEntry, IntervalEntry, RequestBuffers, SizeEntry};
use super::kernel::{BUF_TYPE_VIDEO_CAPTURE, MEMORY_MMAP, SHAPE_DISCRETE, StreamParameters};
use super::mode::{FourCc, Intervals, Sizes};

/// What to wait for: a picture, or the end of the device.
pub const EVENTS: Interest = Interest::READABLE.add(Interest::ERROR);
/// Entries of one list that are asked for: a device must not keep us for ever.
const MAX_ENTRIES: u32 = 64;

/// One call to the driver, again when a signal cut it short.
fn ioctl<T>(fd: RawFd, request: u64, argument: &mut T) -> io::Result<()> {
    loop {
        // SAFETY: every request is called with its own layout of `kernel`,
        // whose size it carries: the kernel touches nothing beyond `argument`,
        // and leaves integers there, which have no invalid values.
        if unsafe { libc::ioctl(fd, request as _, std::ptr::from_mut(argument)) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// What a device says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Name of the camera.
    pub card: String,
    /// Name of the driver.
    pub driver: String,
    /// Where it is plugged in.
    pub bus: String,
    /// Whether it gives pictures in buffers, one plane each.
    pub captures: bool,
}

/// What was agreed on with the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreed {
    /// Format of the pictures.
    pub format: FourCc,
    /// Their size.
    pub size: PictureSize,
    /// Bytes from row to row; 0 for compressed formats.
    pub stride: usize,
    /// Time per picture in seconds, as a fraction; `None` when the driver does
    /// not say.
    pub interval: Option<(u32, u32)>,
}

/// An open device.
#[derive(Debug)]
pub struct Device(File);

impl Device {
    /// Opens the device for reading without waiting.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(path: &Path) -> io::Result<Self> {
        // Buffers are queued by ioctl, which wants a device open for writing too.
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path).map(Self)
    }

    fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// What it is.
    ///
    /// # Errors
    /// When it is no video device.
    pub fn identity(&self) -> io::Result<Identity> {
        let mut it = Capability::default();
        ioctl(self.fd(), kernel::QUERYCAP, &mut it)?;
        let can = if it.all & kernel::CAP_DEVICE_CAPS != 0 { it.node } else { it.all };
        let wanted = kernel::CAP_VIDEO_CAPTURE | kernel::CAP_STREAMING;
        Ok(Identity {
            card: text(&it.card),
            driver: text(&it.driver),
            bus: text(&it.bus),
            captures: can & wanted == wanted,
        })
    }

    /// The formats that it offers, in its order.
    pub fn formats(&self) -> Vec<FourCc> {
        let entry = |index| {
            let mut it = FormatEntry { index, kind: BUF_TYPE_VIDEO_CAPTURE, ..Default::default() };
            ioctl(self.fd(), kernel::ENUM_FMT, &mut it).ok().map(|()| FourCc(it.format))
        };
        (0..MAX_ENTRIES).map_while(entry).collect()
    }

    /// The sizes that it offers in a format.
    pub fn sizes(&self, format: FourCc) -> Sizes {
        let mut exact = Vec::new();
        for index in 0..MAX_ENTRIES {
            let mut it = SizeEntry { index, format: format.0, ..Default::default() };
            if ioctl(self.fd(), kernel::ENUM_FRAMESIZES, &mut it).is_err() {
                break;
            }
            let [from_width, to_width, step_width, from_height, to_height, step_height] = it.sizes;
            if it.shape == SHAPE_DISCRETE {
                exact.push(PictureSize::new(it.sizes[0], it.sizes[1]));
            } else {
                return Sizes::Range {
                    from: PictureSize::new(from_width, from_height),
                    to: PictureSize::new(to_width, to_height),
                    step: (step_width, step_height),
                };
            }
        }
        Sizes::Exact(exact)
    }

    /// The times per picture that it offers for a format and size.
    pub fn intervals(&self, format: FourCc, size: PictureSize) -> Intervals {
        let mut exact = Vec::new();
        for index in 0..MAX_ENTRIES {
            let (width, height) = (size.width_px, size.height_px);
            let mut it = IntervalEntry { index, format: format.0, width, height, ..Default::default() };
            if ioctl(self.fd(), kernel::ENUM_FRAMEINTERVALS, &mut it).is_err() {
                break;
            }
            let [first, second, _] = it.intervals.map(|[numerator, denominator]| (numerator, denominator));
            if it.shape != SHAPE_DISCRETE {
                return Intervals::Range { shortest: first, longest: second };
            }
            exact.push(first);
        }
        Intervals::Exact(exact)
    }

    /// Asks for a format, a size and a time per picture. The driver may give
    /// others.
    ///
    /// # Errors
    /// What the system says; EBUSY when another program has the camera.
    pub fn agree(&self, format: FourCc, size: PictureSize, interval: Option<(u32, u32)>) -> io::Result<Agreed> {
        let (width, height, field) = (size.width_px, size.height_px, kernel::FIELD_NONE);
        let mut got =
            Format { kind: BUF_TYPE_VIDEO_CAPTURE, width, height, format: format.0, field, ..Default::default() };
        ioctl(self.fd(), kernel::S_FMT, &mut got)?;
        Ok(Agreed {
            format: FourCc(got.format),
            size: PictureSize::new(got.width, got.height),
            stride: got.stride as usize,
            interval: interval.and_then(|interval| self.agree_interval(interval)),
        })
    }

    /// A camera that cannot be asked for a rate is no worse for it.
    fn agree_interval(&self, (numerator, denominator): (u32, u32)) -> Option<(u32, u32)> {
        let interval = [numerator, denominator];
        let mut got = StreamParameters { kind: BUF_TYPE_VIDEO_CAPTURE, interval, ..Default::default() };
        ioctl(self.fd(), kernel::S_PARM, &mut got).ok()?;
        let [numerator, denominator] = got.interval;
        (numerator > 0 && denominator > 0).then_some((numerator, denominator))
    }

    /// Starts to capture into `count` buffers, or as many as the driver gives.
    ///
    /// # Errors
    /// What the system says.
    pub fn stream(self, count: u32) -> io::Result<Streaming> {
        let mut asked =
            RequestBuffers { count, kind: BUF_TYPE_VIDEO_CAPTURE, memory: MEMORY_MMAP, ..Default::default() };
        ioctl(self.fd(), kernel::REQBUFS, &mut asked)?;
        let mut streaming = Streaming { buffers: Vec::new(), device: self };
        for index in 0..asked.count {
            let mut buffer = blank(index);
            ioctl(streaming.device.fd(), kernel::QUERYBUF, &mut buffer)?;
            streaming.buffers.push(Mapping::new(&streaming.device, buffer.offset as u32, buffer.length as usize)?);
            ioctl(streaming.device.fd(), kernel::QBUF, &mut blank(index))?;
        }
        ioctl(streaming.device.fd(), kernel::STREAMON, &mut { BUF_TYPE_VIDEO_CAPTURE })?;
        Ok(streaming)
    }
}

fn blank(index: u32) -> Buffer {
    Buffer { index, kind: BUF_TYPE_VIDEO_CAPTURE, memory: MEMORY_MMAP, ..Default::default() }
}

/// A fixed field of the kernel, up to its first zero.
fn text(field: &[u8]) -> String {
    let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}

/// A device that captures.
#[derive(Debug)]
pub struct Streaming {
    // Unmapped before the device is closed.
    buffers: Vec<Mapping>,
    device: Device,
}

impl Streaming {
    /// With the runtime waiting for [`EVENTS`].
    ///
    /// # Errors
    /// When the system cannot wait for this device.
    pub fn watched(self) -> io::Result<AsyncFd<Self>> {
        // SAFETY: the file is open as long as `Streaming` lives, and always the
        // same one.
        unsafe { AsyncFd::register_with_interest(self, EVENTS) }.map_err(io::Error::from)
    }

    /// Shows `look` the bytes of the next picture, and whether the driver calls
    /// it whole; the buffer goes back to the driver at once. `false` when none
    /// is ready. Does not wait.
    ///
    /// # Errors
    /// What the system says; ENODEV when the camera is gone.
    pub fn take(&self, look: impl FnOnce(&[u8], bool)) -> io::Result<bool> {
        let mut buffer = blank(0);
        match ioctl(self.device.fd(), kernel::DQBUF, &mut buffer) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
        let mapping = self.buffers.get(buffer.index as usize).ok_or(io::ErrorKind::InvalidData)?;
        let used = (buffer.bytes_used as usize).min(mapping.bytes);
        // SAFETY: the mapping lives as long as `self`, and between DQBUF and
        // QBUF the driver does not write into it.
        let picture = unsafe { std::slice::from_raw_parts(mapping.start, used) };
        look(picture, buffer.flags & kernel::BUF_FLAG_ERROR == 0);
        ioctl(self.device.fd(), kernel::QBUF, &mut blank(buffer.index))?;
        Ok(true)
    }
}

impl AsRawFd for Streaming {
    fn as_raw_fd(&self) -> RawFd {
        self.device.fd()
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        // A device that is gone has stopped.
        let _ = ioctl(self.device.fd(), kernel::STREAMOFF, &mut { BUF_TYPE_VIDEO_CAPTURE });
    }
}

/// One buffer of the driver, readable here.
#[derive(Debug)]
struct Mapping {
    start: *const u8,
    bytes: usize,
}

// SAFETY: memory that is read through `Streaming` alone, from any thread.
unsafe impl Send for Mapping {}
// SAFETY: as above; nobody here writes into it.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(device: &Device, offset: u32, bytes: usize) -> io::Result<Self> {
        // SAFETY: a new mapping; the kernel checks offset and length.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ,
                libc::MAP_SHARED,
                device.fd(),
                offset as libc::off_t,
            )
        };
        if start == libc::MAP_FAILED {
            Err(io::Error::last_os_error())
        } else {
            Ok(Self { start: start.cast(), bytes })
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: what `new` has mapped, once.
        unsafe { libc::munmap(self.start.cast_mut().cast(), self.bytes) };
    }
}

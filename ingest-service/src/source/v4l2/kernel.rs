//! Layouts and request codes of the kernel's video interface, as in
//! `linux/videodev2.h`. The same on x86-64 and aarch64, and checked when this
//! is compiled. Calls nothing.
//!
//! Unions of the kernel stand here as their longest member of interest; the
//! rest is padding. Machines are little-endian.

use std::mem::size_of;

pub const BUF_TYPE_VIDEO_CAPTURE: u32 = 1;
pub const MEMORY_MMAP: u32 = 1;
pub const FIELD_NONE: u32 = 1;
pub const BUF_FLAG_ERROR: u32 = 0x40;
pub const CAP_VIDEO_CAPTURE: u32 = 0x1;
pub const CAP_STREAMING: u32 = 0x0400_0000;
pub const CAP_DEVICE_CAPS: u32 = 0x8000_0000;
/// A list gives one value in each entry; otherwise one range.
pub const SHAPE_DISCRETE: u32 = 1;

/// `_IOC` of `asm-generic/ioctl.h` for type 'V'; direction 1 writes, 2 reads, 3
/// does both.
const fn request<T>(direction: u64, number: u64) -> u64 {
    direction << 30 | (size_of::<T>() as u64) << 16 | (b'V' as u64) << 8 | number
}

pub const QUERYCAP: u64 = request::<Capability>(2, 0);
pub const ENUM_FMT: u64 = request::<FormatEntry>(3, 2);
pub const S_FMT: u64 = request::<Format>(3, 5);
pub const REQBUFS: u64 = request::<RequestBuffers>(3, 8);
pub const QUERYBUF: u64 = request::<Buffer>(3, 9);
pub const QBUF: u64 = request::<Buffer>(3, 15);
pub const DQBUF: u64 = request::<Buffer>(3, 17);
pub const STREAMON: u64 = request::<u32>(1, 18);
pub const STREAMOFF: u64 = request::<u32>(1, 19);
pub const S_PARM: u64 = request::<StreamParameters>(3, 22);
pub const ENUM_FRAMESIZES: u64 = request::<SizeEntry>(3, 74);
pub const ENUM_FRAMEINTERVALS: u64 = request::<IntervalEntry>(3, 75);

/// `v4l2_capability`
#[repr(C)]
#[derive(Debug, Default)]
pub struct Capability {
    pub driver: [u8; 16],
    pub card: [u8; 32],
    pub bus: [u8; 32],
    pub version: u32,
    /// Of all nodes of the device.
    pub all: u32,
    /// Of this node; valid with [`CAP_DEVICE_CAPS`].
    pub node: u32,
    pub reserved: [u32; 3],
}

/// `v4l2_fmtdesc`
#[repr(C)]
#[derive(Debug, Default)]
pub struct FormatEntry {
    pub index: u32,
    pub kind: u32,
    pub flags: u32,
    pub description: [u8; 32],
    pub format: u32,
    pub reserved: [u32; 4],
}

/// `v4l2_frmsizeenum`
#[repr(C)]
#[derive(Debug, Default)]
pub struct SizeEntry {
    pub index: u32,
    pub format: u32,
    pub shape: u32,
    /// Width and height; or width from, to, step, height from, to, step.
    pub sizes: [u32; 6],
    pub reserved: [u32; 2],
}

/// `v4l2_frmivalenum`
#[repr(C)]
#[derive(Debug, Default)]
pub struct IntervalEntry {
    pub index: u32,
    pub format: u32,
    pub width: u32,
    pub height: u32,
    pub shape: u32,
    /// The interval; or the shortest, the longest, the step. Each a numerator
    /// and a denominator, in seconds.
    pub intervals: [[u32; 2]; 3],
    pub reserved: [u32; 2],
}

/// `v4l2_format` with `v4l2_pix_format`
#[repr(C)]
#[derive(Debug, Default)]
pub struct Format {
    pub kind: u32,
    /// The kernel's union holds pointers.
    pub aligned: [usize; 0],
    pub width: u32,
    pub height: u32,
    pub format: u32,
    pub field: u32,
    pub stride: u32,
    pub image_bytes: u32,
    pub colours: [u32; 6],
    pub padding: [[u32; 19]; 2],
}

/// `v4l2_streamparm` with `v4l2_captureparm`
#[repr(C)]
#[derive(Debug, Default)]
pub struct StreamParameters {
    pub kind: u32,
    pub capability: u32,
    pub mode: u32,
    /// Seconds per picture: numerator and denominator.
    pub interval: [u32; 2],
    pub extended: u32,
    pub buffers: u32,
    pub reserved: [u32; 4],
    pub padding: [[u32; 20]; 2],
}

/// `v4l2_requestbuffers`
#[repr(C)]
#[derive(Debug, Default)]
pub struct RequestBuffers {
    pub count: u32,
    pub kind: u32,
    pub memory: u32,
    pub capabilities: u32,
    pub flags: [u8; 4],
}

/// `v4l2_buffer`
#[repr(C)]
#[derive(Debug, Default)]
pub struct Buffer {
    pub index: u32,
    pub kind: u32,
    pub bytes_used: u32,
    pub flags: u32,
    pub field: u32,
    /// `timeval`
    pub time: [isize; 2],
    pub timecode: [u32; 4],
    pub sequence: u32,
    pub memory: u32,
    /// Where it can be mapped, in the lower 32 bits.
    pub offset: usize,
    pub length: u32,
    pub reserved: u32,
    pub request: i32,
}

// What a C compiler makes of the kernel's header on 64-bit machines.
#[cfg(target_pointer_width = "64")]
const _: () = {
    assert!(QUERYCAP == 0x8068_5600 && ENUM_FMT == 0xC040_5602 && S_FMT == 0xC0D0_5605);
    assert!(REQBUFS == 0xC014_5608 && QUERYBUF == 0xC058_5609 && QBUF == 0xC058_560F && DQBUF == 0xC058_5611);
    assert!(STREAMON == 0x4004_5612 && STREAMOFF == 0x4004_5613 && S_PARM == 0xC0CC_5616);
    assert!(ENUM_FRAMESIZES == 0xC02C_564A && ENUM_FRAMEINTERVALS == 0xC034_564B);
    assert!(std::mem::offset_of!(Format, width) == 8 && std::mem::offset_of!(StreamParameters, interval) == 12);
    assert!(std::mem::offset_of!(Buffer, time) == 24 && std::mem::offset_of!(Buffer, offset) == 64);
};
const _: () = assert!(cfg!(target_endian = "little"));

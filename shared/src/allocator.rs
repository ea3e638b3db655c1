//! The process's allocator: the C library's is told once what it may keep, and
//! either is asked what it holds. Which service has which, and why:
//! docs/performance.md, "Allocators".

use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicIsize};

/// Blocks from this size on are a picture's or a connection's: they go back to
/// the system when they are freed, in bytes.
#[cfg(target_env = "gnu")]
const LARGE_BYTES: libc::c_int = 64 * 1024;
/// Most arenas: threads share them, so that what one has freed serves another.
#[cfg(target_env = "gnu")]
const MAX_ARENAS: libc::c_int = 2;

/// Tells glibc to give large blocks back to the system at once, and to keep few
/// arenas. Left alone it raises its threshold with the first picture freed, and
/// each thread's arena keeps the largest blocks it ever held, with small ones
/// that live longer between them. To be called before other threads run.
pub fn settle() {
    // SAFETY: `mallopt` sets numbers of the allocator and touches no memory of
    // ours; it may fail, and then the defaults stay.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, LARGE_BYTES);
        libc::mallopt(libc::M_ARENA_MAX, MAX_ARENAS);
    }
}

/// Bytes at one instant, of all threads together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AllocatorUse {
    /// Taken from the system: arenas and single large blocks; `None`: the
    /// allocator cannot say.
    pub held_bytes: Option<u64>,
    /// In blocks that the program uses.
    pub in_use_bytes: u64,
    /// Single large blocks, in both of the above; `None`: as above.
    pub mapped_bytes: Option<u64>,
}

/// What the allocator holds now; `None` with one that cannot say. Takes each
/// arena's lock in turn: for a look once a second, not for a frame.
pub fn current_use() -> Option<AllocatorUse> {
    if IS_COUNTED.load(Relaxed) {
        let in_use_bytes = u64::try_from(IN_USE_BYTES.load(Relaxed)).unwrap_or(0);
        return Some(AllocatorUse { held_bytes: None, in_use_bytes, mapped_bytes: None });
    }
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: takes nothing and returns numbers.
        let info = unsafe { libc::mallinfo2() };
        Some(AllocatorUse {
            held_bytes: Some((info.arena + info.hblkhd) as u64),
            in_use_bytes: (info.uordblks + info.hblkhd) as u64,
            mapped_bytes: Some(info.hblkhd as u64),
        })
    }
    #[cfg(not(target_env = "gnu"))]
    None
}

/// Whether the process allocates through [`Counted`].
static IS_COUNTED: AtomicBool = AtomicBool::new(false);
/// What it holds then.
static IN_USE_BYTES: AtomicIsize = AtomicIsize::new(0);

/// An allocator that does not tell what it gave, with a count of it. For
/// `#[global_allocator]`; what C libraries allocate is not in it.
#[derive(Debug)]
pub struct Counted<A>(pub A);

// SAFETY: every call goes to `A` as it came; the counters are no part of it.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Counted<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !IS_COUNTED.load(Relaxed) {
            IS_COUNTED.store(true, Relaxed);
        }
        // SAFETY: as the caller promises.
        count(unsafe { self.0.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        count(unsafe { self.0.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as the caller promises.
        let moved = unsafe { self.0.realloc(block, layout, size) };
        if !moved.is_null() {
            IN_USE_BYTES.fetch_add(size.wrapping_sub(layout.size()) as isize, Relaxed);
        }
        moved
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        IN_USE_BYTES.fetch_sub(layout.size() as isize, Relaxed);
        // SAFETY: as the caller promises.
        unsafe { self.0.dealloc(block, layout) }
    }
}

fn count(block: *mut u8, size: usize) -> *mut u8 {
    if !block.is_null() {
        IN_USE_BYTES.fetch_add(size as isize, Relaxed);
    }
    block
}

/// Gives what glibc holds and does not use back to the system. For the moment
/// when memory gets short, not for every day: it walks the whole heap. An
/// allocator behind [`Counted`] does so by itself, or not at all.
pub fn give_back() {
    // SAFETY: takes a number; pages in use are not touched.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_seen_in_use() {
        let before = current_use().expect("glibc says");
        // Far more than tests beside this one may free meanwhile; untouched, it costs nothing.
        let block = std::hint::black_box(vec![0u8; 512 << 20]);
        let with = current_use().expect("glibc says");
        assert!(with.in_use_bytes >= before.in_use_bytes + (256 << 20), "{before:?} {with:?} {}", block.len());
        let (held, mapped) = (with.held_bytes.expect("glibc says"), with.mapped_bytes.expect("glibc says"));
        assert!(held >= with.in_use_bytes && with.in_use_bytes >= mapped, "{with:?}");
    }

    #[test]
    fn what_goes_through_is_counted() {
        let allocator = Counted(std::alloc::System);
        let held = || IN_USE_BYTES.load(Relaxed);
        let layout = Layout::from_size_align(1000, 8).expect("a layout");
        // `alloc` is left out: it would tell the test beside this that all is counted.
        // SAFETY: blocks are freed with the layout that they have.
        unsafe {
            let (one, other) = (allocator.alloc_zeroed(layout), allocator.alloc_zeroed(layout));
            assert_eq!(held(), 2000);
            let one = allocator.realloc(one, layout, 300);
            assert_eq!(held(), 1300);
            allocator.dealloc(one, Layout::from_size_align(300, 8).expect("a layout"));
            allocator.dealloc(other, layout);
        }
        assert_eq!(held(), 0);
    }
}

//! The C library's allocator: told once what it may keep, and asked what it
//! holds. Why this one: docs/performance.md, "Allocators".

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

/// Bytes at one instant, of all arenas together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AllocatorUse {
    /// Taken from the system: arenas and single large blocks.
    pub held_bytes: u64,
    /// In blocks that the program uses.
    pub in_use_bytes: u64,
    /// Single large blocks, in both of the above.
    pub mapped_bytes: u64,
}

/// What the allocator holds now; `None` with an allocator that cannot say. Takes
/// each arena's lock in turn: for a look once a second, not for a frame.
pub fn current_use() -> Option<AllocatorUse> {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: takes nothing and returns numbers.
        let info = unsafe { libc::mallinfo2() };
        Some(AllocatorUse {
            held_bytes: (info.arena + info.hblkhd) as u64,
            in_use_bytes: (info.uordblks + info.hblkhd) as u64,
            mapped_bytes: info.hblkhd as u64,
        })
    }
    #[cfg(not(target_env = "gnu"))]
    None
}

/// Gives what is held and not in use back to the system. For the moment when
/// memory gets short, not for every day: it walks the whole heap.
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
        let block = vec![1u8; 32 << 20];
        let with = current_use().expect("glibc says");
        assert!(with.in_use_bytes >= before.in_use_bytes + (16 << 20), "{before:?} {with:?} {}", block.len());
        assert!(with.held_bytes >= with.in_use_bytes && with.in_use_bytes >= with.mapped_bytes, "{with:?}");
    }
}

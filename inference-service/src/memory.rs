//! How the allocator treats the tensors between the layers of a model: it keeps
//! them. What the service may take in all: [`crate::budget`].

/// Blocks below this size are reused and not given back, in bytes. glibc takes
/// no more; a tensor of 16 channels reaches it at inputs of about 1400x1400.
#[cfg(target_env = "gnu")]
const REUSED_BYTES: libc::c_int = 32 << 20;
/// Free memory at the end of a heap that is kept for the next run, in bytes.
#[cfg(target_env = "gnu")]
const KEPT_BYTES: libc::c_int = 64 << 20;

/// Tells glibc to reuse the memory of tensors. Left alone it asks the system for
/// each large one and gives it back after use, run after run; the pages are
/// then touched for the first time every time. To be called before other
/// threads run. What is kept is what was live at once, which the budget counts.
pub fn settle_allocator() {
    // SAFETY: `mallopt` sets numbers of the allocator and touches no memory of
    // ours; it may fail, and then the defaults stay.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, REUSED_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_BYTES);
    }
}

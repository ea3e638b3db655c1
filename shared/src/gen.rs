//! Code generated from `proto/`, committed; `tests/generated.rs` keeps it true.

/// `flatframe.v1`.
pub mod v1 {
    include!("gen/flatframe.v1.rs");
}

/// The descriptors of `flatframe.v1`, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!("gen/flatframe.v1.bin");

//! The committed code in `shared/src/gen` is what the proto files give.
//!
//! `UPDATE_GENERATED=1 cargo test -p flatframe-shared --test generated` writes
//! it anew. protox parses the files, so no protoc is needed.

use std::path::{Path, PathBuf};

const FILES: [&str; 4] = [
    "flatframe/v1/frames.proto",
    "flatframe/v1/results.proto",
    "flatframe/v1/detect.proto",
    "flatframe/v1/admin.proto",
];

fn generate(into: &Path) {
    let protos = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto");
    let descriptors = protox::compile(FILES, [&protos]).expect("the proto files compile");
    tonic_prost_build::configure()
        .out_dir(into)
        .file_descriptor_set_path(into.join("flatframe.v1.bin"))
        // Pictures are shared, not copied, between the socket and the decoder.
        .bytes(".flatframe.v1.Frame.jpeg")
        .bytes(".flatframe.v1.DetectRequest.jpeg")
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors.clone())
        .expect("code is generated");
    let set = prost::Message::encode_to_vec(&descriptors);
    std::fs::write(into.join("flatframe.v1.bin"), set).expect("write descriptors");
}

#[test]
fn committed_code_is_current() {
    let committed = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/gen");
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        generate(&committed);
        return;
    }
    let fresh = tempfile::tempdir().expect("temporary folder");
    generate(fresh.path());
    for name in ["flatframe.v1.rs", "flatframe.v1.bin"] {
        let want = std::fs::read(fresh.path().join(name)).expect("generated file");
        let have = std::fs::read(committed.join(name)).unwrap_or_default();
        assert!(
            want == have,
            "shared/src/gen/{name} is not what proto/ gives: run UPDATE_GENERATED=1 cargo test -p flatframe-shared --test generated"
        );
    }
}

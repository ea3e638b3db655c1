//! What the binary carries: the manifests of this repository, and the weights
//! of those that say `embedded = true`.
//!
//! Adding a model is one line here and one manifest in `models/`.

/// Manifests by name.
const MANIFESTS: &[(&str, &str)] = &[
    ("flatface-det", include_str!("../../../models/flatface-det.toml")),
    ("flatface-gender", include_str!("../../../models/flatface-gender.toml")),
    ("gender_dlib", include_str!("../../../models/gender_dlib.toml")),
    ("gender_xception", include_str!("../../../models/gender_xception.toml")),
    ("ultraface_rfb320", include_str!("../../../models/ultraface_rfb320.toml")),
    ("ultraface_slim320", include_str!("../../../models/ultraface_slim320.toml")),
    ("yunet_n", include_str!("../../../models/yunet_n.toml")),
    ("yunet_s", include_str!("../../../models/yunet_s.toml")),
];

/// Weights by file name.
const WEIGHTS: &[(&str, &[u8])] = &[
    ("flatface-det.onnx", include_bytes!("../../../models/flatface-det.onnx")),
    ("flatface-gender.onnx", include_bytes!("../../../models/flatface-gender.onnx")),
];

/// The embedded manifest of that name.
pub fn manifest(name: &str) -> Option<&'static str> {
    find(MANIFESTS, name)
}

/// Names of the embedded manifests.
pub fn manifest_names() -> impl Iterator<Item = &'static str> {
    MANIFESTS.iter().map(|(name, _)| *name)
}

/// The embedded weights of that file name.
pub fn weights(file: &str) -> Option<&'static [u8]> {
    find(WEIGHTS, file)
}

fn find<T: ?Sized>(table: &[(&str, &'static T)], key: &str) -> Option<&'static T> {
    table.iter().find(|(name, _)| *name == key).map(|(_, value)| *value)
}

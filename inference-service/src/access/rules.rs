//! What each call needs: the one table. A method that is not in it is refused,
//! so that a new one is open to nobody by mistake; a test compares it with the
//! descriptors.

use serde::{Deserialize, Serialize};

/// What a token allows; each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Results, counts, incidents, and the state of the service; faces in a
    /// picture that the client brings.
    Read,
    /// Pictures of cameras.
    Snapshot,
    /// Changes.
    Admin,
}

impl Role {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Snapshot => "snapshot",
            Self::Admin => "admin",
        }
    }
}

/// What a call needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing: probes have no token.
    Nothing,
    /// A camera's certificate.
    Camera,
    /// A token with this role or more.
    Role(Role),
}

/// Each method by its path.
pub const RULES: &[(&str, Need)] = &[
    ("/flatframe.v1.FrameService/Publish", Need::Camera),
    ("/flatframe.v1.DetectService/Detect", Need::Role(Role::Read)),
    ("/flatframe.v1.ResultService/Watch", Need::Role(Role::Read)),
    ("/flatframe.v1.ResultService/GetLatest", Need::Role(Role::Read)),
    ("/flatframe.v1.ResultService/ListCameras", Need::Role(Role::Read)),
    ("/flatframe.v1.ResultService/QueryResults", Need::Role(Role::Read)),
    ("/flatframe.v1.ResultService/QueryCounts", Need::Role(Role::Read)),
    ("/flatframe.v1.ResultService/WatchIncidents", Need::Role(Role::Read)),
    ("/flatframe.v1.ResultService/GetSnapshot", Need::Role(Role::Snapshot)),
    ("/flatframe.v1.ResultService/WatchSnapshots", Need::Role(Role::Snapshot)),
    ("/flatframe.v1.ResultService/ResetOccupancy", Need::Role(Role::Admin)),
    ("/flatframe.v1.AdminService/GetResources", Need::Role(Role::Read)),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Need::Role(Role::Read)),
    ("/grpc.health.v1.Health/Check", Need::Nothing),
    ("/grpc.health.v1.Health/Watch", Need::Nothing),
];

/// What the method at `path` needs; `None`: there is no rule for it.
pub fn need(path: &str) -> Option<Need> {
    RULES.iter().find(|(ruled, _)| *ruled == path).map(|(_, need)| *need)
}

#[cfg(test)]
mod tests {
    use flatframe_shared::r#gen::DESCRIPTORS;
    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    #[test]
    fn every_method_has_a_rule_and_every_rule_a_method() {
        let mut methods = Vec::new();
        for descriptors in
            [DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET, tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET]
        {
            let set = FileDescriptorSet::decode(descriptors).expect("descriptors");
            for file in set.file {
                for service in &file.service {
                    let named = |method: &str| format!("/{}.{}/{method}", file.package(), service.name());
                    methods.extend(service.method.iter().map(|method| named(method.name())));
                }
            }
        }
        methods.sort();
        let mut ruled: Vec<_> = RULES.iter().map(|(path, _)| path.to_string()).collect();
        ruled.sort();
        assert_eq!(methods, ruled);
    }

    #[test]
    fn only_probes_need_nothing_and_pictures_need_more_than_results() {
        for (path, need) in RULES {
            let is_probe = path.starts_with("/grpc.health.v1.");
            assert_eq!(*need == Need::Nothing, is_probe, "{path}");
            if path.contains("Snapshot") {
                assert_eq!(*need, Need::Role(Role::Snapshot), "{path}");
            }
        }
        assert!(Role::Read < Role::Snapshot && Role::Snapshot < Role::Admin);
        assert_eq!(need("/flatframe.v1.ResultService/watch"), None);
        assert_eq!(need("/flatframe.v1.ResultService//Watch"), None);
    }
}

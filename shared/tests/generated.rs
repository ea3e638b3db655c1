//! The committed code in `shared/src/gen`, and the messages that the page
//! knows, are what the proto files give.
//!
//! `UPDATE_GENERATED=1 cargo test -p flatframe-shared --test generated` writes
//! it anew. protox parses the files, so no protoc is needed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

const FILES: [&str; 4] = [
    "flatframe/v1/frames.proto",
    "flatframe/v1/results.proto",
    "flatframe/v1/detect.proto",
    "flatframe/v1/admin.proto",
];

/// What the page may ask.
const PAGE_CALLS: [&str; 7] =
    ["GetResources", "GetSnapshot", "ListCameras", "QueryCounts", "ResetOccupancy", "WatchIncidents", "WatchSnapshots"];

fn generate(into: &Path, page: &Path) {
    let protos = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto");
    let descriptors = protox::compile(FILES, [&protos]).expect("the proto files compile");
    tonic_prost_build::configure()
        .out_dir(into)
        .file_descriptor_set_path(into.join("flatframe.v1.bin"))
        // Pictures are shared, not copied, between the socket and the decoder, or from a camera to
        // its viewers.
        .bytes(".flatframe.v1.Frame.jpeg")
        .bytes(".flatframe.v1.DetectRequest.jpeg")
        .bytes(".flatframe.v1.Snapshot.jpeg")
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors.clone())
        .expect("code is generated");
    let set = prost::Message::encode_to_vec(&descriptors);
    std::fs::write(into.join("flatframe.v1.bin"), set).expect("write descriptors");
    std::fs::write(page.join("schema.js"), schema(&descriptors)).expect("write the page's messages");
}

/// Messages and enums that the page's services name, for `protobuf.js`.
fn schema(descriptors: &FileDescriptorSet) -> String {
    let short = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let files = || descriptors.file.iter();
    let messages: BTreeMap<_, _> =
        files().flat_map(|file| &file.message_type).map(|message| (message.name().to_owned(), message)).collect();
    let methods = files().flat_map(|file| &file.service).flat_map(|service| &service.method);
    let methods = methods.filter(|method| PAGE_CALLS.contains(&method.name()));
    let mut open: Vec<_> =
        methods.flat_map(|method| [short(method.input_type()), short(method.output_type())]).collect();
    let (mut reached, mut enums) = (BTreeSet::new(), BTreeSet::new());
    while let Some(name) = open.pop() {
        for field in &messages[&name].field {
            match field.r#type() {
                Type::Message if !reached.contains(&short(field.type_name())) => open.push(short(field.type_name())),
                Type::Enum => _ = enums.insert(short(field.type_name())),
                _ => {}
            }
        }
        reached.insert(name);
    }
    let mut text =
        "// Generated from proto/flatframe/v1 by shared/tests/generated.rs: the fields of messages as number, name, type\n// (none: string), and * for many, ? for one or none.\n\
                    export const messages = {\n"
            .to_owned();
    for name in &reached {
        let fields: Vec<_> = messages[name].field.iter().map(|field| entry(messages[name], field)).collect();
        writeln!(text, "{name}: '{}',", fields.join(",")).expect("text");
    }
    text += "};\n// Names by number, after what they all begin with.\nexport const enums = {\n";
    for of in files().flat_map(|file| &file.enum_type).filter(|of| enums.contains(of.name())) {
        let names: Vec<_> = of.value.iter().map(|value| value.name()).collect();
        assert!(of.value.iter().zip(0..).all(|(value, number)| value.number() == number), "{} has holes", of.name());
        let prefix = names[0].strip_suffix("UNSPECIFIED").expect("the first value of an enum is UNSPECIFIED");
        let rest: Vec<_> =
            names.iter().map(|name| name.strip_prefix(prefix).expect("values begin with their enum's name")).collect();
        writeln!(text, "{}: '{prefix} {}',", of.name(), rest.join(" ")).expect("text");
    }
    text + "};\n"
}

fn entry(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let of = field.type_name().rsplit('.').next().unwrap_or_default();
    let kind = match field.r#type() {
        Type::Uint32 => "uint32".to_owned(),
        Type::Uint64 => "uint64".to_owned(),
        Type::Int64 => "int64".to_owned(),
        Type::Bool => "bool".to_owned(),
        Type::String => "string".to_owned(),
        Type::Bytes => "bytes".to_owned(),
        Type::Float => "float".to_owned(),
        Type::Double => "double".to_owned(),
        Type::Message | Type::Enum => of.to_owned(),
        other => panic!("protobuf.js knows no {other:?}: {}.{}", message.name(), field.name()),
    };
    let label = match field.label() {
        Label::Repeated => " *",
        _ if field.proto3_optional() => " ?",
        _ => "",
    };
    // The most common type goes without saying: the page has a limit in bytes.
    let kind = if kind == "string" && label.is_empty() { String::new() } else { format!(" {kind}{label}") };
    format!("{} {}{kind}", field.number(), field.name())
}

#[test]
fn committed_code_is_current() {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let (committed, page) = (here.join("src/gen"), here.join("../inference-service/page"));
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        generate(&committed, &page);
        return;
    }
    let fresh = tempfile::tempdir().expect("temporary folder");
    generate(fresh.path(), fresh.path());
    for (folder, name) in [(&committed, "flatframe.v1.rs"), (&committed, "flatframe.v1.bin"), (&page, "schema.js")] {
        let want = std::fs::read(fresh.path().join(name)).expect("generated file");
        let have = std::fs::read(folder.join(name)).unwrap_or_default();
        assert!(
            want == have,
            "{name} in {} is not what proto/ gives: run UPDATE_GENERATED=1 cargo test -p flatframe-shared --test generated",
            folder.display()
        );
    }
}

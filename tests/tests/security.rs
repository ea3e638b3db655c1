//! Who may call what: every method with every kind of credentials, and the
//! limits of one identity. Real services, real TLS, real tokens.

use std::time::Duration;

use e2e::camera::{PATIENCE, RawCamera, hello};
use e2e::secured::{Secrets, refused, results};
use e2e::wait::{answered, until};
use flatframe_shared::r#gen::v1;
use flatframe_shared::refusals::Reason;
use flatframe_shared::renewal::NamedFile;
use inference_service::access::rules::{RULES, Role};
use inference_service::access::tokens::TokenFile;
use inference_service::certs::Issued;
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

/// Who may call a method.
#[derive(Clone, Copy, PartialEq)]
enum Who {
    Anyone,
    Cameras,
    /// Tokens of this role and those above.
    From(Role),
}

/// What they are for people, a certificate, a token, and the role it gives.
type Credentials<'a> = (&'a str, Option<&'a Issued>, Option<&'a str>, Option<Role>);

/// As docs/security.md has it; not taken from the service's own table.
const METHODS: [(&str, Who); 15] = [
    ("/flatframe.v1.FrameService/Publish", Who::Cameras),
    ("/flatframe.v1.DetectService/Detect", Who::From(Role::Read)),
    ("/flatframe.v1.ResultService/Watch", Who::From(Role::Read)),
    ("/flatframe.v1.ResultService/GetLatest", Who::From(Role::Read)),
    ("/flatframe.v1.ResultService/ListCameras", Who::From(Role::Read)),
    ("/flatframe.v1.ResultService/QueryResults", Who::From(Role::Read)),
    ("/flatframe.v1.ResultService/QueryCounts", Who::From(Role::Read)),
    ("/flatframe.v1.ResultService/WatchIncidents", Who::From(Role::Read)),
    ("/flatframe.v1.ResultService/GetSnapshot", Who::From(Role::Snapshot)),
    ("/flatframe.v1.ResultService/WatchSnapshots", Who::From(Role::Snapshot)),
    ("/flatframe.v1.ResultService/ResetOccupancy", Who::From(Role::Admin)),
    ("/flatframe.v1.AdminService/GetResources", Who::From(Role::Read)),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Who::From(Role::Read)),
    ("/grpc.health.v1.Health/Check", Who::Anyone),
    ("/grpc.health.v1.Health/Watch", Who::Anyone),
];

/// Calls `path` with an empty message; the status that it was refused with, or
/// how it was answered. A stream that opens and says nothing is an answer.
async fn call(channel: Channel, path: &'static str, token: Option<&str>) -> Code {
    let asked = async {
        let mut client = Grpc::new(channel);
        client.ready().await.map_err(|error| Status::internal(error.to_string()))?;
        let mut request = Request::new(tokio_stream::once(()));
        if let Some(token) = token {
            let shown = format!("Bearer {token}").parse().expect("a header");
            request.metadata_mut().insert("authorization", shown);
        }
        let path = http::uri::PathAndQuery::from_static(path);
        let answer = client.streaming(request, path, ProstCodec::<(), ()>::default()).await?;
        let first = tokio::time::timeout(Duration::from_millis(200), answer.into_inner().message()).await;
        first.unwrap_or(Ok(None)).map(|_| ())
    };
    match tokio::time::timeout(PATIENCE, asked).await.expect("answered in time") {
        Ok(()) => Code::Ok,
        Err(status) => status.code(),
    }
}

#[tokio::test]
async fn every_method_with_every_kind_of_credentials() {
    let secrets = Secrets::new().expect("made");
    let token = |name: &str, role| secrets.token(name, role).expect("a token");
    let [read, snapshot, admin] =
        [("r", Role::Read), ("s", Role::Snapshot), ("a", Role::Admin)].map(|(n, r)| token(n, r));
    let expired = secrets.expired_token("old", Role::Admin).expect("a token");
    let elsewhere = Secrets::new().expect("made").token("a", Role::Admin).expect("a token of another service");
    let door = secrets.cameras("door", &["door"]).expect("a certificate");
    let service = secrets.start(|config| config.auth.calls_per_s = 1000.0).await.expect("starts");
    let mut listed: Vec<_> = RULES.iter().map(|(path, _)| *path).collect();
    let mut tested: Vec<_> = METHODS.iter().map(|(path, _)| *path).collect();
    listed.sort();
    tested.sort();
    assert_eq!(tested, listed, "each method is tested, and nothing else");

    let (without, with) = (None, Some(&door));
    let shown: [Credentials<'_>; 8] = [
        ("nothing", without, None, None),
        ("a wrong token", without, Some("flatframe_wrong"), None),
        ("an expired token", without, Some(&expired), None),
        ("a token of another service", without, Some(&elsewhere), None),
        ("a camera's certificate", with, None, None),
        ("the role read", without, Some(&read), Some(Role::Read)),
        ("the role snapshot", without, Some(&snapshot), Some(Role::Snapshot)),
        ("the role admin", without, Some(&admin), Some(Role::Admin)),
    ];
    for (what, certificate, token, role) in shown {
        let channel = secrets.connect(&service, certificate).await.expect("connects");
        for (path, who) in METHODS {
            let code = call(channel.clone(), path, token).await;
            let expected = match who {
                Who::Anyone => None,
                Who::Cameras => certificate.is_none().then_some(Code::Unauthenticated),
                Who::From(needed) => match role {
                    None => Some(Code::Unauthenticated),
                    Some(role) => (role < needed).then_some(Code::PermissionDenied),
                },
            };
            let refused = [Code::Unauthenticated, Code::PermissionDenied].contains(&code);
            assert_eq!(refused.then_some(code), expected, "{path} with {what}: {code:?}");
            assert_ne!(code, Code::Unimplemented, "{path}");
            assert_ne!(code, Code::Internal, "{path}");
        }
        let code = call(channel, "/flatframe.v1.ResultService/NotThere", token).await;
        assert_eq!(code, Code::Unimplemented, "a method without a rule with {what}");
    }
    // Twelve methods ask for a token or for a role; each refusal is counted.
    let of_clients = METHODS.iter().filter(|(_, who)| matches!(who, Who::From(_))).count() as u64;
    for (reason, count) in [
        (Reason::TokenMissing, 2 * of_clients),
        (Reason::TokenUnknown, 2 * of_clients),
        (Reason::TokenExpired, of_clients),
        (Reason::RoleTooLow, 3 + 1),
        (Reason::CertificateMissing, 7),
    ] {
        assert_eq!(refused(&service, reason), count, "{}", reason.as_str());
    }
    service.stop().await.expect("stops");
}

#[tokio::test]
async fn a_camera_publishes_as_itself_alone() {
    let secrets = Secrets::new().expect("made");
    let both = secrets.cameras("pi", &["door", "yard"]).expect("a certificate");
    let nobody = secrets.cameras("nobody", &[]).expect("a certificate");
    let service = secrets.start(|_| {}).await.expect("starts");
    let channel = secrets.connect(&service, Some(&both)).await.expect("connects");
    let (_door, _) = RawCamera::open(channel.clone(), hello("door", 1)).await.expect("is welcome");
    let (_yard, _) = RawCamera::open(channel.clone(), hello("yard", 2)).await.expect("is welcome");
    for camera in ["hall", "Door", "door.yard", "doo"] {
        let status = RawCamera::open(channel.clone(), hello(camera, 3)).await.err().expect("is refused");
        assert_eq!(status.code(), Code::PermissionDenied, "{camera}: {status:?}");
        assert!(status.message().contains(camera) && status.message().contains("door, yard"), "{status:?}");
    }
    assert_eq!(refused(&service, Reason::CameraForeign), 4);
    let channel = secrets.connect(&service, Some(&nobody)).await.expect("connects");
    let status = RawCamera::open(channel, hello("door", 4)).await.err().expect("is refused");
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    assert_eq!(service.sources.cameras.len(), 2, "who is refused leaves nothing behind");
    service.stop().await.expect("stops");
}

/// Whoever lost a token keeps no stream, and who got one need not wait for a
/// restart.
#[tokio::test]
async fn tokens_come_and_go_while_it_runs() {
    let secrets = Secrets::new().expect("made");
    let (first, stays) = (secrets.token("first", Role::Read), secrets.token("stays", Role::Read));
    let (first, stays) = (first.expect("a token"), stays.expect("a token"));
    let service = secrets.start(|_| {}).await.expect("starts");
    let connect = async || secrets.connect(&service, None).await.expect("connects");
    let mut leaving = results(connect().await, &first).expect("a client");
    let mut staying = results(connect().await, &stays).expect("a client");
    let mut cut = leaving.watch(v1::WatchRequest::default()).await.expect("opens").into_inner();
    let mut goes_on = staying.watch(v1::WatchRequest::default()).await.expect("opens").into_inner();

    secrets.remove_token("first").expect("removed");
    let ended = tokio::time::timeout(PATIENCE, cut.message()).await.expect("ends in time");
    assert!(ended.is_err(), "the stream of a token that is gone: {ended:?}");
    let status = leaving.list_cameras(v1::ListCamerasRequest {}).await.expect_err("is refused");
    assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");

    let second = secrets.token("second", Role::Read).expect("a token");
    let channel = connect().await;
    answered("the new token is known", PATIENCE, async || {
        results(channel.clone(), &second).expect("a client").list_cameras(v1::ListCamerasRequest {}).await.ok()
    })
    .await;
    let quiet = tokio::time::timeout(Duration::from_millis(200), goes_on.message()).await;
    assert!(quiet.is_err(), "the stream of a token that stays ended: {quiet:?}");

    // A file that cannot be used changes nothing.
    let (before, failed) = (std::fs::read(secrets.tokens()).expect("read"), || {
        service.sources.security.authority.renewals().map_or(0, |(_, failed)| failed)
    });
    // At once: a file that is cut off is one without tokens.
    let broken = secrets.tokens().with_extension("broken");
    std::fs::write(&broken, "nonsense").expect("written");
    std::fs::rename(&broken, secrets.tokens()).expect("exchanged");
    until("the broken file is noticed", PATIENCE, || failed() == 1).await;
    staying.list_cameras(v1::ListCamerasRequest {}).await.expect("is let in still");
    std::fs::write(secrets.tokens(), before).expect("written");
    service.stop().await.expect("stops");
}

/// A stream that a token opened ends with the token as it was then: when its
/// time is over, also though nobody touches the file, when it is given less, and
/// when another one is made under its name.
#[tokio::test]
async fn streams_end_with_the_token_that_opened_them() {
    let secrets = Secrets::new().expect("made");
    let names = ["ends", "lowered", "made-anew", "stays"];
    let tokens = names.map(|name| secrets.token(name, Role::Snapshot).expect("a token"));
    let service = secrets.start(|_| {}).await.expect("starts");
    let mut watches = Vec::new();
    for (name, token) in names.into_iter().zip(&tokens) {
        let channel = secrets.connect(&service, None).await.expect("connects");
        let mut client = results(channel, token).expect("a client");
        let watch = client.watch(v1::WatchRequest::default()).await.expect("opens").into_inner();
        watches.push((name, client, watch));
    }
    let named = NamedFile::new("tokens", secrets.tokens());
    let mut file = TokenFile::read(&named).expect("can be read");
    // Added for its time alone, as the file has it: good when the change is seen, and over soon after.
    file.add("clock", Role::Read, Some(Duration::from_secs(3))).expect("added");
    let soon = file.token.pop().expect("was added").expires;
    for entry in &mut file.token {
        match entry.name.as_str() {
            "ends" => entry.expires = soon.clone(),
            "lowered" => entry.role = Role::Read,
            _ => {}
        }
    }
    file.token.retain(|entry| entry.name != "made-anew");
    file.add("made-anew", Role::Snapshot, None).expect("added");
    file.write(&named.path).expect("written");
    for (name, _, watch) in &mut watches {
        let name = *name;
        if name == "stays" {
            let quiet = tokio::time::timeout(Duration::from_millis(200), watch.message()).await;
            assert!(quiet.is_err(), "the stream of a token that stays ended: {quiet:?}");
        } else {
            let ended = tokio::time::timeout(PATIENCE, watch.message()).await.expect(name);
            assert!(ended.is_err(), "{name}: {ended:?}");
        }
    }
    drop(watches);
    service.stop().await.expect("stops");
}

#[tokio::test]
async fn one_identity_gets_so_many_connections_and_calls() {
    let secrets = Secrets::new().expect("made");
    let token = secrets.token("busy", Role::Read).expect("a token");
    let other = secrets.token("other", Role::Read).expect("a token");
    let service = secrets
        .start(|config| (config.auth.max_connections, config.auth.calls_per_s) = (2, 1.0))
        .await
        .expect("starts");
    let list = async |channel: &Channel, token: &str| {
        let asked = results(channel.clone(), token).expect("a client").list_cameras(v1::ListCamerasRequest {}).await;
        asked.map(|_| ()).map_err(|status| (status.code(), status.message().to_owned()))
    };
    let connect = async || secrets.connect(&service, None).await.expect("connects");
    let first = connect().await;
    // Two at once, then one in a second: less than it asks for.
    list(&first, &token).await.expect("the first");
    let (code, message) = answered("it calls too often", PATIENCE, async || list(&first, &token).await.err()).await;
    assert!(code == Code::ResourceExhausted && message.contains("auth.calls_per_s"), "{code:?} {message}");
    assert!(refused(&service, Reason::TooManyCalls) >= 1);
    list(&first, &other).await.expect("another's calls are its own");

    let second = connect().await;
    answered("a call on a second connection", PATIENCE, async || list(&second, &token).await.ok()).await;
    let third = connect().await;
    let message = answered("a third connection is refused", PATIENCE, async || {
        let (_, message) = list(&third, &token).await.expect_err("one too many");
        message.contains("auth.max_connections").then_some(message)
    })
    .await;
    assert!(message.contains("token busy has 2 connections"), "{message}");
    assert!(refused(&service, Reason::TooManyConnections) >= 1);
    drop(first);
    answered("its place is free", PATIENCE, async || list(&third, &token).await.ok()).await;
    service.stop().await.expect("stops");
}
